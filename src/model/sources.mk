# files of src/model
libfinemesh_la_SOURCES += \
	src/model/options.h
