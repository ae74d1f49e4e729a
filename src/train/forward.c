#include "train/forward.h"

#include <math.h>

#include "base/memory.h"
#include "model/ends.h"
#include "train/step.h"

fm_model_reserve_spec fm_forward_needs(const fm_model *m, int64_t n)
{
    return fm_forward_needs_rows(m, 1, n);
}

fm_model_reserve_spec fm_forward_needs_rows(const fm_model *m, int64_t B, int64_t n)
{
    const int64_t row_T = fm_pass_padded(m, n);
    return (fm_model_reserve_spec){ .B = (int)B, .T = row_T / m->layout.mesh.size[FM_CP], .padded_T = row_T, .n_slots = 1 };
}

int64_t fm_forward_place(const fm_forward *f, const fm_model *m, int64_t t)
{
    const int cp = m->layout.mesh.size[FM_CP];
    return cp == 1 ? t : fm_context_token(t, f->row_T, cp, m->coord.at[FM_CP]);
}

static int alloc_rows(fm_forward *f)
{
    const int64_t N = f->B * f->T, row_N = f->B * f->row_T;
    f->ids = fm_alloc_array(4 * N + 2 * row_N, sizeof *f->ids, FM_MEMORY_HOST);
    if (f->ids == NULL) {
        return FM_ERR_MEMORY;
    }
    f->labels = f->ids + N;
    f->position = f->labels + N;
    f->document = f->position + N;
    f->row_position = f->document + N;
    f->row_document = f->row_position + row_N;
    return FM_OK;
}

static int cut_rows(fm_forward *f, const fm_model *m, const int32_t *ids, int64_t B, int64_t n)
{
    f->B = B;
    f->n = n;
    f->row_T = fm_pass_padded(m, n);
    f->T = f->row_T / m->layout.mesh.size[FM_CP];
    f->words = m->vocabulary.count;
    FM_TRY(alloc_rows(f));
    for (int64_t b = 0; b < B; b++) {
        for (int64_t t = 0; t < f->row_T; t++) {
            f->row_position[b * f->row_T + t] = (int32_t)t;
            f->row_document[b * f->row_T + t] = t < n ? 0 : -1;
        }
        for (int64_t t = 0; t < f->T; t++) {
            const int64_t at = fm_forward_place(f, m, t), i = b * f->T + t;
            f->ids[i] = at < n ? ids[b * n + at] : 0;
            f->labels[i] = -100;
            f->position[i] = f->row_position[at];
            f->document[i] = f->row_document[at];
        }
    }
    return FM_OK;
}

/* One chunk of this rank: from the stage before, to the stage behind; messages are tagged by the chunk that gets them. */
static int run_chunk(fm_forward *f, fm_model *m, const fm_microbatch *batch, int c)
{
    fm_comm *const pp = fm_groups_device(m->groups, FM_GROUP_PP);
    const int stages = m->layout.mesh.size[FM_PP], at = m->coord.at[FM_PP];
    fm_slot *const slot = &m->slots[0];
    fm_chunk chunk = m->chunks[c];
    const bool has_head = chunk.has_head;
    chunk.has_head = false;            /* logits are wanted, not a loss */
    fm_request request = { { NULL, NULL } };
    FM_TRY(fm_model_begin(m, slot, &chunk, batch));
    const int64_t n = fm_model_boundary_rows(m, slot) * m->config.C;
    if (!chunk.has_embedding) {
        FM_TRY(fm_comm_begin_receive(pp, &request, slot->blocks[0].x, n, m->setup.dtype, (at + stages - 1) % stages,
                                     fm_tag(FM_LANE_FORWARD, c)));
        FM_TRY(fm_comm_wait(&request));
    }
    FM_TRY(fm_stage_forward(m, &chunk, slot, 0.0f));
    if (!has_head) {
        FM_TRY(fm_comm_begin_send(pp, &request, slot->out, n, m->setup.dtype, (at + 1) % stages,
                                  fm_tag(FM_LANE_FORWARD, at + 1 < stages ? c : c + 1)));
        return fm_comm_wait(&request);
    }
    f->logits = fm_alloc_array(f->B * f->T * f->words, sizeof *f->logits, FM_MEMORY_HOST);
    return f->logits == NULL ? FM_ERR_MEMORY : fm_head_logits(m, slot, f->logits);
}

static int run_stage(fm_forward *f, fm_model *m)
{
    const fm_microbatch batch = {
        .B = (int)f->B, .T = f->T, .padded_T = f->n, .ids = f->ids, .labels = f->labels, .position = f->position,
        .document = f->document, .row_T = f->row_T, .row_position = f->row_position, .row_document = f->row_document, .only_loss = true,
    };
    for (int c = 0; c < m->n_chunks; c++) {
        FM_TRY(run_chunk(f, m, &batch, c));
    }
    return FM_OK;
}

int fm_forward_run_rows(fm_forward *f, fm_model *m, const int32_t *ids, int64_t B, int64_t n)
{
    fm_forward_clear(f);
    FM_TRY(fm_comm_agree(fm_groups_get(m->groups, FM_GROUP_WORLD), cut_rows(f, m, ids, B, n)));
    return run_stage(f, m);
}

int fm_forward_run(fm_forward *f, fm_model *m, const int32_t *ids, int64_t n)
{
    return fm_forward_run_rows(f, m, ids, 1, n);
}

int fm_forward_next(int32_t *word, const fm_forward *f, const fm_model *m)
{
    fm_comm *const world = fm_groups_get(m->groups, FM_GROUP_WORLD);
    float best = -INFINITY;
    int32_t found = INT32_MAX;
    for (int64_t t = 0; f->logits != NULL && t < f->T; t++) {
        if (fm_forward_place(f, m, t) != f->n - 1) {
            continue;
        }
        for (int64_t w = 0; w < f->words; w++) {
            if (f->logits[t * f->words + w] > best) {
                best = f->logits[t * f->words + w];
                found = (int32_t)(m->vocabulary.start + w);
            }
        }
    }
    const float own = best;
    FM_TRY(fm_comm_all_reduce(world, &best, 1, FM_F32, FM_MAX));
    *word = own == best ? found : INT32_MAX;
    return fm_comm_all_reduce(world, word, 1, FM_I32, FM_MIN);
}

void fm_forward_clear(fm_forward *f)
{
    fm_free(f->ids);
    fm_free(f->logits);
    *f = (fm_forward){ .n = 0 };
}
