# files of src/ckpt
libfinemesh_la_SOURCES += \
	src/ckpt/options.h
