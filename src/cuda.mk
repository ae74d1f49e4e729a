# The CUDA module, opened by the program when a job wants a GPU. Its files lie in the folders of their layers.
cuda_module_c = \
	src/mesh/comm_nccl.h \
	src/ops/compute_cuda.c \
	src/ops/cuda.h src/ops/cuda_kernel.h \
	src/ops/cuda_entry.c \
	src/ops/cuda_module.h \
	src/ops/gemm_cuda.c src/ops/gemm_cuda.h \
	src/tensor/cuda.h \
	src/tensor/device_cuda.c src/tensor/device_cuda.h
EXTRA_DIST += $(cuda_module_c)

