/* The exchange of columns between tensor-parallel peers: files hold whole rows, peers hold columns. Each peer reads (or writes)
 * its part of the rows, whole, and sends the others what they hold of it. Rows are divided by fm_split_even. */
#ifndef FM_CKPT_EXCHANGE_H
#define FM_CKPT_EXCHANGE_H

#include "mesh/comm.h"
#include "parallel/layout.h"

/* Whether tp cuts this tensor's columns, so that an exchange makes sense with these peers. Local. */
bool fm_exchange_applies(const fm_layout *layout, int tensor, const fm_comm *tp);

/* The columns of one slice out of n_rows whole rows [n_rows][width]: dense [n_rows][local columns]. Local. */
void fm_exchange_pick(void *dense, const void *rows, const fm_slice *slice, int64_t n_rows, int64_t width, size_t element_bytes);

/* n_rows rows of the tensor. `rows` [my part of n_rows][all columns] -> `local` [n_rows][my columns]. Collective on tp, where
 * all give the same n_rows and element_bytes. */
int fm_exchange_to_columns(void *local, const void *rows, const fm_layout *layout, int tensor, const fm_coord *coord, fm_comm *tp,
                           int64_t n_rows, size_t element_bytes);

/* The way back: `local` [n_rows][my columns] -> `rows` [my part of n_rows][all columns]. Collective on tp. */
int fm_exchange_to_rows(void *rows, const void *local, const fm_layout *layout, int tensor, const fm_coord *coord, fm_comm *tp,
                        int64_t n_rows, size_t element_bytes);

#endif
