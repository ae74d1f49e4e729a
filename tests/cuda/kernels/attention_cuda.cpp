#include "ops/attention_cuda.cu"
