libfinemesh_la_SOURCES += \
	src/job/assemble.c src/job/assemble.h \
	src/job/check.c src/job/check.h \
	src/job/cmd_convert.c src/job/cmd_convert.h \
	src/job/cmd_eval.c src/job/cmd_eval.h \
	src/job/cmd_export.c src/job/cmd_export.h \
	src/job/cmd_generate.c src/job/cmd_generate.h \
	src/job/cmd_inspect.c src/job/cmd_inspect.h \
	src/job/cmd_load.c src/job/cmd_load.h \
	src/job/cmd_run.c src/job/cmd_run.h \
	src/job/cmd_tokenize.c src/job/cmd_tokenize.h \
	src/job/effective.c src/job/effective.h \
	src/job/hf_model.c \
	src/job/inputs.c src/job/inputs.h \
	src/job/job.c src/job/job.h \
	src/job/keys.c src/job/keys.h \
	src/job/memory.c src/job/memory.h \
	src/job/placing.c src/job/placing.h \
	src/job/version.c src/job/version.h
