# files of src/model
libfinemesh_la_SOURCES += \
	src/model/block.c src/model/block.h \
	src/model/config.c src/model/config.h \
	src/model/ends.c src/model/ends.h \
	src/model/families/families.c \
	src/model/families/family.h \
	src/model/model.c src/model/model.h \
	src/model/options.h \
	src/model/rope.c src/model/rope.h \
	src/model/stage.c \
	src/model/tp_plan.c src/model/tp_plan.h
