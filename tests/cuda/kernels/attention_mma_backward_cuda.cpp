#include "ops/attention_mma_backward_cuda.cu"
