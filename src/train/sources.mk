# files of src/train
libfinemesh_la_SOURCES += \
	src/train/bench.c src/train/bench.h \
	src/train/console.c src/train/console.h \
	src/train/evaluate.c src/train/evaluate.h \
	src/train/events.c src/train/events.h \
	src/train/forward.c src/train/forward.h \
	src/train/loop.c src/train/loop.h \
	src/train/loss_scale.c src/train/loss_scale.h \
	src/train/metrics.c src/train/metrics.h \
	src/train/optimizer.c src/train/optimizer.h \
	src/train/options.h \
	src/train/schedule.c src/train/schedule.h \
	src/train/step.c src/train/step.h \
	src/train/traffic.c src/train/traffic.h
