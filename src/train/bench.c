#include "train/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "mesh/timed.h"
#include "ops/rates.h"

/* Rows of the stopwatch behind those of the operations. */
enum { ROW_COLLECTIVES = FM_OPS_TIMED_ROWS, ROW_PIPELINE };

_Static_assert((int)ROW_PIPELINE < (int)FM_STOPWATCH_ROWS, "the stopwatch has too few rows");

static const char *const part_texts[FM_BENCH_PARTS][2] = {
#define FM_BENCH_PART_TEXT(name, key, text) { key, text },
    FM_BENCH_PART_LIST(FM_BENCH_PART_TEXT)
#undef FM_BENCH_PART_TEXT
};

const char *fm_bench_part_key(enum fm_bench_part part)
{
    return part_texts[part][0];
}

const char *fm_bench_part_name(enum fm_bench_part part)
{
    return part_texts[part][1];
}

typedef struct {
    fm_bench_result *out;
    fm_loop *loop;
    fm_model *model;
    fm_comm *world;
    int64_t step;                      /* the last one done */
} bench;

static int one_step(bench *b)
{
    fm_step_metrics metrics;
    FM_TRY(fm_loop_step(b->loop, ++b->step, &metrics));
    b->out->tokens = metrics.tokens;
    b->out->loss = metrics.loss;
    return FM_OK;
}

static int settle(const bench *b)
{
    fm_device *const device = b->model->compute->device;
    FM_TRY(device->table->synchronize(device));
    return fm_comm_barrier(b->world);
}

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Steps one after the other as in training: nothing waits for the device between them but what training waits for. */
static int time_steps(bench *b, double *seconds, int64_t n)
{
    fm_device *const device = b->model->compute->device;
    FM_TRY(settle(b));
    double begin_s = fm_clock_s();
    for (int64_t i = 0; i < n; i++) {
        FM_TRY(one_step(b));
        if (i == n - 1) {
            FM_TRY(device->table->synchronize(device));
        }
        const double end_s = fm_clock_s();
        seconds[i] = end_s - begin_s;
        begin_s = end_s;
    }
    return fm_comm_all_reduce(b->world, seconds, n, FM_F64, FM_MAX);
}

static int run_timed(bench *b)
{
    const int64_t n = b->out->options.steps;
    double *const seconds = fm_alloc_array(n, sizeof *seconds, FM_MEMORY_HOST);
    if (seconds == NULL) {
        return FM_ERR_MEMORY;
    }
    const int rc = time_steps(b, seconds, n);
    if (rc == FM_OK) {
        qsort(seconds, (size_t)n, sizeof *seconds, by_size);
        b->out->step_s = 0.5 * (seconds[(n - 1) / 2] + seconds[n / 2]);
        b->out->least_step_s = seconds[0];
        b->out->most_step_s = seconds[n - 1];
    }
    fm_free(seconds);
    return rc;
}

/* Costs of operations and products, a step. */
static void take_costs(fm_bench_result *out, double part_s[FM_PARTS], double *gemm_flops, const fm_ops_timing *timing)
{
    const double steps = (double)out->options.split_steps;
    *gemm_flops = 0.0;
    for (int op = 0; op < fm_ops_timing_count(); op++) {
        fm_op_cost cost = fm_ops_timing_get(timing, op);
        cost.calls /= out->options.split_steps;
        cost.seconds /= steps;
        cost.bytes /= steps;
        part_s[cost.part] += cost.seconds;
        if (cost.calls > 0) {
            out->ops[out->n_ops++] = cost;
        }
    }
    for (int kind = 0; kind < fm_ops_timing_gemms(timing); kind++) {
        fm_gemm_cost cost = fm_ops_timing_gemm(timing, kind);
        cost.calls /= out->options.split_steps;
        cost.seconds /= steps;
        *gemm_flops += (double)cost.calls * fm_gemm_flops(&cost.args);
        out->gemms[out->n_gemms++].cost = cost;
    }
}

/* Ranks that came early to a collective have waited: the one that spent least in them shows what they cost. What a rank waits for a
 * neighbour in the pipeline is waiting as a whole. */
static int share_parts(fm_bench_result *out, const double part_s[FM_PARTS], double collectives_s, double pipeline_s, double step_s,
                       double gemm_flops, fm_comm *world)
{
    const double ranks = fm_comm_size(world);
    double least_s = collectives_s, own[FM_BENCH_PARTS], rest_s = step_s;
    FM_TRY(fm_comm_all_reduce(world, &least_s, 1, FM_F64, FM_MIN));
    own[FM_BENCH_GEMM] = part_s[FM_PART_GEMM];
    own[FM_BENCH_ATTENTION] = part_s[FM_PART_ATTENTION];
    own[FM_BENCH_KERNELS] = part_s[FM_PART_KERNELS];
    own[FM_BENCH_OPTIMIZER] = part_s[FM_PART_OPTIMIZER];
    own[FM_BENCH_COMMUNICATION] = least_s;
    own[FM_BENCH_WAITING] = collectives_s - least_s + pipeline_s;
    for (int p = 0; p < FM_BENCH_REST; p++) {
        rest_s -= own[p];
    }
    own[FM_BENCH_REST] = rest_s;
    memcpy(out->part_s, own, sizeof own);
    memcpy(out->most_part_s, own, sizeof own);
    out->split_step_s = step_s;
    out->step_gemm_flops_per_s = part_s[FM_PART_GEMM] > 0.0 ? gemm_flops / part_s[FM_PART_GEMM] : 0.0;
    FM_TRY(fm_comm_all_reduce(world, out->part_s, FM_BENCH_PARTS, FM_F64, FM_SUM));
    FM_TRY(fm_comm_all_reduce(world, out->most_part_s, FM_BENCH_PARTS, FM_F64, FM_MAX));
    FM_TRY(fm_comm_all_reduce(world, &out->split_step_s, 1, FM_F64, FM_SUM));
    FM_TRY(fm_comm_all_reduce(world, &out->step_gemm_flops_per_s, 1, FM_F64, FM_SUM));
    for (int p = 0; p < FM_BENCH_PARTS; p++) {
        out->part_s[p] /= ranks;
    }
    out->split_step_s /= ranks;
    return FM_OK;
}

static int measure_parts(bench *b, fm_stopwatch *w, fm_ops_timing *timing)
{
    const int64_t n = b->out->options.split_steps;
    FM_TRY(settle(b));
    fm_stopwatch_clear(w);             /* of what settling took */
    const double begin_s = fm_clock_s();
    for (int64_t i = 0; i < n; i++) {
        FM_TRY(one_step(b));
        FM_TRY(fm_stopwatch_settle(w));
    }
    const double step_s = (fm_clock_s() - begin_s) / (double)n;
    const double collectives_s = fm_stopwatch_get(w, ROW_COLLECTIVES).seconds / (double)n;
    const double pipeline_s = fm_stopwatch_get(w, ROW_PIPELINE).seconds / (double)n;
    double part_s[FM_PARTS] = { 0.0 }, gemm_flops;
    take_costs(b->out, part_s, &gemm_flops, timing);
    return share_parts(b->out, part_s, collectives_s, pipeline_s, step_s, gemm_flops, b->world);
}

/* Every communicator of the mesh, for the host's numbers and for a device's. */
static void time_groups(fm_groups *groups, fm_stopwatch *w)
{
    for (int g = 0; g < FM_GROUPS; g++) {
        fm_comm *const host = fm_groups_get(groups, (enum fm_group)g), *const device = fm_groups_device(groups, (enum fm_group)g);
        const int row = g == FM_GROUP_PP ? ROW_PIPELINE : ROW_COLLECTIVES;
        fm_comm_time_begin(host, w, row);
        fm_comm_time_begin(device != host ? device : NULL, w, row);
    }
}

static void stop_timing_groups(fm_groups *groups)
{
    for (int g = 0; g < FM_GROUPS; g++) {
        fm_comm_time_end(fm_groups_get(groups, (enum fm_group)g));
        fm_comm_time_end(fm_groups_device(groups, (enum fm_group)g));
    }
}

static int run_split(bench *b)
{
    fm_stopwatch *w = NULL;
    fm_ops_timing *timing = NULL;
    fm_groups *const groups = b->model->groups;
    int rc = fm_stopwatch_new(&w, b->model->compute->device);
    if (rc == FM_OK) {
        rc = fm_ops_timing_begin(&timing, b->model->compute, w);
    }
    rc = fm_comm_agree(b->world, rc);
    if (rc == FM_OK) {
        time_groups(groups, w);
        rc = measure_parts(b, w, timing);
        stop_timing_groups(groups);
    }
    fm_ops_timing_end(timing);
    fm_stopwatch_destroy(w);
    return rc;
}

static int note_memory(fm_bench_result *out, fm_comm *world)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    out->host_bytes = (int64_t)usage.ru_maxrss * 1024;
    for (int kind = 0; kind < FM_MEMORY_KINDS; kind++) {
        out->peak_bytes[kind] = (int64_t)fm_memory_peak_bytes((enum fm_memory)kind);
    }
    FM_TRY(fm_comm_all_reduce(world, out->peak_bytes, FM_MEMORY_KINDS, FM_I64, FM_MAX));
    return fm_comm_all_reduce(world, &out->host_bytes, 1, FM_I64, FM_MAX);
}

int fm_bench_steps(fm_bench_result *out, fm_loop *loop, fm_model *model, const fm_bench_options *options)
{
    bench b = { .out = out, .loop = loop, .model = model, .world = fm_groups_get(model->groups, FM_GROUP_WORLD) };
    memset(out, 0, sizeof *out);
    out->options = *options;
    fm_memory_forget_peaks();
    for (int64_t i = 0; i < options->warmup; i++) {
        FM_TRY(one_step(&b));
    }
    FM_TRY(run_timed(&b));
    FM_TRY(note_memory(out, b.world));
    return options->split_steps > 0 ? run_split(&b) : FM_OK;
}

/* Most products of a step are of a few kinds; those that make less than a hundredth of the arithmetic are not measured alone. */
static int own_rates(fm_bench_result *r, double *best, fm_compute *compute)
{
    const double seconds = 0.1;
    double all = 0.0;
    *best = 0.0;
    for (int i = 0; i < r->n_gemms; i++) {
        all += (double)r->gemms[i].cost.calls * fm_gemm_flops(&r->gemms[i].cost.args);
    }
    for (int i = 0; i < r->n_gemms; i++) {
        fm_bench_gemm *const g = &r->gemms[i];
        if ((double)g->cost.calls * fm_gemm_flops(&g->cost.args) >= 0.01 * all) {
            FM_TRY(fm_rate_gemm(&g->best_flops_per_s, compute, &g->cost.args, seconds));
            *best = g->best_flops_per_s > *best ? g->best_flops_per_s : *best;
        }
    }
    return FM_OK;
}

int fm_bench_rates(fm_bench_result *r, fm_compute *compute, enum fm_dtype dtype, fm_comm *world)
{
    const double seconds = 0.4;
    double sums[3] = { 0.0, 0.0, 0.0 };   /* own products, square ones, copies */
    FM_TRY(fm_comm_barrier(world));
    int rc = own_rates(r, &sums[0], compute);
    if (rc == FM_OK) {
        rc = fm_rate_square(&sums[1], &r->square_side, compute, dtype, seconds);
    }
    if (rc == FM_OK) {
        rc = fm_rate_copy(&sums[2], compute, seconds);
    }
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_all_reduce(world, sums, 3, FM_F64, FM_SUM));
    r->square_flops_per_s = sums[1];
    r->gemm_flops_per_s = sums[0] > sums[1] ? sums[0] : sums[1];
    r->copy_bytes_per_s = sums[2];
    return FM_OK;
}

double fm_bench_mfu(const fm_bench_result *r, double flops_per_token)
{
    return r->gemm_flops_per_s > 0.0 ? (double)r->tokens / r->step_s * flops_per_token / r->gemm_flops_per_s : 0.0;
}
