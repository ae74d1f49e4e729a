#include "ops/rope_cuda.cu"
