#include "finemesh/mesh.h"

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

const char *fm_dim_name(enum fm_dim dim)
{
    static const char *const names[FM_DIMS] = {
        [FM_PP] = "pp", [FM_DP_REPLICATE] = "dp_replicate", [FM_DP_SHARD] = "dp_shard", [FM_CP] = "cp", [FM_TP] = "tp",
    };
    return names[dim];
}

/* A product that stays at INT64_MAX once it is there: sizes come from people. */
static int64_t times(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

/* What would be legal, as the end of a message: ": ITEM; ITEM". Cut at the end of its buffer. */
typedef struct {
    char text[512];
    size_t length;
} advice;

static void advise(advice *out, const char *format, ...) FM_PRINTF(2, 3);

static void advise(advice *out, const char *format, ...)
{
    char item[128];
    va_list args;
    va_start(args, format);
    vsnprintf(item, sizeof item, format, args);
    va_end(args);
    const size_t room = sizeof out->text - out->length;
    const int n = snprintf(out->text + out->length, room, "%s %s", out->length > 0 ? ";" : ":", item);
    out->length += (size_t)n < room ? (size_t)n : room - 1;
}

/* "WHAT below or above": the legal values next to one that is not (0: none on that side). */
static void advise_neighbours(advice *out, const char *what, int64_t below, int64_t above)
{
    if (below > 0 && above > 0) {
        advise(out, "%s %lld or %lld", what, (long long)below, (long long)above);
    } else if (below > 0 || above > 0) {
        advise(out, "%s %lld", what, (long long)(below > 0 ? below : above));
    }
}

/* The divisors of n next to `found`, below and above. */
static void advise_divisors(advice *out, const char *key, int64_t n, int64_t found)
{
    int64_t below = 0, above = 0;
    for (int64_t i = 1; i <= n; i++) {
        if (n % i != 0 || i == found) {
            continue;
        }
        if (i < found) {
            below = i;
        } else {
            above = i;
            break;
        }
    }
    advise_neighbours(out, key, below, above);
}

/* The person's sizes with their defaults in place, dp 0 where it is still open. */
typedef struct {
    int64_t pp, dp, dp_replicate, cp, tp;
} given_sizes;

static int check_given(given_sizes *out, const fm_mesh_sizes *sizes, int n_ranks)
{
    const struct {
        const char *key;
        int size;
    } keys[] = {
        {"pp_size", sizes->pp_size}, {"dp_size", sizes->dp_size}, {"dp_replicate_size", sizes->dp_replicate_size},
        {"cp_size", sizes->cp_size}, {"tp_size", sizes->tp_size}, {"ep_size", sizes->ep_size},
    };
    if (n_ranks < 1) {
        return fm_fail(FM_ERR_JOB, "a mesh of %d ranks: at least 1 is needed", n_ranks);
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (keys[i].size < 0) {
            return fm_fail(FM_ERR_JOB, "%s is %d: a number from 1 to %d ranks was expected", keys[i].key, keys[i].size, n_ranks);
        }
    }
    if (sizes->ep_size > 1) {
        return fm_fail(FM_ERR_UNSUPPORTED, "ep_size is %d: expert parallelism is not there; 1 is the only size", sizes->ep_size);
    }
    *out = (given_sizes){
        .pp = sizes->pp_size > 0 ? sizes->pp_size : 1,
        .dp = sizes->dp_size,
        .dp_replicate = sizes->dp_replicate_size > 0 ? sizes->dp_replicate_size : 1,
        .cp = sizes->cp_size > 0 ? sizes->cp_size : 1,
        .tp = sizes->tp_size > 0 ? sizes->tp_size : 1,
    };
    return FM_OK;
}

/* dp is open and pp x cp x tp = `model` does not divide the ranks. */
static int fail_to_divide(const given_sizes *given, int64_t model, int n_ranks)
{
    advice legal = {{0}, 0};
    const struct {
        const char *key;
        int64_t size;
    } keys[] = {{"tp_size", given->tp}, {"cp_size", given->cp}, {"pp_size", given->pp}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const int64_t others = model == INT64_MAX ? INT64_MAX : model / keys[i].size;
        if (keys[i].size > 1 && n_ranks % others == 0) {
            advise_divisors(&legal, keys[i].key, n_ranks / others, keys[i].size);
        }
    }
    if (model <= INT32_MAX) {
        const int64_t below = n_ranks / model * model;
        advise_neighbours(&legal, "ranks", below, below + model);
    }
    return fm_fail(FM_ERR_JOB, "%d ranks = pp %lld x dp ? x cp %lld x tp %lld: %lld does not divide %d%s%s", n_ranks,
                   (long long)given->pp, (long long)given->cp, (long long)given->tp, (long long)model, n_ranks,
                   legal.length > 0 ? ". The nearest that do" : "", legal.text);
}

/* dp is given and the product is not the ranks. */
static int fail_to_multiply(const given_sizes *given, int64_t model, int n_ranks)
{
    const int64_t product = times(model, given->dp);
    advice legal = {{0}, 0};
    if (n_ranks % model == 0) {
        advise(&legal, "dp_size %lld (or 0: what is left of the ranks)", (long long)(n_ranks / model));
    }
    if (product <= INT32_MAX) {
        advise(&legal, "ranks %lld", (long long)product);
    }
    return fm_fail(FM_ERR_JOB, "%d ranks = pp %lld x dp %lld x cp %lld x tp %lld: the product is %lld%s%s", n_ranks,
                   (long long)given->pp, (long long)given->dp, (long long)given->cp, (long long)given->tp, (long long)product,
                   legal.length > 0 ? ". What fits" : "", legal.text);
}

int fm_mesh_from_sizes(fm_mesh_shape *out, const fm_mesh_sizes *sizes, int n_ranks)
{
    given_sizes given = {0};
    FM_TRY(check_given(&given, sizes, n_ranks));
    const int64_t model = times(times(given.pp, given.cp), given.tp);
    if (given.dp == 0) {
        if (n_ranks % model != 0) {
            return fail_to_divide(&given, model, n_ranks);
        }
        given.dp = n_ranks / model;
    } else if (times(model, given.dp) != n_ranks) {
        return fail_to_multiply(&given, model, n_ranks);
    }
    if (given.dp % given.dp_replicate != 0) {
        advice legal = {{0}, 0};
        advise_divisors(&legal, "dp_replicate_size", given.dp, given.dp_replicate);
        return fm_fail(FM_ERR_JOB, "%d ranks = pp %lld x dp %lld x cp %lld x tp %lld: dp_replicate_size %lld does not divide dp %lld. "
                       "The nearest that do%s", n_ranks, (long long)given.pp, (long long)given.dp, (long long)given.cp,
                       (long long)given.tp, (long long)given.dp_replicate, (long long)given.dp, legal.text);
    }
    *out = (fm_mesh_shape){{
        [FM_PP] = (int)given.pp, [FM_DP_REPLICATE] = (int)given.dp_replicate,
        [FM_DP_SHARD] = (int)(given.dp / given.dp_replicate), [FM_CP] = (int)given.cp, [FM_TP] = (int)given.tp,
    }};
    return FM_OK;
}

int fm_mesh_check(const fm_mesh_shape *shape, int n_ranks)
{
    int64_t product = 1;
    for (int d = 0; d < FM_DIMS; d++) {
        if (shape->size[d] < 1) {
            return fm_fail(FM_ERR_JOB, "mesh dimension %s is %d: at least 1 was expected", fm_dim_name((enum fm_dim)d), shape->size[d]);
        }
        product = times(product, shape->size[d]);
    }
    if (product != n_ranks) {
        char mesh[160];
        fm_mesh_print(mesh, sizeof mesh, shape);
        return fm_fail(FM_ERR_JOB, "the mesh %s has %lld ranks, but there are %d: start it on %lld, or change the mesh", mesh,
                       (long long)product, n_ranks, (long long)product);
    }
    return FM_OK;
}

int fm_mesh_ranks(const fm_mesh_shape *shape)
{
    int ranks = 1;
    for (int d = 0; d < FM_DIMS; d++) {
        ranks *= shape->size[d];
    }
    return ranks;
}

int fm_mesh_fsdp_size(const fm_mesh_shape *shape)
{
    return shape->size[FM_DP_SHARD] * shape->size[FM_CP];
}

int fm_mesh_dp_size(const fm_mesh_shape *shape)
{
    return shape->size[FM_DP_REPLICATE] * shape->size[FM_DP_SHARD];
}

fm_coord fm_mesh_coord(const fm_mesh_shape *shape, int rank)
{
    fm_coord coord;
    for (int d = FM_DIMS - 1; d >= 0; d--) {
        coord.at[d] = rank % shape->size[d];
        rank /= shape->size[d];
    }
    return coord;
}

int fm_mesh_rank(const fm_mesh_shape *shape, const fm_coord *coord)
{
    int rank = 0;
    for (int d = 0; d < FM_DIMS; d++) {
        rank = rank * shape->size[d] + coord->at[d];
    }
    return rank;
}

int fm_mesh_fsdp_index(const fm_mesh_shape *shape, const fm_coord *coord)
{
    return coord->at[FM_DP_SHARD] * shape->size[FM_CP] + coord->at[FM_CP];
}

int fm_mesh_dp_index(const fm_mesh_shape *shape, const fm_coord *coord)
{
    return coord->at[FM_DP_REPLICATE] * shape->size[FM_DP_SHARD] + coord->at[FM_DP_SHARD];
}

void fm_mesh_print(char *out, int out_bytes, const fm_mesh_shape *shape)
{
    snprintf(out, (size_t)out_bytes, "pp %d x dp_replicate %d x dp_shard %d x cp %d x tp %d", shape->size[FM_PP],
             shape->size[FM_DP_REPLICATE], shape->size[FM_DP_SHARD], shape->size[FM_CP], shape->size[FM_TP]);
}
