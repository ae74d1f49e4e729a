#include "ckpt/compare.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "ckpt/source.h"

/* Numbers of a band. */
enum { BAND = 1 << 20 };

typedef struct {
    fm_source *source[2];
    const char *name[2];
    void *raw[2];                      /* [BAND * 8 bytes] as stored */
    double *wide[2];                   /* [BAND] */
    int64_t n_different, n_compared;
} comparison;

/* What differs in the numbers of one tensor. */
typedef struct {
    int64_t elements;
    double most;
} difference;

static void compare_band(difference *d, comparison *c, const fm_source_tensor *const tensor[2], int64_t n)
{
    const size_t element_bytes = fm_dtype_bytes(tensor[0]->dtype);
    if (tensor[0]->dtype == tensor[1]->dtype && memcmp(c->raw[0], c->raw[1], (size_t)n * element_bytes) == 0) {
        return;
    }
    for (int side = 0; side < 2; side++) {
        fm_dtype_convert(c->wide[side], FM_F64, c->raw[side], tensor[side]->dtype, n);
    }
    for (int64_t i = 0; i < n; i++) {
        const double delta = fabs(c->wide[0][i] - c->wide[1][i]);
        const bool same = memcmp(&c->wide[0][i], &c->wide[1][i], sizeof(double)) == 0;
        d->elements += !same;
        d->most = !same && !(delta <= d->most) ? delta : d->most;
    }
}

/* The numbers of tensors of one shape, in bands of whole rows, or of parts of one row. */
static int compare_numbers(difference *d, comparison *c, const int index[2], const fm_source_tensor *const tensor[2])
{
    const int64_t rows = tensor[0]->shape[0], columns = tensor[0]->ndim == 2 ? tensor[0]->shape[1] : 1;
    const int64_t columns_a_band = columns < BAND ? columns : BAND, rows_a_band = columns_a_band < 1 ? 1 : BAND / columns_a_band;
    for (int64_t row = 0; row < rows; row += rows_a_band) {
        for (int64_t column = 0; column < columns; column += columns_a_band) {
            const int64_t start[2] = { row, column };
            const int64_t count[2] = { rows - row < rows_a_band ? rows - row : rows_a_band,
                                       columns - column < columns_a_band ? columns - column : columns_a_band };
            for (int side = 0; side < 2; side++) {
                FM_TRY(fm_source_read(c->source[side], c->raw[side], index[side], start, count));
            }
            compare_band(d, c, tensor, count[0] * count[1]);
        }
    }
    return FM_OK;
}

static bool same_shape(const fm_source_tensor *a, const fm_source_tensor *b)
{
    bool same = a->ndim == b->ndim;
    for (int d = 0; same && d < a->ndim; d++) {
        same = a->shape[d] == b->shape[d];
    }
    return same;
}

static int compare_tensor(comparison *c, int t)
{
    const fm_source_tensor *const a = fm_source_get(c->source[0], t);
    const int index[2] = { t, fm_source_find(c->source[1], a->name) };
    difference d = { 0, 0.0 };
    c->n_compared++;
    if (index[1] < 0) {
        c->n_different++;
        fm_log_print("%s: only in %s\n", a->name, c->name[0]);
        return FM_OK;
    }
    const fm_source_tensor *const tensor[2] = { a, fm_source_get(c->source[1], index[1]) };
    const bool same = same_shape(tensor[0], tensor[1]), same_dtype = strcmp(a->dtype_name, tensor[1]->dtype_name) == 0;
    if (same) {
        FM_TRY(compare_numbers(&d, c, index, tensor));
    } else {
        fm_log_print("%s: the shapes differ\n", a->name);
    }
    if (!same_dtype) {
        fm_log_print("%s: %s and %s\n", a->name, a->dtype_name, tensor[1]->dtype_name);
    }
    if (d.elements > 0) {
        fm_log_print("%s: %lld numbers differ, by %g at most\n", a->name, (long long)d.elements, d.most);
    }
    c->n_different += !same || !same_dtype || d.elements > 0;
    return FM_OK;
}

static int compare_all(comparison *c)
{
    for (int t = 0; t < fm_source_count(c->source[0]); t++) {
        FM_TRY(compare_tensor(c, t));
    }
    for (int t = 0; t < fm_source_count(c->source[1]); t++) {
        const char *const name = fm_source_get(c->source[1], t)->name;
        if (fm_source_find(c->source[0], name) < 0) {
            c->n_compared++;
            c->n_different++;
            fm_log_print("%s: only in %s\n", name, c->name[1]);
        }
    }
    if (c->n_different > 0) {
        return fm_fail(FM_ERR_FORMAT, "%s and %s differ in %lld of %lld tensors", c->name[0], c->name[1],
                       (long long)c->n_different, (long long)c->n_compared);
    }
    fm_log_print("%s and %s: %lld tensors, the same bit by bit\n", c->name[0], c->name[1], (long long)c->n_compared);
    return FM_OK;
}

int fm_compare(const char *a, const char *b)
{
    comparison c = { .name = { a, b } };
    int rc = FM_OK;
    for (int side = 0; rc == FM_OK && side < 2; side++) {
        c.raw[side] = fm_alloc_array(BAND, sizeof(double), FM_MEMORY_CHECKPOINT);
        c.wide[side] = fm_alloc_array(BAND, sizeof(double), FM_MEMORY_CHECKPOINT);
        rc = c.raw[side] == NULL || c.wide[side] == NULL ? FM_ERR_MEMORY : fm_source_open(&c.source[side], c.name[side], NULL);
    }
    if (rc == FM_OK) {
        rc = compare_all(&c);
    }
    for (int side = 0; side < 2; side++) {
        fm_source_close(c.source[side]);
        fm_free(c.raw[side]);
        fm_free(c.wide[side]);
    }
    return rc;
}
