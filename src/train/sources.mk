# files of src/train
libfinemesh_la_SOURCES += \
	src/train/options.h \
	src/train/schedule.c src/train/schedule.h
