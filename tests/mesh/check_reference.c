/* Checks against what transformers computed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "checks.h"

/* What is asked of a compute dtype, in relative errors. A gradient may also be as far off as torch is: twice its distance in
 * fp32; in 16 bits that distance times the ratio of the roundings, 2^16 and 2^13 (torch's own bf16 gradients of these models take half of
 * it). */
typedef struct {
    double loss, gradient, torchs, norm, logits;
} tolerances;

static const tolerances tolerances_of[FM_DTYPES] = {
    [FM_F32] = { 1e-6, 1e-5, 2.0, 1e-6, 1e-5 },
    [FM_BF16] = { 1e-3, 4e-2, 65536.0, 5e-3, 2e-2 },
    [FM_F16] = { 1e-4, 5e-3, 8192.0, 1e-3, 3e-3 },
};

static const tolerances *tolerances_for(const run *r)
{
    return &tolerances_of[fm_assembly_dtype(&r->t.a)];
}

static int compare_gradients(void *context, fm_model *model, int64_t step)
{
    (void)step;
    run *const r = context;
    r->compared = true;
    return reference_compare_gradients(&r->gradient, &r->ref, model, tolerances_for(r)->gradient, tolerances_for(r)->torchs);
}

/* Judges a step over rows.jsonl. Not a number is no number that is small enough. */
static void report_step(run *r, const fm_step_metrics *m, double logits)
{
    const tolerances *const allowed = tolerances_for(r);
    const double loss = m->loss / r->ref.loss - 1.0, norm = m->grad_norm / r->ref.grad_norm - 1.0;
    const bool counted = m->label_tokens == r->ref.label_tokens && m->tokens == r->ref.tokens;
    const bool good = counted && r->compared && fabs(loss) <= allowed->loss && fabs(norm) <= allowed->norm
                      && logits <= allowed->logits && r->gradient.error <= r->gradient.tolerance
                      && r->gradient.complaint[0] == '\0';
    char what[640];
    snprintf(what, sizeof what, "%+9.1e %+9.1e %8.1e %8.1e  %s%s%s%s", loss, norm, logits, r->gradient.error, r->gradient.name,
             counted ? "" : "; label tokens or tokens are miscounted", r->gradient.complaint[0] == '\0' ? "" : "; ",
             r->gradient.complaint);
    run_report(r, good, what);
}

int check_gradients(run *r)
{
    run_override(r, "data.train=%s/rows.jsonl", r->dir);
    FM_TRY(run_begin(r, &r->s->launch, compare_gradients));
    double logits;
    FM_TRY(reference_compare_logits(&logits, &r->ref, r->t.a.model, r->t.data, r->local_batch_size));
    fm_step_metrics metrics;
    FM_TRY(run_step(r, 1, &metrics));
    report_step(r, &metrics, logits);
    return FM_OK;
}

/* ---- curve ---- */

/* The settings of loss_curve.json as keys of a job; *losses is borrowed from *curve. */
static int read_curve(json_t **curve, const json_t **losses, run *r)
{
    static const char *const keys[][2] = {
        { "optimizer.lr", "lr" }, { "optimizer.beta1", "beta1" }, { "optimizer.beta2", "beta2" }, { "optimizer.eps", "eps" },
        { "optimizer.weight_decay", "weight_decay" }, { "optimizer.clip_grad_norm", "clip_grad_norm" },
        { "batch.global_batch_size", "global_batch_size" }, { "train.steps", "steps" },
    };
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, r->dir, "loss_curve.json"));
    FM_TRY(fm_json_read(curve, path, CONFIG_LIMIT_BYTES));
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        run_override(r, "%s=%.17g", keys[k][0], json_number_value(json_object_get(*curve, keys[k][1])));
    }
    *losses = json_object_get(*curve, "loss_fp64");
    return json_array_size(*losses) > 0 ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s has no losses", path);
}

static int run_curve(run *r, const json_t *losses)
{
    run_override(r, "data.train=%s/curve.jsonl", r->s->data);
    FM_TRY(run_begin(r, &r->s->launch, NULL));
    double first = 0.0, early = 0.0, worst = 0.0;
    const int64_t steps = fm_loop_steps(r->t.loop);
    for (int64_t step = 1; step <= steps; step++) {
        fm_step_metrics m;
        FM_TRY(run_step(r, step, &m));
        const double error = fabs(m.loss / json_number_value(json_array_get(losses, (size_t)step - 1)) - 1.0);
        first = step == 1 ? error : first;
        early = step <= 20 && !(error <= early) ? error : early;
        worst = error <= worst ? worst : error;
    }
    char name[FM_NAME_BYTES], what[512];
    FM_TRY(reference_check_replicas(name, r->t.a.model, false));
    snprintf(what, sizeof what, "%9.1e %9.1e %9.1e  %s%s", first, early, worst,
             name[0] == '\0' ? "" : "replicas drifted apart: ", name);
    run_report(r, steps == (int64_t)json_array_size(losses) && first <= 1e-6 && early <= 1e-5 && worst <= 1e-4
                  && name[0] == '\0', what);
    return FM_OK;
}

int check_curve(run *r)
{
    json_t *curve = NULL;
    const json_t *losses;
    int rc = read_curve(&curve, &losses, r);
    if (rc == FM_OK) {
        rc = run_curve(r, losses);
    }
    json_decref(curve);
    return rc;
}

/* ---- empty ---- */

/* Eight rows of 1 to 8 tokens without a label. */
static int write_empty_rows(const run *r)
{
    char text[1024] = "";
    for (int row = 0; row < ROWS; row++) {
        strcat(text, "{\"input_ids\": [1");
        for (int i = 0; i < row; i++) {
            strcat(text, ", 2");
        }
        strcat(text, "], \"labels\": [-100");
        for (int i = 0; i < row; i++) {
            strcat(text, ", -100");
        }
        strcat(text, "]}\n");
    }
    return session_write(r->s, "empty.jsonl", text, strlen(text));
}

/* The largest change of a weight of this rank since `before` (its first call: NULL). The caller frees *weights. */
static int largest_change(double *change, float **weights, const fm_model *m, const float *before)
{
    int64_t n = 0, at = 0;
    for (int u = 0; u < m->n_units; u++) {
        n += m->units[u].shard_elements;
    }
    *weights = fm_alloc_array(n, sizeof **weights, FM_MEMORY_HOST);
    if (*weights == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int u = 0; u < m->n_units; u++) {
        const int64_t elements = m->units[u].shard_elements;
        FM_TRY(fm_device_copy_out(m->compute->device, *weights + at, m->units[u].weight, (size_t)elements * sizeof **weights));
        at += elements;
    }
    *change = 0.0;
    for (int64_t i = 0; before != NULL && i < n; i++) {
        const double difference = fabs((double)(*weights)[i] - (double)before[i]);
        *change = difference <= *change ? *change : difference;
    }
    return fm_comm_all_reduce(fm_groups_get(m->groups, FM_GROUP_WORLD), change, 1, FM_F64, FM_MAX);
}

/* Step 1 without label tokens, step 2 over rows.jsonl: the weights are still the first ones, and AdamW's first step moves the
 * most moved weight by the learning rate (its second, after gradients of 0, by 0.74 of it). */
int check_empty(run *r)
{
    FM_TRY(write_empty_rows(r));
    run_override(r, "data.train=%s/empty.jsonl,%s/rows.jsonl", r->s->scratch, r->dir);
    run_override(r, "train.steps=2");
    run_override(r, "optimizer.weight_decay=0");
    run_override(r, "optimizer.clip_grad_norm=0");
    FM_TRY(run_begin(r, &r->s->launch, NULL));
    float *start = NULL, *after_empty = NULL, *after_full = NULL;
    double none, change_empty, change_full;
    fm_step_metrics empty, full;
    const fm_model *const m = r->t.a.model;
    int rc;
    FM_TRY_TO(done, rc, largest_change(&none, &start, m, NULL));
    FM_TRY_TO(done, rc, run_step(r, 1, &empty));
    FM_TRY_TO(done, rc, largest_change(&change_empty, &after_empty, m, start));
    FM_TRY_TO(done, rc, run_step(r, 2, &full));
    FM_TRY_TO(done, rc, largest_change(&change_full, &after_full, m, start));
    const double lr = r->t.a.job.optimizer.lr, loss = full.loss / r->ref.loss - 1.0;
    char what[256];
    snprintf(what, sizeof what, "%8.1e %8.1e %+9.1e %8.5f", empty.loss, change_empty, loss, change_full / lr);
    run_report(r, empty.loss == 0.0 && empty.grad_norm == 0.0 && empty.label_tokens == 0 && empty.tokens == 36
                  && change_empty == 0.0 && fabs(loss) <= tolerances_for(r)->loss && fabs(change_full / lr - 1.0) < 0.01, what);
done:
    fm_free(start);
    fm_free(after_empty);
    fm_free(after_full);
    return rc;
}
