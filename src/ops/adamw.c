#include "ops/cpu.h"
#include "ops/rows.h"

enum { BLOCK = 1024 };

/* torch.optim.AdamW, with c1 = 1 - beta1^t and c2 = 1 - beta2^t:
 * w *= 1 - lr decay;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  w -= lr / c1 * m / (sqrt(v / c2) + eps). */
FM_ROW_KERNEL
static void update_block(float *restrict w, float *restrict m, float *restrict v, const float *restrict gradient, int64_t n,
                         double weight_decay, const fm_adamw_args *args)
{
    const float keep = (float)(1.0 - args->lr * weight_decay);
    const float step = (float)(args->lr / args->correction1);
    const float root = (float)(1.0 / sqrt(args->correction2));
    const float new1 = (float)(1.0 - args->beta1), new2 = (float)(1.0 - args->beta2), beta2 = (float)args->beta2;
    const float eps = (float)args->eps, scale = (float)args->gradient_scale;
    for (int64_t i = 0; i < n; i++) {
        const float g = gradient[i] * scale;
        m[i] += new1 * (g - m[i]);
        v[i] = beta2 * v[i] + new2 * g * g;
        w[i] = w[i] * keep - step * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

static void update_part(const fm_adamw_part *part, enum fm_dtype master_dtype, enum fm_dtype dtype, enum fm_dtype state_dtype,
                        const fm_adamw_args *args)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < part->n; i += BLOCK) {
        const int64_t n = part->n - i < BLOCK ? part->n - i : BLOCK;
        float scratch[3][BLOCK], *rows[3];
        void *const at[3] = { fm_at(part->master, master_dtype, i), fm_at(part->m, state_dtype, i), fm_at(part->v, state_dtype, i) };
        const enum fm_dtype dtypes[3] = { master_dtype, state_dtype, state_dtype };
        for (int k = 0; k < 3; k++) {
            rows[k] = fm_row_target(scratch[k], at[k], dtypes[k]);
            if (dtypes[k] != FM_F32) {
                fm_row_load(rows[k], at[k], dtypes[k], n);
            }
        }
        update_block(rows[0], rows[1], rows[2], part->gradient + i, n, part->weight_decay, args);
        for (int k = 0; k < 3; k++) {
            fm_row_finish(at[k], dtypes[k], rows[k], n);
        }
        if (part->weight != NULL) {
            fm_row_store(fm_at(part->weight, dtype, i), dtype, rows[0], n);
        }
    }
}

int fm_cpu_adamw(fm_compute *compute, const fm_adamw_part *parts, int n_parts, enum fm_dtype master_dtype, enum fm_dtype dtype,
                 enum fm_dtype state_dtype, const fm_adamw_args *args)
{
    (void)compute;
    for (int p = 0; p < n_parts; p++) {
        update_part(&parts[p], master_dtype, dtype, state_dtype, args);
    }
    return FM_OK;
}
