#include "ops/attention_plain_cuda.cu"
