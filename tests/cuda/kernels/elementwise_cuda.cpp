#include "ops/elementwise_cuda.cu"
