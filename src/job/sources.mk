libfinemesh_la_SOURCES += \
	src/job/assemble.c src/job/assemble.h \
	src/job/check.c src/job/check.h \
	src/job/cmd_convert.c src/job/cmd_convert.h \
	src/job/cmd_eval.c src/job/cmd_eval.h \
	src/job/cmd_export.c src/job/cmd_export.h \
	src/job/cmd_generate.c src/job/cmd_generate.h \
	src/job/cmd_inspect.c src/job/cmd_inspect.h \
	src/job/cmd_load.c src/job/cmd_load.h \
	src/job/cmd_reshard.c src/job/cmd_reshard.h \
	src/job/cmd_run.c src/job/cmd_run.h \
	src/job/cmd_tokenize.c src/job/cmd_tokenize.h \
	src/job/cmd_verify.c src/job/cmd_verify.h \
	src/job/effective.c src/job/effective.h \
	src/job/hf_model.c \
	src/job/identity.c src/job/identity.h \
	src/job/inputs.c src/job/inputs.h \
	src/job/job.c src/job/job.h \
	src/job/keeper.c src/job/keeper.h \
	src/job/keys.c src/job/keys.h \
	src/job/lock.c src/job/lock.h \
	src/job/memory.c src/job/memory.h \
	src/job/placing.c src/job/placing.h \
	src/job/resume.c src/job/resume.h \
	src/job/slurm.c src/job/slurm.h \
	src/job/stop.c src/job/stop.h \
	src/job/version.c src/job/version.h
