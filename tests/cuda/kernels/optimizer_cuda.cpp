#include "ops/optimizer_cuda.cu"
