#include "parallel/region.h"

void fm_region_plan(fm_region *region, int64_t rows)
{
    const int64_t ranks = fm_comm_size(region->tp);
    region->sequence_parallel = region->sequence_parallel && region->tp != NULL;
    region->rows = rows;
    region->rows_local = region->sequence_parallel ? (rows + ranks - 1) / ranks : rows;
    region->rows_padded = region->sequence_parallel ? region->rows_local * ranks : rows;
}

int fm_region_enter(const fm_region *region, const void **all, void *buffer, const void *local, int64_t n, enum fm_dtype dtype)
{
    if (!region->sequence_parallel) {
        *all = local;
        return FM_OK;
    }
    *all = buffer;
    return fm_comm_all_gather(region->tp, buffer, local, region->rows_local * n, dtype);
}

int fm_region_sum(const fm_region *region, void *out, void *partial, int64_t n, enum fm_dtype dtype)
{
    if (region->tp == NULL) {
        return FM_OK;
    }
    if (!region->sequence_parallel) {
        return fm_comm_all_reduce(region->tp, partial, region->rows * n, dtype, FM_SUM);
    }
    return fm_comm_reduce_scatter(region->tp, out, partial, region->rows_local * n, dtype);
}

void *fm_region_partial(const fm_region *region, void *out, void *buffer)
{
    return region->sequence_parallel ? buffer : out;
}
