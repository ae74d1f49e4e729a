#include "ops/loss_cuda.cu"
