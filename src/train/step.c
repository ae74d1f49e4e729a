#include "train/step.h"

#include "base/memory.h"
#include "ops/rows.h"

/* A slot, and what it has sent and not yet seen delivered. */
typedef struct {
    int microbatch, chunk;             /* microbatch -1: free, but for its messages */
    int parts_left;                    /* of the backward pass */
    int64_t freed;                     /* the how-manieth to become free */
    fm_request forward_sent, backward_sent;
} flight;

typedef struct {
    fm_pass *pass;
    int64_t step;
    bool with_gradients;
    float scale;
    flight *flights;                   /* [model->n_slots] */
    int64_t n_freed;
} run_state;

void fm_pass_clear(fm_pass *pass)
{
    fm_batch_clear(&pass->whole);
    fm_batch_clear(&pass->cut);
}

int64_t fm_pass_t_multiple(const fm_model *model)
{
    const int cp = model->layout.mesh.size[FM_CP];
    return cp == 1 ? 1 : 2 * cp;
}

int64_t fm_pass_padded(const fm_model *model, int64_t T)
{
    const int64_t unit = fm_pass_t_multiple(model);
    return (T + unit - 1) / unit * unit;
}

/* The rows of a microbatch on this data-parallel rank, into pass->whole. */
static int take_rows(const run_state *run, int microbatch)
{
    fm_pass *const pass = run->pass;
    const fm_model *const m = pass->model;
    const fm_mesh_shape *const mesh = &m->layout.mesh;
    const int64_t B = pass->local_batch_size;
    if (pass->rows != NULL) {
        const int64_t at = microbatch * B * pass->rows->T;
        return fm_batch_set(&pass->whole, pass->rows->ids + at, pass->rows->labels + at, B, pass->rows->T, fm_pass_t_multiple(m));
    }
    int64_t *const samples = fm_alloc_array(B, sizeof *samples, FM_MEMORY_HOST);
    if (samples == NULL) {
        return FM_ERR_MEMORY;
    }
    fm_order_microbatch(samples, pass->order, run->step, microbatch, B, fm_mesh_dp_index(mesh, &m->coord), fm_mesh_dp_size(mesh));
    const int rc = fm_batch_fill(&pass->whole, pass->dataset, samples, B, fm_pass_t_multiple(m));
    fm_free(samples);
    return rc;
}

/* The microbatch as this rank sees it, into a slot. */
static int begin_microbatch(run_state *run, fm_slot *slot, const fm_chunk *chunk, int microbatch)
{
    fm_pass *const pass = run->pass;
    fm_model *const m = pass->model;
    const fm_mesh_shape *const mesh = &m->layout.mesh;
    FM_TRY(take_rows(run, microbatch));
    const fm_batch *batch = &pass->whole;
    if (mesh->size[FM_CP] > 1) {
        FM_TRY(fm_batch_cut(&pass->cut, &pass->whole, mesh->size[FM_CP], m->coord.at[FM_CP]));
        batch = &pass->cut;
    }
    const fm_microbatch micro = {
        .B = (int)batch->B, .T = batch->T, .padded_T = pass->whole.longest, .ids = batch->ids, .labels = batch->labels,
        .position = batch->positions, .document = batch->documents, .row_T = pass->whole.T, .row_position = pass->whole.positions,
        .row_document = pass->whole.documents, .only_loss = !run->with_gradients,
    };
    return fm_model_begin(m, slot, chunk, &micro);
}

static flight *find_flight(run_state *run, int microbatch, int chunk)
{
    for (int s = 0; s < run->pass->model->n_slots; s++) {
        if (run->flights[s].microbatch == microbatch && run->flights[s].chunk == chunk) {
            return &run->flights[s];
        }
    }
    FM_ASSERT(!"the pipeline table needs a slot that is not there");
    return NULL;
}

/* Neighbours in the pipeline: virtual stage s = chunk * ranks + rank. A message is numbered by the stage that gets it. */
typedef struct {
    int peer, tag;                     /* peer -1: there is none */
} link;

static link link_to(const fm_pass *pass, int chunk, int microbatch, enum fm_lane lane, bool sends)
{
    const fm_pipeline *const p = pass->pipeline;
    const int stages = p->ranks * p->chunks, stage = chunk * p->ranks + pass->model->coord.at[FM_PP];
    const int other = stage + ((lane == FM_LANE_FORWARD) == sends ? 1 : -1);
    if (other < 0 || other >= stages) {
        return (link){ -1, 0 };
    }
    const int receiver = sends ? other : stage;
    return (link){ other % p->ranks, fm_tag(lane, (microbatch * stages + receiver) % FM_TAG_NUMBERS) };
}

static int send(run_state *run, fm_request *request, const void *data, const fm_slot *slot, link to)
{
    const fm_model *const m = run->pass->model;
    if (to.peer < 0) {
        return FM_OK;
    }
    return fm_comm_begin_send(fm_groups_device(m->groups, FM_GROUP_PP), request, data, fm_model_boundary_rows(m, slot) * m->config.C,
                              m->setup.dtype, to.peer, to.tag);
}

static int receive(run_state *run, void *data, const fm_slot *slot, link from)
{
    const fm_model *const m = run->pass->model;
    if (from.peer < 0) {
        return FM_OK;
    }
    fm_request request;
    FM_TRY(fm_comm_begin_receive(fm_groups_device(m->groups, FM_GROUP_PP), &request, data, fm_model_boundary_rows(m, slot) * m->config.C,
                                 m->setup.dtype, from.peer, from.tag));
    return fm_comm_wait(&request);
}

static int wait_delivery(flight *f)
{
    FM_TRY(fm_comm_wait(&f->forward_sent));
    return fm_comm_wait(&f->backward_sent);
}

/* Delivery is not waited for here: the stage that gets the message may be waiting for one from this rank first. */
static void free_flight(run_state *run, flight *f)
{
    f->microbatch = -1;
    f->freed = ++run->n_freed;
}

/* The slot that has been free for the longest time, its messages delivered. */
static int take_flight(run_state *run, flight **out)
{
    flight *oldest = NULL;
    for (int s = 0; s < run->pass->model->n_slots; s++) {
        flight *const f = &run->flights[s];
        if (f->microbatch < 0 && (oldest == NULL || f->freed < oldest->freed)) {
            oldest = f;
        }
    }
    if (oldest == NULL) {
        FM_ASSERT(!"the pipeline table holds more microbatches than there are slots");
        return FM_ERR_INTERNAL;
    }
    *out = oldest;
    return wait_delivery(oldest);
}

static int run_forward(run_state *run, int microbatch, int c)
{
    fm_pass *const pass = run->pass;
    fm_model *const m = pass->model;
    const fm_chunk *const chunk = &m->chunks[c];
    flight *f;
    FM_TRY(take_flight(run, &f));
    fm_slot *const slot = &m->slots[f - run->flights];
    FM_TRY(begin_microbatch(run, slot, chunk, microbatch));
    FM_TRY(receive(run, slot->blocks[0].x, slot, link_to(pass, c, microbatch, FM_LANE_FORWARD, false)));
    FM_TRY(fm_stage_forward(m, chunk, slot, run->scale));
    *f = (flight){ .microbatch = microbatch, .chunk = c, .parts_left = 2 };
    FM_TRY(send(run, &f->forward_sent, slot->out, slot, link_to(pass, c, microbatch, FM_LANE_FORWARD, true)));
    if (!run->with_gradients) {
        free_flight(run, f);
    }
    return FM_OK;
}

static int run_backward(run_state *run, int microbatch, int c, bool input, bool weight)
{
    fm_pass *const pass = run->pass;
    fm_model *const m = pass->model;
    const fm_chunk *const chunk = &m->chunks[c];
    flight *const f = find_flight(run, microbatch, c);
    fm_slot *const slot = &m->slots[f - run->flights];
    if (input) {
        FM_TRY(receive(run, slot->dx[chunk->n_layers], slot, link_to(pass, c, microbatch, FM_LANE_BACKWARD, false)));
        FM_TRY(fm_stage_backward_input(m, chunk, slot, weight));
        FM_TRY(send(run, &f->backward_sent, slot->dx[0], slot, link_to(pass, c, microbatch, FM_LANE_BACKWARD, true)));
    } else {
        FM_TRY(fm_stage_backward_weight(m, chunk, slot));
    }
    f->parts_left -= input + weight;
    if (f->parts_left == 0) {
        free_flight(run, f);
    }
    return FM_OK;
}

static int run_row(run_state *run, const fm_pipeline_row *row)
{
    if (row->action == FM_ACTION_FORWARD) {
        return run_forward(run, row->microbatch, row->chunk);
    }
    if (!run->with_gradients) {
        return FM_OK;
    }
    return run_backward(run, row->microbatch, row->chunk, row->action != FM_ACTION_BACKWARD_WEIGHT,
                        row->action != FM_ACTION_BACKWARD_INPUT);
}

int fm_pass_run(double *loss, fm_pass *pass, int64_t step, bool with_gradients, float scale)
{
    fm_model *const m = pass->model;
    const fm_pipeline *const p = pass->pipeline;
    const int rank = m->coord.at[FM_PP];
    run_state run = { .pass = pass, .step = step, .with_gradients = with_gradients, .scale = scale };
    run.flights = fm_alloc_array(m->n_slots, sizeof *run.flights, FM_MEMORY_HOST);
    if (run.flights == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int s = 0; s < m->n_slots; s++) {
        run.flights[s].microbatch = -1;
    }
    int rc = fm_device_zero(m->compute->device, m->loss, sizeof *m->loss);
    for (int i = p->first[rank]; i < p->first[rank + 1] && rc == FM_OK; i++) {
        rc = run_row(&run, &p->rows[i]);
    }
    for (int s = 0; s < m->n_slots && rc == FM_OK; s++) {
        rc = wait_delivery(&run.flights[s]);
    }
    fm_free(run.flights);
    FM_TRY(rc);
    /* one rank of each (dp, cp) coordinate counts: tp 0 of the last stage */
    FM_TRY(fm_device_copy_out(m->compute->device, loss, m->loss, sizeof *loss));
    *loss = m->coord.at[FM_TP] == 0 ? *loss : 0.0;
    return fm_comm_all_reduce(fm_groups_get(m->groups, FM_GROUP_WORLD), loss, 1, FM_F64, FM_SUM);
}
