#include "train/loop.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "train/evaluate.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/step.h"

struct fm_loop {
    fm_loop_spec spec;
    fm_optimizer optimizer;
    fm_order order;
    fm_pipeline pipeline;              /* of a step */
    fm_pass pass;
    fm_evaluation validation;
    fm_loss_scale scale;
    int64_t n_steps;
    double waited_s;                   /* for FSDP's transfers, in the last step */
};

double fm_loop_flops_per_token(const fm_config *c, int64_t T)
{
    const double layer = (double)c->C * (2.0 * c->H + 2.0 * c->K) * c->D + 3.0 * (double)c->C * (double)c->F;
    const double matrices = c->L * layer + (double)c->V * (double)c->C;
    return 6.0 * matrices + 6.0 * c->L * (double)c->H * c->D * (double)T;
}

static int64_t longest_row(const fm_loop *loop)
{
    const fm_loop_spec *const s = &loop->spec;
    const int64_t train = s->rows != NULL ? fm_pass_padded(s->model, s->rows->T) : fm_longest_row(s->model, s->train);
    const int64_t validation = s->validation == NULL ? 1 : fm_longest_row(s->model, s->validation);
    return train > validation ? train : validation;
}

static int plan(fm_loop *loop)
{
    const fm_loop_spec *const s = &loop->spec;
    fm_model *const m = s->model;
    const int64_t local = s->batch->local_batch_size, global = s->batch->global_batch_size;
    const int dp = fm_mesh_dp_size(&m->layout.mesh), pp = m->layout.mesh.size[FM_PP];
    if (s->rows == NULL) {
        FM_TRY(fm_order_train(&loop->order, fm_dataset_samples(s->train), global, s->seed, s->data->shuffle));
    }
    loop->n_steps = s->train_options->steps > 0 ? s->train_options->steps : s->train_options->epochs * loop->order.steps_per_epoch;
    FM_TRY(fm_schedule_check(s->schedule, loop->n_steps));
    FM_TRY(fm_pipeline_emit(&loop->pipeline, s->pipeline->schedule, pp, m->n_chunks, (int)(global / (local * dp))));
    loop->pass = (fm_pass){
        .model = m, .dataset = s->train, .order = &loop->order, .rows = s->rows, .pipeline = &loop->pipeline,
        .local_batch_size = local,
    };
    return s->validation == NULL ? FM_OK : fm_evaluation_begin(&loop->validation, m, s->validation, s->batch, s->pipeline);
}

fm_model_reserve_spec fm_loop_needs(const fm_loop *loop)
{
    const fm_model *const m = loop->spec.model;
    const int64_t T = longest_row(loop);
    bool splits = false;
    for (int i = 0; i < loop->pipeline.n_rows; i++) {
        splits = splits || loop->pipeline.rows[i].action == FM_ACTION_BACKWARD_WEIGHT;
    }
    return (fm_model_reserve_spec){
        .B = (int)loop->spec.batch->local_batch_size, .T = T / m->layout.mesh.size[FM_CP], .padded_T = T,
        .n_slots = fm_pipeline_slots(&loop->pipeline, m->coord.at[FM_PP]), .split_backward = splits,
    };
}

int fm_loop_new(fm_loop **out, const fm_loop_spec *spec)
{
    fm_loop *const loop = fm_alloc(sizeof *loop, FM_MEMORY_HOST);
    *out = loop;
    if (loop == NULL) {
        return FM_ERR_MEMORY;
    }
    loop->spec = *spec;
    loop->optimizer.options = spec->optimizer;
    loop->scale = fm_loss_scale_begin(spec->model->setup.dtype);
    const int rc = plan(loop);
    if (rc < 0) {
        fm_loop_destroy(loop);
        *out = NULL;
    }
    return rc;
}

void fm_loop_destroy(fm_loop *loop)
{
    if (loop != NULL) {
        fm_pass_clear(&loop->pass);
        fm_pipeline_clear(&loop->pipeline);
        fm_evaluation_end(&loop->validation);
        fm_free(loop);
    }
}

int fm_loop_padding(double *share, const fm_loop *loop)
{
    enum { LOOKED_AT = 10000 };
    return fm_batch_padding(share, &loop->order, loop->spec.train, loop->spec.batch->local_batch_size, LOOKED_AT);
}

int64_t fm_loop_steps(const fm_loop *loop)
{
    return loop->n_steps;
}

/* Slowest and fastest rank, by the time that they did not wait. */
static int compare_ranks(fm_loop *loop, fm_step_metrics *metrics, double own_ms)
{
    fm_comm *const world = fm_groups_get(loop->spec.model->groups, FM_GROUP_WORLD);
    const int ranks = fm_comm_size(world), rank = fm_comm_rank(world);
    double *const times = fm_alloc_array(ranks, sizeof *times, FM_MEMORY_HOST);
    if (times == NULL) {
        return FM_ERR_MEMORY;
    }
    times[rank] = own_ms;
    const int rc = fm_comm_all_gather(world, times, times + rank, 1, FM_F64);
    metrics->slowest_rank = metrics->fastest_rank = 0;
    for (int r = 1; r < ranks; r++) {
        metrics->slowest_rank = times[r] > times[metrics->slowest_rank] ? r : metrics->slowest_rank;
        metrics->fastest_rank = times[r] < times[metrics->fastest_rank] ? r : metrics->fastest_rank;
    }
    metrics->slowest_ms = times[metrics->slowest_rank];
    metrics->fastest_ms = times[metrics->fastest_rank];
    fm_free(times);
    return rc;
}

/* A step without label tokens: nothing is learnt, the schedule goes on. With float16 a step whose gradients are infinite is skipped, and
 * the next ones are scaled less. */
static int update(fm_loop *loop, int64_t step, fm_step_metrics *metrics)
{
    fm_model *const m = loop->spec.model;
    const bool is_scaled = m->setup.dtype == FM_F16;
    FM_TRY(fm_optimizer_finish_gradients(m, loop->scale.factor));
    if (loop->spec.on_gradients != NULL) {
        FM_TRY(loop->spec.on_gradients(loop->spec.context, m, step));
    }
    int rc = isfinite(metrics->loss) ? FM_OK : fm_fail(FM_ERR_NUMERIC, "the loss is %g", metrics->loss);
    if (rc == FM_OK) {
        rc = fm_optimizer_norm(&metrics->grad_norm, m);
    }
    if (rc == FM_ERR_NUMERIC && is_scaled) {
        metrics->grad_norm = NAN;
        return fm_loss_scale_skip(&loop->scale, step);
    }
    if (rc < 0) {                      /* the same on every rank: all leave */
        return rc == FM_ERR_NUMERIC ? fm_fail_in(rc, "step %lld", (long long)step) : rc;
    }
    if (metrics->label_tokens == 0) {
        return FM_OK;
    }
    FM_TRY(fm_optimizer_update(&loop->optimizer, m, metrics->lr, metrics->grad_norm));
    if (is_scaled) {
        fm_loss_scale_keep(&loop->scale);
    }
    return FM_OK;
}

/* What the model takes at its peak. Copies for checkpoints and host data come and go with the history of a run, which is not the
 * same after a resume. */
static int64_t training_bytes(void)
{
    size_t sum = 0;
    for (int kind = 0; kind < FM_MEMORY_KINDS; kind++) {
        sum += kind == FM_MEMORY_CHECKPOINT || kind == FM_MEMORY_HOST ? 0 : fm_memory_peak_bytes((enum fm_memory)kind);
    }
    return (int64_t)sum;
}

fm_loop_state fm_loop_get_state(const fm_loop *loop)
{
    return (fm_loop_state){ .updates = loop->optimizer.updates, .scale = loop->scale };
}

void fm_loop_resume(fm_loop *loop, const fm_loop_state *state)
{
    loop->optimizer.updates = state->updates;
    if (loop->spec.model->setup.dtype == FM_F16 && state->scale.factor > 0.0) {
        loop->scale = state->scale;
    }
}

/* Tokens of a step's global batch. */
static int count_tokens(fm_step_metrics *metrics, const fm_loop *loop, int64_t step)
{
    const fm_loop_spec *const s = &loop->spec;
    if (s->rows == NULL) {
        return fm_batch_count(&metrics->label_tokens, &metrics->tokens, &loop->order, s->train, step);
    }
    metrics->tokens = s->batch->global_batch_size * s->rows->T;
    metrics->label_tokens = s->batch->global_batch_size * (s->rows->T - 1);
    return FM_OK;
}

int fm_loop_step(fm_loop *loop, int64_t step, fm_step_metrics *metrics)
{
    const fm_loop_spec *const s = &loop->spec;
    const double begin_s = fm_clock_s();
    *metrics = (fm_step_metrics){ .step = step };
    FM_TRY(count_tokens(metrics, loop, step));
    metrics->lr = fm_schedule_lr(s->schedule, s->optimizer->lr, step, loop->n_steps);
    const double N = metrics->label_tokens > 0 ? (double)metrics->label_tokens : 1.0;
    double sum;
    fm_optimizer_begin(s->model);
    FM_TRY(fm_pass_run(&sum, &loop->pass, step, true, (float)(loop->scale.factor / N)));
    metrics->loss = sum / N;
    FM_TRY(update(loop, step, metrics));
    const double seconds = fm_clock_s() - begin_s;
    metrics->step_ms = 1e3 * seconds;
    metrics->tokens_per_s = (double)metrics->tokens / seconds;
    metrics->memory_bytes = training_bytes();
    loop->waited_s = fm_fsdp_take_waited_s(s->model->fsdp);
    return s->report_ranks ? compare_ranks(loop, metrics, 1e3 * (seconds - loop->waited_s)) : FM_OK;
}

bool fm_loop_must_validate(const fm_loop *loop, int64_t step)
{
    const int64_t every = loop->spec.validate->every;
    return loop->spec.validation != NULL && (step == loop->n_steps || (every > 0 && step % every == 0));
}

int fm_loop_validate(fm_loop *loop, double *val_loss, int64_t *val_tokens)
{
    return fm_evaluation_run(val_loss, val_tokens, &loop->validation);
}
