libfinemesh_la_SOURCES += \
	src/job/check.c src/job/check.h \
	src/job/effective.c src/job/effective.h \
	src/job/job.c src/job/job.h \
	src/job/keys.c src/job/keys.h \
	src/job/assemble.c src/job/assemble.h \
	src/job/cmd_run.c src/job/cmd_run.h \
	src/job/memory.c src/job/memory.h
