#include "ops/norm_cuda.cu"
