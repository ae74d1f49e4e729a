# files of src/ops: X.c is the reference of X
libfinemesh_la_SOURCES += \
	src/ops/adamw.c \
	src/ops/attention.c \
	src/ops/compute.c src/ops/compute.h \
	src/ops/cpu.h \
	src/ops/elementwise.c \
	src/ops/embedding.c \
	src/ops/gemm.c src/ops/gemm.h \
	src/ops/loss.c \
	src/ops/norm.c \
	src/ops/rope.c \
	src/ops/rows.c src/ops/rows.h \
	src/ops/tile.c src/ops/tile.h

# the CUDA module's: kernels are written over cuda_kernel.h
noinst_HEADERS += \
	src/ops/cuda.h \
	src/ops/cuda_kernel.h
