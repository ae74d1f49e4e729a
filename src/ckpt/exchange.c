#include "ckpt/exchange.h"

#include <string.h>

#include "base/memory.h"

enum { TAG = 71 };

/* What every peer holds and which rows it reads. */
typedef struct {
    int n, me;
    fm_slice *slices;                  /* [n] */
    fm_range *parts;                   /* [n] rows */
    fm_request *requests;              /* [2 n] */
    char *buffer;                      /* my rows, packed peer by peer */
    size_t *offsets_bytes;             /* [n] into buffer */
} plan;

bool fm_exchange_applies(const fm_layout *layout, int tensor, const fm_comm *tp)
{
    return layout->tensors[tensor].cut_axis == 1 && fm_comm_size(tp) > 1 && fm_comm_size(tp) == layout->mesh.size[FM_TP];
}

static void plan_clear(plan *p)
{
    fm_free(p->slices);
    fm_free(p->parts);
    fm_free(p->requests);
    fm_free(p->buffer);
    fm_free(p->offsets_bytes);
}

static int plan_make(plan *p, const fm_layout *layout, int tensor, const fm_coord *coord, const fm_comm *tp, int64_t n_rows,
                     size_t element_bytes)
{
    *p = (plan){ .n = fm_comm_size(tp), .me = fm_comm_rank(tp) };
    p->slices = fm_alloc_array(p->n, sizeof *p->slices, FM_MEMORY_HOST);
    p->parts = fm_alloc_array(p->n, sizeof *p->parts, FM_MEMORY_HOST);
    p->requests = fm_alloc_array(2 * p->n, sizeof *p->requests, FM_MEMORY_HOST);
    p->offsets_bytes = fm_alloc_array(p->n, sizeof *p->offsets_bytes, FM_MEMORY_HOST);
    if (p->slices == NULL || p->parts == NULL || p->requests == NULL || p->offsets_bytes == NULL) {
        return FM_ERR_MEMORY;
    }
    size_t total_bytes = 0;
    for (int j = 0; j < p->n; j++) {
        fm_coord peer = *coord;
        peer.at[FM_TP] = j;
        fm_layout_slice(&p->slices[j], layout, tensor, &peer);
        p->parts[j] = fm_split_even(n_rows, p->n, j);
    }
    for (int j = 0; j < p->n; j++) {
        p->offsets_bytes[j] = total_bytes;
        total_bytes += (size_t)(p->parts[p->me].count * p->slices[j].local_shape[1]) * element_bytes;
    }
    p->buffer = fm_alloc(total_bytes, FM_MEMORY_CHECKPOINT);
    return p->buffer == NULL ? FM_ERR_MEMORY : FM_OK;
}

static int wait_all(plan *p, int rc)
{
    for (int i = 0; i < 2 * p->n; i++) {
        const int waited = fm_comm_wait(&p->requests[i]);
        rc = rc < 0 ? rc : waited;
    }
    return rc;
}

/* The columns of one peer: from whole rows to its dense array, or the other way. */
static void pick(char *dense, char *rows, const fm_slice *slice, int64_t n_rows, int64_t width, size_t element_bytes,
                 bool to_dense)
{
    const size_t row_bytes = (size_t)width * element_bytes, dense_bytes = (size_t)slice->local_shape[1] * element_bytes;
    for (int s = 0; s < slice->n_slabs; s++) {
        const fm_slab *const slab = &slice->slabs[s];
        const size_t bytes = (size_t)slab->count[1] * element_bytes;
        char *from = rows + (size_t)slab->start[1] * element_bytes, *to = dense + (size_t)slab->local_start[1] * element_bytes;
        for (int64_t r = 0; r < n_rows; r++, from += row_bytes, to += dense_bytes) {
            memcpy(to_dense ? to : from, to_dense ? from : to, bytes);
        }
    }
}

void fm_exchange_pick(void *dense, const void *rows, const fm_slice *slice, int64_t n_rows, int64_t width, size_t element_bytes)
{
    pick(dense, (char *)rows, slice, n_rows, width, element_bytes, true);
}

int fm_exchange_to_columns(void *local, const void *rows, const fm_layout *layout, int tensor, const fm_coord *coord, fm_comm *tp,
                           int64_t n_rows, size_t element_bytes)
{
    plan p;
    int rc = fm_comm_agree(tp, plan_make(&p, layout, tensor, coord, tp, n_rows, element_bytes));
    const int64_t width = layout->tensors[tensor].shape[1];
    const int64_t my_rows = rc < 0 ? 0 : p.parts[p.me].count, my_width = rc < 0 ? 0 : p.slices[p.me].local_shape[1];
    for (int j = 0; rc == FM_OK && j < p.n; j++) {
        char *const place = (char *)local + (size_t)(p.parts[j].start * my_width) * element_bytes;
        if (j == p.me) {
            pick(place, (char *)rows, &p.slices[j], my_rows, width, element_bytes, true);
        } else {
            rc = fm_comm_begin_receive(tp, &p.requests[2 * j], place, p.parts[j].count * my_width * (int64_t)element_bytes, FM_U8,
                                       j, TAG);
        }
    }
    for (int j = 0; rc == FM_OK && j < p.n; j++) {
        if (j != p.me) {
            char *const packed = p.buffer + p.offsets_bytes[j];
            pick(packed, (char *)rows, &p.slices[j], my_rows, width, element_bytes, true);
            rc = fm_comm_begin_send(tp, &p.requests[2 * j + 1], packed,
                                    my_rows * p.slices[j].local_shape[1] * (int64_t)element_bytes,
                                    FM_U8, j, TAG);
        }
    }
    rc = p.requests == NULL ? rc : wait_all(&p, rc);
    plan_clear(&p);
    return rc;
}

int fm_exchange_to_rows(void *rows, const void *local, const fm_layout *layout, int tensor, const fm_coord *coord, fm_comm *tp,
                        int64_t n_rows, size_t element_bytes)
{
    plan p;
    int rc = fm_comm_agree(tp, plan_make(&p, layout, tensor, coord, tp, n_rows, element_bytes));
    const int64_t width = layout->tensors[tensor].shape[1];
    const int64_t my_rows = rc < 0 ? 0 : p.parts[p.me].count, my_width = rc < 0 ? 0 : p.slices[p.me].local_shape[1];
    for (int j = 0; rc == FM_OK && j < p.n; j++) {
        if (j != p.me) {
            rc = fm_comm_begin_receive(tp, &p.requests[2 * j], p.buffer + p.offsets_bytes[j],
                                       my_rows * p.slices[j].local_shape[1] * (int64_t)element_bytes, FM_U8, j, TAG);
        }
    }
    for (int j = 0; rc == FM_OK && j < p.n; j++) {
        const char *const mine = (const char *)local + (size_t)(p.parts[j].start * my_width) * element_bytes;
        if (j == p.me) {
            pick((char *)mine, rows, &p.slices[j], my_rows, width, element_bytes, false);
        } else {
            rc = fm_comm_begin_send(tp, &p.requests[2 * j + 1], mine, p.parts[j].count * my_width * (int64_t)element_bytes, FM_U8,
                                    j, TAG);
        }
    }
    rc = p.requests == NULL ? rc : wait_all(&p, rc);
    for (int j = 0; rc == FM_OK && j < p.n; j++) {
        if (j != p.me) {
            pick(p.buffer + p.offsets_bytes[j], rows, &p.slices[j], my_rows, width, element_bytes, false);
        }
    }
    plan_clear(&p);
    return rc;
}
