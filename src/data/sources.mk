# files of src/data
libfinemesh_la_SOURCES += \
	src/data/options.h
