# files of src/parallel
libfinemesh_la_SOURCES += \
	src/parallel/layout.c src/parallel/layout.h \
	src/parallel/options.h
