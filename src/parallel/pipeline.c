#include "parallel/pipeline.h"

#include "base/memory.h"

/* What a row takes in units of time, and what it does to the table's state. */
static const struct {
    const char *name;
    int units;
    bool forward, input, weight;
} actions[] = {
    [FM_ACTION_FORWARD] = { "forward", 1, true, false, false },
    [FM_ACTION_BACKWARD] = { "backward", 2, false, true, true },
    [FM_ACTION_BACKWARD_INPUT] = { "backward of the input", 1, false, true, false },
    [FM_ACTION_BACKWARD_WEIGHT] = { "backward of the weights", 1, false, false, true },
};

/* When each (virtual stage, microbatch) has done its forward pass and its input part; -1: not yet. */
typedef struct {
    int *forward, *input;
} progress;

static int n_stages(const fm_pipeline *p)
{
    return p->ranks * p->chunks;
}

static int progress_new(progress *done, const fm_pipeline *p)
{
    const int64_t n = (int64_t)n_stages(p) * p->microbatches;
    done->forward = fm_alloc_array(2 * n, sizeof *done->forward, FM_MEMORY_HOST);
    if (done->forward == NULL) {
        return FM_ERR_MEMORY;
    }
    done->input = done->forward + n;
    return FM_OK;
}

static void progress_reset(const progress *done, const fm_pipeline *p)
{
    for (int64_t i = 0; i < 2 * (int64_t)n_stages(p) * p->microbatches; i++) {
        done->forward[i] = -1;
    }
}

static int64_t place_of(const fm_pipeline *p, const fm_pipeline_row *row, int stages_ahead)
{
    return ((int64_t)row->chunk * p->ranks + row->rank + stages_ahead) * p->microbatches + row->microbatch;
}

/* From when on a row can run: all that it needs is done; -1 where something is not. */
static int ready_at(const fm_pipeline *p, const progress *done, const fm_pipeline_row *row)
{
    const int stage = row->chunk * p->ranks + row->rank;
    if (row->action == FM_ACTION_FORWARD) {
        return stage == 0 ? 0 : done->forward[place_of(p, row, -1)];
    }
    if (row->action == FM_ACTION_BACKWARD_WEIGHT) {
        return done->input[place_of(p, row, 0)];
    }
    const int own = done->forward[place_of(p, row, 0)];
    const int next = stage == n_stages(p) - 1 ? own : done->input[place_of(p, row, 1)];
    return own < 0 || next < 0 ? -1 : own > next ? own : next;
}

static void finish(const fm_pipeline *p, const progress *done, const fm_pipeline_row *row)
{
    const int end = row->tick + actions[row->action].units;
    if (actions[row->action].forward) {
        done->forward[place_of(p, row, 0)] = end;
    }
    if (actions[row->action].input) {
        done->input[place_of(p, row, 0)] = end;
    }
}

/* Runs the rows of each rank in their order, as early as can be, and sets their ticks. False where the order would wait for
 * ever. */
static bool time_rows(fm_pipeline *p, const progress *done, int *next)
{
    progress_reset(done, p);
    for (int r = 0; r < p->ranks; r++) {
        next[r] = p->first[r];
    }
    int left = p->n_rows;
    for (bool moved = true; moved && left > 0;) {
        moved = false;
        for (int r = 0; r < p->ranks; r++) {
            while (next[r] < p->first[r + 1]) {
                fm_pipeline_row *const row = &p->rows[next[r]], *const before = next[r] == p->first[r] ? NULL : row - 1;
                const int free_at = before == NULL ? 0 : before->tick + actions[before->action].units;
                const int ready = ready_at(p, done, row);
                if (ready < 0) {
                    break;
                }
                row->tick = ready > free_at ? ready : free_at;
                finish(p, done, row);
                next[r]++;
                left--;
                moved = true;
            }
        }
    }
    return left == 0;
}

/* ---- the orders: each fills the rows of every rank, without ticks ---- */

static void put(fm_pipeline_row **at, int rank, enum fm_action action, int microbatch, int chunk)
{
    *(*at)++ = (fm_pipeline_row){ rank, 0, action, microbatch, chunk };
}

/* One rank: forward and backward of each microbatch in turn. */
static void order_alone(fm_pipeline *p)
{
    fm_pipeline_row *at = p->rows;
    for (int m = 0; m < p->microbatches; m++) {
        for (int c = 0; c < p->chunks; c++) {
            put(&at, 0, FM_ACTION_FORWARD, m, c);
        }
        for (int c = p->chunks - 1; c >= 0; c--) {
            put(&at, 0, FM_ACTION_BACKWARD, m, c);
        }
    }
}

/* GPipe (Huang et al. 2019); with several chunks breadth first (Lamy-Poirier 2023). */
static void order_gpipe(fm_pipeline *p)
{
    for (int r = 0; r < p->ranks; r++) {
        fm_pipeline_row *at = p->rows + p->first[r];
        for (int c = 0; c < p->chunks; c++) {
            for (int m = 0; m < p->microbatches; m++) {
                put(&at, r, FM_ACTION_FORWARD, m, c);
            }
        }
        for (int c = p->chunks - 1; c >= 0; c--) {
            for (int m = 0; m < p->microbatches; m++) {
                put(&at, r, FM_ACTION_BACKWARD, m, c);
            }
        }
    }
}

/* Microbatches go through one chunk after the other in groups of as many as there are ranks, or a few more, so that all groups
 * have at least that many: then no rank waits between groups. */
static int n_groups(const fm_pipeline *p)
{
    return p->microbatches < p->ranks ? 1 : p->microbatches / p->ranks;
}

/* Number k of a rank's forward (or backward) passes. */
static void interleaved_step(int *microbatch, int *chunk, const fm_pipeline *p, int k, bool forward)
{
    const int M = p->microbatches, groups = n_groups(p);
    int start = 0, size = 0;
    for (int g = 0; g < groups; g++) {                /* groups differ by one microbatch at most, the larger ones first */
        size = M / groups + (g < M % groups ? 1 : 0);
        if (k < size * p->chunks) {
            break;
        }
        k -= size * p->chunks;
        start += size;
    }
    *microbatch = start + k % size;
    *chunk = forward ? k / size : p->chunks - 1 - k / size;
}

/* Interleaved 1F1B (Narayanan et al. 2021, section 2.2.2), for any number of microbatches: `warmup` forward passes, then
 * forward and backward in turn, then the backward passes that are left. */
static void order_interleaved(fm_pipeline *p)
{
    const int total = p->chunks * p->microbatches, group = (p->microbatches + n_groups(p) - 1) / n_groups(p);
    for (int r = 0; r < p->ranks; r++) {
        fm_pipeline_row *at = p->rows + p->first[r];
        const int wanted = 2 * (p->ranks - 1 - r) + (p->chunks - 1) * group;
        const int warmup = wanted < total ? wanted : total;
        int m, c;
        for (int k = 0; k < total + warmup; k++) {
            if (k < total) {
                interleaved_step(&m, &c, p, k, true);
                put(&at, r, FM_ACTION_FORWARD, m, c);
            }
            if (k >= warmup) {
                interleaved_step(&m, &c, p, k - warmup, false);
                put(&at, r, FM_ACTION_BACKWARD, m, c);
            }
        }
    }
}

/* 1F1B (PipeDream-flush; Narayanan et al. 2021, section 2.2.1), or split ZB-H1 (Qi et al. 2023, section 2.1): rank r runs the
 * weight part r microbatches after the input part. Rank P-1 so has the same P activations as rank 0, and all the weight parts
 * that fill the end. */
static void order_1f1b(fm_pipeline *p, bool split)
{
    const int M = p->microbatches;
    for (int r = 0; r < p->ranks; r++) {
        fm_pipeline_row *at = p->rows + p->first[r];
        const int warmup = p->ranks - 1 - r;
        for (int k = -warmup; k < M + r; k++) {
            if (k + warmup < M) {
                put(&at, r, FM_ACTION_FORWARD, k + warmup, 0);
            }
            if (k >= 0 && k < M) {
                put(&at, r, split ? FM_ACTION_BACKWARD_INPUT : FM_ACTION_BACKWARD, k, 0);
            }
            if (split && k >= r) {
                put(&at, r, FM_ACTION_BACKWARD_WEIGHT, k - r, 0);
            }
        }
    }
}

/* ---- the table ---- */

static bool has_chunks(enum fm_pipeline_schedule schedule)
{
    return schedule == FM_PIPELINE_GPIPE || schedule == FM_PIPELINE_INTERLEAVED_1F1B;
}

static int allocate(fm_pipeline *p, int rows_each)
{
    p->n_rows = p->ranks * rows_each;
    p->rows = fm_alloc_array(p->n_rows, sizeof *p->rows, FM_MEMORY_HOST);
    p->first = fm_alloc_array(p->ranks + 1, sizeof *p->first, FM_MEMORY_HOST);
    if (p->rows == NULL || p->first == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int r = 0; r <= p->ranks; r++) {
        p->first[r] = r * rows_each;
    }
    return FM_OK;
}

static void fill(fm_pipeline *p, const progress *done, int *next)
{
    if (p->ranks == 1) {
        order_alone(p);
    } else if (p->schedule == FM_PIPELINE_GPIPE) {
        order_gpipe(p);
    } else if (p->chunks == 1) {
        order_1f1b(p, p->schedule == FM_PIPELINE_ZB);
    } else {
        order_interleaved(p);
    }
    FM_ASSERT(time_rows(p, done, next));
}

int fm_pipeline_check_chunks(enum fm_pipeline_schedule schedule, int chunks)
{
    if (chunks > 1 && !has_chunks(schedule)) {
        return fm_fail(FM_ERR_JOB, "pipeline.schedule = %s has one model chunk a rank, but virtual_stages is %d. Choose "
                       "virtual_stages = 1, or schedule = interleaved1f1b.", schedule == FM_PIPELINE_ZB ? "zb" : "1f1b", chunks);
    }
    return FM_OK;
}

int fm_pipeline_emit(fm_pipeline *out, enum fm_pipeline_schedule schedule, int ranks, int chunks, int microbatches)
{
    FM_ASSERT(ranks > 0 && chunks > 0 && microbatches > 0);
    *out = (fm_pipeline){ .schedule = schedule, .ranks = ranks, .chunks = chunks, .microbatches = microbatches };
    FM_TRY(fm_pipeline_check_chunks(schedule, chunks));
    const bool split = schedule == FM_PIPELINE_ZB && ranks > 1;
    progress done = { NULL, NULL };
    int *const next = fm_alloc_array(ranks, sizeof *next, FM_MEMORY_HOST);
    int rc = next == NULL ? FM_ERR_MEMORY : allocate(out, chunks * microbatches * (split ? 3 : 2));
    rc = rc < 0 ? rc : progress_new(&done, out);
    if (rc == FM_OK) {
        fill(out, &done, next);
    }
    fm_free(done.forward);
    fm_free(next);
    if (rc < 0) {
        fm_pipeline_clear(out);
    }
    return rc;
}

void fm_pipeline_clear(fm_pipeline *pipeline)
{
    fm_free(pipeline->rows);
    fm_free(pipeline->first);
    *pipeline = (fm_pipeline){ .rows = NULL };
}

/* ---- the proof ---- */

static int refuse(const fm_pipeline *p, int i, const char *why)
{
    const fm_pipeline_row *const row = &p->rows[i];
    const bool known = (unsigned)row->action < sizeof actions / sizeof actions[0];
    return fm_fail(FM_ERR_INTERNAL, "pipeline table of %d ranks, %d chunks, %d microbatches: row %d (rank %d, tick %d, %s of "
                   "microbatch %d, chunk %d) %s", p->ranks, p->chunks, p->microbatches, i, row->rank, row->tick,
                   known ? actions[row->action].name : "unknown action", row->microbatch, row->chunk, why);
}

/* Every row is one that can be; the rows of a rank stand together and do not overlap in time. */
static int check_rows(const fm_pipeline *p)
{
    if (p->first[0] != 0 || p->first[p->ranks] != p->n_rows) {
        return fm_fail(FM_ERR_INTERNAL, "pipeline table: the rows of the ranks are not those of the table");
    }
    for (int r = 0; r < p->ranks; r++) {
        for (int i = p->first[r]; i < p->first[r + 1]; i++) {
            const fm_pipeline_row *const row = &p->rows[i];
            if (row->rank != r || (unsigned)row->action >= sizeof actions / sizeof actions[0] || row->chunk < 0
                || row->chunk >= p->chunks || row->microbatch < 0 || row->microbatch >= p->microbatches || row->tick < 0) {
                return refuse(p, i, "is none of this table");
            }
            if (i > p->first[r] && row->tick < row[-1].tick + actions[row[-1].action].units) {
                return refuse(p, i, "begins before the row before it has ended");
            }
        }
    }
    return FM_OK;
}

/* The k-th forward pass of a chunk on a rank is that of microbatch k, and so are input and weight parts: so each is there once
 * and in ascending order, and messages of one chunk and direction are sent and received in one order. counts [ranks, chunks,
 * 3], zeros. */
static int check_order(const fm_pipeline *p, int *counts)
{
    for (int i = 0; i < p->n_rows; i++) {
        const fm_pipeline_row *const row = &p->rows[i];
        int *const count = counts + 3 * (row->rank * p->chunks + row->chunk);
        const bool parts[3] = { actions[row->action].forward, actions[row->action].input, actions[row->action].weight };
        for (int part = 0; part < 3; part++) {
            if (parts[part] && count[part]++ != row->microbatch) {
                return refuse(p, i, "is not the next microbatch of its chunk");
            }
        }
    }
    for (int i = 0; i < 3 * n_stages(p); i++) {
        if (counts[i] != p->microbatches) {
            return fm_fail(FM_ERR_INTERNAL, "pipeline table: chunk %d of rank %d has %d of %d %s", i / 3 % p->chunks,
                           i / 3 / p->chunks, counts[i], p->microbatches,
                           i % 3 == 0 ? "forward passes" : i % 3 == 1 ? "input parts" : "weight parts");
        }
    }
    return FM_OK;
}

/* Nothing begins before what it needs has ended. As the rows of a rank ascend in time too, the order by ticks is one in which
 * everything can run: no rank waits for ever, whatever the true times are, where sends do not block. */
static int check_needs(const fm_pipeline *p, const progress *done)
{
    progress_reset(done, p);
    for (int i = 0; i < p->n_rows; i++) {
        finish(p, done, &p->rows[i]);
    }
    for (int i = 0; i < p->n_rows; i++) {
        const int ready = ready_at(p, done, &p->rows[i]);
        if (ready < 0 || ready > p->rows[i].tick) {
            return refuse(p, i, "begins before what it needs has ended");
        }
    }
    return FM_OK;
}

int fm_pipeline_check(const fm_pipeline *pipeline)
{
    FM_TRY(check_rows(pipeline));
    progress done = { NULL, NULL };
    int *const counts = fm_alloc_array(3 * (int64_t)n_stages(pipeline), sizeof *counts, FM_MEMORY_HOST);
    int rc = counts == NULL ? FM_ERR_MEMORY : progress_new(&done, pipeline);
    rc = rc < 0 ? rc : check_order(pipeline, counts);
    rc = rc < 0 ? rc : check_needs(pipeline, &done);
    fm_free(done.forward);
    fm_free(counts);
    return rc;
}

int fm_pipeline_peak(const fm_pipeline *pipeline, int rank)
{
    int held = 0, peak = 0;
    for (int i = pipeline->first[rank]; i < pipeline->first[rank + 1]; i++) {
        held += actions[pipeline->rows[i].action].forward;
        peak = held > peak ? held : peak;
        held -= actions[pipeline->rows[i].action].weight;
    }
    return peak;
}

int fm_pipeline_slots(const fm_pipeline *pipeline, int rank)
{
    return fm_pipeline_peak(pipeline, rank) + (pipeline->chunks > 1 && pipeline->ranks > 1);
}

double fm_pipeline_bubble(const fm_pipeline *pipeline)
{
    int64_t work = 0, end = 0;
    for (int i = 0; i < pipeline->n_rows; i++) {
        const fm_pipeline_row *const row = &pipeline->rows[i];
        const int row_end = row->tick + actions[row->action].units;
        work += actions[row->action].units;
        end = row_end > end ? row_end : end;
    }
    return 1.0 - (double)work / ((double)end * pipeline->ranks);
}

/* Layer by layer to the stage that is cheapest then. All layers cost the same, so no other division has a cheaper dearest
 * stage: when the dearest stage got its last layer, every other stage would have become as dear with it. Of equals the later
 * stage gets the layer, as earlier stages hold more activations. */
void fm_pipeline_divide(int *out, int n_layers, int n_stages, double first_cost, double last_cost)
{
    const int each = n_layers >= n_stages ? 1 : 0;
    for (int s = 0; s < n_stages; s++) {
        out[s + 1] = each;             /* for now: the number of layers of stage s */
    }
    for (int left = n_layers - each * n_stages; left > 0; left--) {
        int cheapest = 0;
        double least = 0;
        for (int s = 0; s < n_stages; s++) {
            const double cost = out[s + 1] + (s == 0 ? first_cost : 0) + (s == n_stages - 1 ? last_cost : 0);
            if (s == 0 || cost <= least) {
                cheapest = s;
                least = cost;
            }
        }
        out[cheapest + 1]++;
    }
    out[0] = 0;
    for (int s = 0; s < n_stages; s++) {
        out[s + 1] += out[s];
    }
}
