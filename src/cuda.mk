# The CUDA module, opened by the program when a job wants a GPU. Its files lie in the folders of their layers.
cuda_module_c = \
	src/mesh/comm_nccl.h \
	src/ops/attention_cuda.h src/ops/attention_mma_cuda.h \
	src/ops/compute_cuda.c \
	src/ops/cuda.h src/ops/cuda_kernel.h src/ops/cuda_mma.h \
	src/ops/cuda_entry.c \
	src/ops/cuda_module.h \
	src/ops/gemm_cuda.c src/ops/gemm_cuda.h \
	src/tensor/cuda.h \
	src/tensor/device_cuda.c src/tensor/device_cuda.h
# where NCCL's header is
cuda_module_nccl = \
	src/mesh/comm_nccl.c \
	src/mesh/nccl_library.c src/mesh/nccl_library.h
cuda_module_cu = \
	src/ops/attention_cuda.cu \
	src/ops/attention_mma_backward_cuda.cu \
	src/ops/attention_mma_cuda.cu \
	src/ops/attention_plain_cuda.cu \
	src/ops/columns_cuda.cu \
	src/ops/elementwise_cuda.cu \
	src/ops/embedding_cuda.cu \
	src/ops/loss_cuda.cu \
	src/ops/norm_cuda.cu \
	src/ops/optimizer_cuda.cu \
	src/ops/rope_cuda.cu
EXTRA_DIST += $(cuda_module_c) $(cuda_module_nccl) $(cuda_module_cu)

