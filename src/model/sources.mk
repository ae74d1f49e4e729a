# files of src/model
libfinemesh_la_SOURCES += \
	src/model/block.c src/model/block.h \
	src/model/options.h
