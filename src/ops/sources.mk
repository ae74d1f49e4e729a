# files of src/ops: X.c is the reference of X
libfinemesh_la_SOURCES += \
	src/ops/adamw.c \
	src/ops/attention.c \
	src/ops/compute.c src/ops/compute.h \
	src/ops/cpu.h \
	src/ops/cuda_module.c src/ops/cuda_module.h \
	src/ops/elementwise.c \
	src/ops/embedding.c \
	src/ops/gemm.c src/ops/gemm.h \
	src/ops/loss.c \
	src/ops/norm.c \
	src/ops/rates.c src/ops/rates.h \
	src/ops/rope.c \
	src/ops/rows.c src/ops/rows.h \
	src/ops/tile.c src/ops/tile.h \
	src/ops/timed.c src/ops/timed.h
