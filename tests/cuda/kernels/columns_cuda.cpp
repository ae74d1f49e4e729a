#include "ops/columns_cuda.cu"
