#include "ops/attention_mma_cuda.cu"
