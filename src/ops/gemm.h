/* Matrix multiplication through a library: the registry of those that finemesh knows. */
#ifndef FM_OPS_GEMM_H
#define FM_OPS_GEMM_H

#include "ops/compute.h"

typedef struct fm_gemm fm_gemm;

/* Opens the library that configure chose. Free with fm_gemm_close. Local. */
int fm_gemm_open(fm_gemm **out);
void fm_gemm_close(fm_gemm *gemm);
/* "oneDNN 2.6.3": the library and its version. Local; static storage. */
const char *fm_gemm_name(void);

/* All threads of the rank work on one product. Errors: the library's, or memory. Local. */
int fm_gemm_run(fm_gemm *gemm, const fm_gemm_args *args);

#endif
