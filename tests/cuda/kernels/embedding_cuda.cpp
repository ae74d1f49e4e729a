#include "ops/embedding_cuda.cu"
