# files of src/parallel
libfinemesh_la_SOURCES += \
	src/parallel/context.c src/parallel/context.h \
	src/parallel/fsdp.c src/parallel/fsdp.h \
	src/parallel/layout.c src/parallel/layout.h \
	src/parallel/options.h \
	src/parallel/pipeline.c src/parallel/pipeline.h \
	src/parallel/region.c src/parallel/region.h
