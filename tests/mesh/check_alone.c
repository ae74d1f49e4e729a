/* Checks against the same model on one rank, or on the same mesh with other options. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "checks.h"

/* ---- alone ---- */

/* Eight rows of 1 to 200 tokens, a fifth of them without a label. */
static int write_rows(const run *r)
{
    static const int lengths[ROWS] = { 150, 33, 9, 200, 1, 77, 64, 128 };
    fm_text text = { .data = NULL };
    uint32_t random = 7;
    for (int row = 0; row < ROWS; row++) {
        fm_text ids = { .data = NULL }, labels = { .data = NULL };
        for (int i = 0; i < lengths[row]; i++) {
            random = random * 1664525u + 1013904223u;
            const int id = (int)((random >> 8) % (uint32_t)r->V);
            fm_text_add(&ids, "%s%d", i > 0 ? "," : "", id);
            fm_text_add(&labels, "%s%d", i > 0 ? "," : "", (random >> 4) % 5 == 0 ? -100 : id);
        }
        fm_text_add(&text, "{\"input_ids\":[%s],\"labels\":[%s]}\n", fm_text_get(&ids), fm_text_get(&labels));
        fm_text_clear(&ids);
        fm_text_clear(&labels);
    }
    const int rc = session_write(r->s, "rows.jsonl", fm_text_get(&text), text.size_bytes);
    fm_text_clear(&text);
    return rc;
}

static int take_gradients(void *context, fm_model *model, int64_t step)
{
    (void)step;
    run *const r = context;
    return reference_take_gradients(&r->alone, model);
}

static int compare_with_alone(void *context, fm_model *model, int64_t step)
{
    (void)step;
    run *const r = context;
    r->compared = true;
    return reference_compare_gradients(&r->gradient, &r->alone, model, 1e-5, 0.0);
}

static void set_rows(run *r, const fm_mesh_shape *mesh)
{
    run_set_job(r, mesh);
    run_override(r, "data.train=%s/rows.jsonl", r->s->scratch);
    run_override(r, "data.seq_length=256");
}

/* The one rank's loss and gradients, once for a model and size of microbatch. */
static int run_alone(run *r)
{
    const fm_mesh_shape one = { { 1, 1, 1, 1, 1 } };
    fm_step_metrics m = { .step = 0 };
    reference_close(&r->alone);
    set_rows(r, &one);
    int rc = run_begin(r, &r->s->alone, take_gradients);
    rc = rc < 0 ? rc : run_step(r, 1, &m);
    trial_end(&r->t);
    r->alone.loss = m.loss;
    r->alone.grad_norm = m.grad_norm;
    r->alone.label_tokens = r->local_batch_size;
    fm_log_set_speaker(r->s->launch.rank == 0);
    return fm_comm_agree(r->s->launch.world, rc);
}

int check_alone(run *r)
{
    if (r->alone.gradients == NULL || r->alone.label_tokens != r->local_batch_size) {
        FM_TRY(write_rows(r));
        FM_TRY(run_alone(r));
    }
    fm_step_metrics m;
    set_rows(r, &r->mesh);
    FM_TRY(run_begin(r, &r->s->launch, compare_with_alone));
    FM_TRY(run_step(r, 1, &m));
    const double loss = m.loss / r->alone.loss - 1.0, norm = m.grad_norm / r->alone.grad_norm - 1.0;
    const bool stages_only = r->mesh.size[FM_PP] == r->s->launch.n_ranks;
    const bool good = r->compared && fabs(loss) <= 1e-6 && fabs(norm) <= 1e-6 && r->gradient.error <= r->gradient.tolerance
                      && r->gradient.complaint[0] == '\0' && (!stages_only || (loss == 0.0 && r->gradient.different == 0));
    char what[640];
    snprintf(what, sizeof what, "%+9.1e %+9.1e %4d %8.1e  %s%s%s", loss, norm, r->gradient.different, r->gradient.error,
             r->gradient.name, r->gradient.complaint[0] == '\0' ? "" : "; ", r->gradient.complaint);
    run_report(r, good, what);
    return FM_OK;
}

/* ---- recompute ---- */

/* Loss and gradients of this rank's slices, in their bits. */
typedef struct {
    double loss;
    int64_t elements;
    float *gradients;
} outcome;

static int take_outcome(outcome *out, const fm_model *m, double loss)
{
    out->loss = loss;
    for (int u = 0; u < m->n_units; u++) {
        out->elements += m->units[u].shard_elements;
    }
    out->gradients = fm_alloc_array(out->elements, sizeof *out->gradients, FM_MEMORY_HOST);
    if (out->gradients == NULL) {
        return FM_ERR_MEMORY;
    }
    int64_t at = 0;
    for (int u = 0; u < m->n_units; u++) {
        const size_t bytes = (size_t)m->units[u].shard_elements * sizeof *out->gradients;
        FM_TRY(fm_device_copy_out(m->compute->device, out->gradients + at, m->units[u].gradient, bytes));
        at += m->units[u].shard_elements;
    }
    return FM_OK;
}

static int run_outcome(outcome *out, run *r, const char *recompute)
{
    run_set_job(r, &r->mesh);
    run_override(r, "data.train=%s/rows.jsonl", r->dir);
    run_override(r, "distributed.activation_checkpointing=%s", recompute);
    fm_step_metrics m;
    int rc = run_begin(r, &r->s->launch, NULL);
    rc = rc < 0 ? rc : run_step(r, 1, &m);
    rc = rc < 0 ? rc : take_outcome(out, r->t.a.model, m.loss);
    trial_end(&r->t);
    return fm_comm_agree(r->s->launch.world, rc);
}

/* Ranks on which the two differ, and by how much. */
static int compare_outcomes(double *ranks, double *apart, const outcome *a, const outcome *b, fm_comm *world)
{
    *apart = fabs(a->loss - b->loss);
    for (int64_t i = 0; i < a->elements && a->elements == b->elements; i++) {
        const double difference = fabs((double)a->gradients[i] - (double)b->gradients[i]);
        *apart = difference <= *apart ? *apart : difference;
    }
    *ranks = a->loss != b->loss || a->elements != b->elements
             || memcmp(a->gradients, b->gradients, (size_t)a->elements * sizeof *a->gradients) != 0;
    FM_TRY(fm_comm_all_reduce(world, apart, 1, FM_F64, FM_MAX));
    return fm_comm_all_reduce(world, ranks, 1, FM_F64, FM_SUM);
}

int check_recompute(run *r)
{
    static const char *const ways[] = { "no", "full", "selective" };
    enum { WAYS = sizeof ways / sizeof ways[0] };
    outcome outcomes[WAYS] = { { .loss = 0.0 } };
    int rc = FM_OK;
    for (int w = 0; w < WAYS && rc == FM_OK; w++) {
        rc = run_outcome(&outcomes[w], r, ways[w]);
    }
    for (int w = 1; w < WAYS && rc == FM_OK; w++) {
        double ranks, apart;
        rc = compare_outcomes(&ranks, &apart, &outcomes[0], &outcomes[w], r->s->launch.world);
        char what[128];
        snprintf(what, sizeof what, "%-9s differs on %.0f ranks, by %.1e", ways[w], ranks, apart);
        if (rc == FM_OK) {
            run_report(r, ranks == 0.0 && isfinite(outcomes[0].loss) && outcomes[0].loss > 0.0, what);
        }
    }
    for (int w = 0; w < WAYS; w++) {
        fm_free(outcomes[w].gradients);
    }
    return rc;
}
