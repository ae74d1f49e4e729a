#include "job/cmd_load.h"

#include <math.h>

#include "base/log.h"
#include "base/random.h"
#include "job/placing.h"
#include "train/forward.h"

/* Tokens of the row that is run, and the bound of its ids. */
enum { TOKENS = 16, IDS_BELOW = 1000, SEED = 42 };

static int parse_arguments(fm_placing *placing, int argc, char **argv)
{
    *placing = fm_placing_default();
    for (int i = 0; i < argc; i++) {
        bool known = true;
        if (argv[i][0] != '-' && placing->model != NULL) {
            return fm_fail(FM_ERR_JOB, "finemesh load MODEL: \"%s\" is one word too many", argv[i]);
        }
        if (argv[i][0] != '-') {
            placing->model = argv[i];
        } else {
            FM_TRY(fm_placing_option(placing, &known, &i, argc, argv));
        }
        if (!known) {
            return fm_fail(FM_ERR_JOB, "finemesh load knows no option %s; there are MODEL, %s", argv[i], fm_placing_list());
        }
    }
    return FM_OK;
}

/* Number, sum and sum of squares of logits, in double. */
typedef struct {
    double n, sum, squares;
} statistics;

static void add_logits(statistics *s, const fm_forward *f, const fm_model *m)
{
    /* the dp ranks have the same row: one of them counts */
    const bool counts = f->logits != NULL && m->coord.at[FM_DP_REPLICATE] == 0 && m->coord.at[FM_DP_SHARD] == 0;
    for (int64_t i = 0; counts && i < f->T * f->words; i++) {
        if (f->document[i / f->words] >= 0) {
            const double x = (double)f->logits[i];
            s->n += 1.0;
            s->sum += x;
            s->squares += x * x;
        }
    }
}

/* Who holds what: a line a rank. */
static int print_shares(const fm_assembly *a)
{
    const int ranks = a->launch->n_ranks;
    int64_t *const held = fm_alloc_array(ranks, sizeof *held, FM_MEMORY_HOST);
    if (held == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int p = 0; p < a->model->n_params; p++) {
        held[a->launch->rank] += fm_model_param(a->model, p).elements;
    }
    const int rc = fm_comm_all_gather(a->launch->world, held, held + a->launch->rank, 1, FM_I64);
    const int64_t all = fm_config_parameters(&a->model->config);
    for (int r = 0; rc == FM_OK && r < ranks; r++) {
        const fm_coord c = fm_mesh_coord(&a->mesh, r);
        fm_log_print("rank %4d  pp %d dp_replicate %d dp_shard %d cp %d tp %d  %lld parameters (%.1f%%)\n", r, c.at[FM_PP],
                     c.at[FM_DP_REPLICATE], c.at[FM_DP_SHARD], c.at[FM_CP], c.at[FM_TP], (long long)held[r],
                     100.0 * (double)held[r] / (double)all);
    }
    fm_free(held);
    return rc;
}

static int run_row(const fm_assembly *a)
{
    const fm_config *const c = &a->model->config;
    const uint64_t below = c->V < IDS_BELOW ? (uint64_t)c->V : IDS_BELOW;
    int32_t ids[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        uint32_t bits[4];
        fm_random_bits(bits, SEED, fm_random_stream("load"), (uint64_t)t);
        ids[t] = (int32_t)(bits[0] % below);
    }
    fm_forward f = { .n = 0 };
    statistics s = { 0.0, 0.0, 0.0 };
    int rc = fm_forward_run(&f, a->model, ids, TOKENS);
    if (rc == FM_OK) {
        add_logits(&s, &f, a->model);
        rc = fm_comm_all_reduce(a->launch->world, &s, sizeof s / sizeof(double), FM_F64, FM_SUM);
    }
    fm_forward_clear(&f);
    FM_TRY(rc);
    const double mean = s.sum / s.n, variance = (s.squares - s.n * mean * mean) / (s.n - 1.0);
    fm_log_print("logits (1, %d, %lld)\n", TOKENS, (long long)c->V);
    fm_log_print("mean %.6g  std %.6g  L2 norm %.6g\n", mean, sqrt(variance > 0.0 ? variance : 0.0), sqrt(s.squares));
    return FM_OK;
}

static int print_model(const fm_assembly *a)
{
    char mesh[128];
    fm_mesh_print(mesh, sizeof mesh, &a->mesh);
    fm_log_print("mesh %s\nmodel %s, %s\nparameters %lld\n", mesh, a->model->config.model_type, fm_dtype_name(a->model->setup.dtype),
                 (long long)fm_config_parameters(&a->model->config));
    return print_shares(a);
}

int fm_cmd_load(const fm_launch *launch, int argc, char **argv, bool *started)
{
    fm_assembly a = { .launch = NULL };
    fm_placing placing;
    int rc = parse_arguments(&placing, argc, argv);
    if (rc == FM_OK) {
        rc = fm_placing_begin(&a, launch, &placing);
    }
    if (rc == FM_OK) {
        rc = fm_placing_load(&a, TOKENS);
    }
    if (rc == FM_OK) {
        *started = true;
        rc = print_model(&a);
    }
    if (rc == FM_OK) {
        rc = run_row(&a);
    }
    fm_assembly_clear(&a);
    return rc;
}
