libfinemesh_la_SOURCES += \
	src/job/check.c src/job/check.h \
	src/job/effective.c src/job/effective.h \
	src/job/job.c src/job/job.h \
	src/job/keys.c src/job/keys.h
