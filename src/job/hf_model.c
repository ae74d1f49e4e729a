/* The public model: an assembly of the job's parts behind one handle. */
#include "finemesh/model.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "job/assemble.h"
#include "job/device.h"
#include "train/forward.h"
#include "train/optimizer.h"
#include "train/step.h"

struct fm_hf_model {
    fm_launch launch;
    fm_assembly a;
    int64_t microbatch_rows;           /* 0: all, and 1 under pp */
    fm_model_reserve_spec reserved;    /* what the passes have room for; it grows */
    fm_forward forward;
    int64_t *place;                    /* of the last forward pass */
    fm_pass pass;
    fm_pipeline pipeline;
    bool has_gradients;
};

/* ---- loading ---- */

/* The caller's choices as overrides of an empty job. */
typedef struct {
    fm_text text;                      /* one after the other, each with its 0 byte */
    int n;
} choices;

static void choose(choices *c, const char *format, ...) FM_PRINTF(2, 3);

static void choose(choices *c, const char *format, ...)
{
    char line[FM_PATH_BYTES + 64];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fm_text_add(&c->text, "%s%c", line, '\0');
    c->n++;
}

static void choose_mesh(choices *c, const fm_mesh_shape *mesh, const fm_distributed *d)
{
    for (int i = 0; mesh != NULL && i < FM_DIMS; i++) {
        choose(c, "device_mesh.%s=%d", fm_dim_name((enum fm_dim)i), mesh->size[i]);
    }
    const struct {
        const char *key;
        int size;
    } sizes[] = { { "tp_size", d->tp_size }, { "cp_size", d->cp_size }, { "pp_size", d->pp_size },
                  { "dp_replicate_size", d->dp_replicate_size }, { "dp_size", d->dp_size } };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].size != 0) {
            choose(c, "distributed.%s=%d", sizes[i].key, sizes[i].size);
        }
    }
}

static int make_job(fm_hf_model *model, const char *path, const fm_mesh_shape *mesh, const fm_distributed *d)
{
    choices c = { .n = 0 };
    choose(&c, "model.path=%s", path);
    choose(&c, "model.dtype=%s", fm_dtype_name(d->dtype));
    choose(&c, "distributed.sequence_parallel=%s", d->sequence_parallel ? "yes" : "no");
    choose(&c, "device.type=cpu");
    choose(&c, "device.threads=%d", d->threads);
    choose_mesh(&c, mesh, d);
    const char **const list = fm_alloc_array(c.n + d->n_keys, sizeof *list, FM_MEMORY_HOST);
    if (list == NULL || c.text.failed) {
        fm_free(list);
        fm_text_clear(&c.text);
        return FM_ERR_MEMORY;
    }
    const char *at = fm_text_get(&c.text);
    for (int i = 0; i < c.n; i++, at += strlen(at) + 1) {
        list[i] = at;
    }
    for (int i = 0; i < d->n_keys; i++) {
        list[c.n + i] = d->keys[i];
    }
    const int rc = fm_assemble_text(&model->a, &model->launch, "", "fm_model_from_pretrained", list, c.n + d->n_keys, false);
    fm_free(list);
    fm_text_clear(&c.text);
    return rc;
}

static int place(fm_hf_model *model, fm_source **source, const char *path, const fm_mesh_shape *mesh, const fm_distributed *d)
{
    fm_assembly *const a = &model->a;
    FM_TRY(make_job(model, path, mesh, d));
    FM_TRY(fm_assemble_shape(a, false));
    FM_TRY(fm_assemble_config(a));
    FM_TRY(fm_assemble_mesh(a));
    FM_TRY(fm_assemble_device(a));
    FM_TRY(fm_source_open(source, a->job.model.path, model->launch.world));
    FM_TRY(fm_assemble_model(a, *source, !d->without_gradients));
    FM_TRY(fm_comm_agree(model->launch.world, fm_model_allocate(a->model)));
    return fm_assemble_weights(a, *source);
}

int fm_model_from_pretrained_on_mesh(fm_hf_model **out, const char *path, const fm_mesh_shape *mesh, const fm_distributed *options,
                                     const void *mpi_comm)
{
    static const fm_distributed zeros;
    const fm_distributed *const d = options == NULL ? &zeros : options;
    int ranks = 1;
    *out = NULL;
    if (mpi_comm != NULL) {
        FM_TRY(fm_comm_ranks(&ranks, mpi_comm));
    }
    fm_hf_model *const model = fm_alloc(sizeof *model, FM_MEMORY_HOST);
    if (model == NULL) {
        return FM_ERR_MEMORY;
    }
    model->microbatch_rows = d->microbatch_rows;
    model->a.without_states = true;
    fm_source *source = NULL;
    int rc = fm_launch_begin(&model->launch, ranks > 1 ? mpi_comm : NULL);
    if (rc == FM_OK) {
        rc = place(model, &source, path, mesh, d);
    }
    fm_source_close(source);
    if (rc < 0) {
        fm_hf_model_destroy(model);
        return rc;
    }
    model->launch.mpi_comm = NULL;     /* the caller's; all communicators are made */
    *out = model;
    return FM_OK;
}

int fm_model_from_pretrained(fm_hf_model **out, const char *path, const fm_distributed *distributed, const void *mpi_comm)
{
    return fm_model_from_pretrained_on_mesh(out, path, NULL, distributed, mpi_comm);
}

void fm_hf_model_destroy(fm_hf_model *model)
{
    if (model == NULL) {
        return;
    }
    fm_forward_clear(&model->forward);
    fm_pass_clear(&model->pass);
    fm_pipeline_clear(&model->pipeline);
    fm_free(model->place);
    fm_assembly_clear(&model->a);
    fm_launch_end(&model->launch);
    fm_free(model);
}

void fm_hf_model_describe(fm_hf_model_info *out, const fm_hf_model *model)
{
    const fm_model *const m = model->a.model;
    *out = (fm_hf_model_info){
        .model_type = m->config.model_type, .parameters = fm_config_parameters(&m->config), .vocabulary = m->config.V,
        .layers = m->config.L, .tensors = m->n_tensors, .dtype = m->setup.dtype, .mesh = model->a.mesh, .coord = m->coord,
        .rank = model->launch.rank, .ranks = model->launch.n_ranks,
    };
    for (int p = 0; p < m->n_params; p++) {
        out->local_parameters += fm_model_param(m, p).elements;
    }
}

/* ---- passes ---- */

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Room for passes of this size; what there was before stays possible. */
static int make_room(fm_hf_model *model, const fm_model_reserve_spec *needs)
{
    fm_model_reserve_spec *const r = &model->reserved;
    if (needs->B <= r->B && needs->T <= r->T && needs->padded_T <= r->padded_T && needs->n_slots <= r->n_slots
        && (r->split_backward || !needs->split_backward)) {
        return FM_OK;
    }
    const fm_model_reserve_spec grown = {
        .B = (int)max64(needs->B, r->B), .T = max64(needs->T, r->T), .padded_T = max64(needs->padded_T, r->padded_T),
        .n_slots = (int)max64(needs->n_slots, r->n_slots), .split_backward = needs->split_backward || r->split_backward,
    };
    *r = (fm_model_reserve_spec){ .B = 0 };
    FM_TRY(fm_model_reserve(model->a.model, &grown));
    *r = grown;
    return FM_OK;
}

static int check_words(const fm_hf_model *model, const int32_t *words, int64_t B, int64_t T, const char *what, bool may_ignore)
{
    const int64_t V = model->a.model->config.V;
    for (int64_t i = 0; i < B * T; i++) {
        if ((words[i] < 0 || words[i] >= V) && !(may_ignore && words[i] == -100)) {
            return fm_fail(FM_ERR_JOB, "%s[%lld, %lld] is %d: 0 to %lld%s was expected", what, (long long)(i / T), (long long)(i % T),
                           words[i], (long long)V - 1, may_ignore ? ", or -100," : "");
        }
    }
    return FM_OK;
}

static int prepare_forward(fm_hf_model *model, const int32_t *ids, int64_t B, int64_t T)
{
    if (B < 1 || T < 1) {
        return fm_fail(FM_ERR_JOB, "a batch of %lld rows of %lld tokens: at least one of each was expected", (long long)B, (long long)T);
    }
    FM_TRY(check_words(model, ids, B, T, "ids", false));
    const fm_model_reserve_spec needs = fm_forward_needs_rows(model->a.model, B, T);
    FM_TRY(make_room(model, &needs));
    fm_free(model->place);
    model->place = fm_alloc_array(needs.T, sizeof *model->place, FM_MEMORY_HOST);
    return model->place == NULL ? FM_ERR_MEMORY : FM_OK;
}

int fm_hf_model_forward(fm_logits *out, fm_hf_model *model, const int32_t *ids, int64_t B, int64_t T)
{
    fm_model *const m = model->a.model;
    fm_forward *const f = &model->forward;
    *out = (fm_logits){ .B = 0 };
    FM_TRY(fm_comm_agree(model->launch.world, prepare_forward(model, ids, B, T)));
    FM_TRY(fm_forward_run_rows(f, m, ids, B, T));
    for (int64_t t = 0; t < f->T; t++) {
        const int64_t at = fm_forward_place(f, m, t);
        model->place[t] = at < T ? at : -1;
    }
    *out = (fm_logits){
        .data = f->logits, .B = B, .tokens = f->T, .words = f->words, .first_word = m->vocabulary.start, .place = model->place,
    };
    return FM_OK;
}

/* The pipeline's table for B rows, and room for its microbatches. */
static int prepare_pass(fm_hf_model *model, const fm_rows *rows, bool with_gradients)
{
    fm_model *const m = model->a.model;
    const int pp = m->layout.mesh.size[FM_PP];
    const int64_t micro = model->microbatch_rows > 0 ? model->microbatch_rows : pp > 1 ? 1 : rows->B;
    if (rows->B < 1 || rows->T < 1 || rows->B % micro != 0) {
        return fm_fail(FM_ERR_JOB, "a batch of %lld rows of %lld tokens, in microbatches of %lld rows: a multiple of those was expected",
                       (long long)rows->B, (long long)rows->T, (long long)micro);
    }
    if (with_gradients && (!m->setup.trains || m->setup.dtype == FM_F16)) {
        return fm_fail(FM_ERR_UNSUPPORTED, m->setup.trains ? "gradients in float16 need a loss scale, which finemesh run has: choose "
                       "FM_BF16 or FM_F32 here" : "the model was loaded without_gradients");
    }
    FM_TRY(check_words(model, rows->ids, rows->B, rows->T, "ids", false));
    FM_TRY(check_words(model, rows->labels, rows->B, rows->T, "labels", true));
    fm_pipeline_clear(&model->pipeline);
    FM_TRY(fm_pipeline_emit(&model->pipeline, model->a.job.pipeline.schedule, pp, m->n_chunks, (int)(rows->B / micro)));
    fm_model_reserve_spec needs = fm_forward_needs_rows(m, micro, rows->T);
    needs.n_slots = fm_pipeline_peak(&model->pipeline, m->coord.at[FM_PP]);
    for (int i = 0; i < model->pipeline.n_rows; i++) {
        needs.split_backward = needs.split_backward || model->pipeline.rows[i].action == FM_ACTION_BACKWARD_WEIGHT;
    }
    model->pass.model = m;
    model->pass.pipeline = &model->pipeline;
    model->pass.local_batch_size = micro;
    return make_room(model, &needs);
}

/* Label tokens of all dp ranks; one rank of each dp coordinate counts. */
static int count_labels(int64_t *n, const fm_hf_model *model, const fm_rows *rows)
{
    const int *const at = model->a.model->coord.at;
    *n = 0;
    for (int64_t i = 0; at[FM_PP] == 0 && at[FM_CP] == 0 && at[FM_TP] == 0 && i < rows->B * rows->T; i++) {
        *n += i % rows->T > 0 && rows->labels[i] >= 0;
    }
    return fm_comm_all_reduce(model->launch.world, n, 1, FM_I64, FM_SUM);
}

static int run_pass(double *loss, fm_hf_model *model, const fm_rows *rows, bool with_gradients)
{
    int64_t n;
    FM_TRY(fm_comm_agree(model->launch.world, prepare_pass(model, rows, with_gradients)));
    FM_TRY(count_labels(&n, model, rows));
    const double N = n > 0 ? (double)n : 1.0;
    if (with_gradients) {
        fm_optimizer_begin(model->a.model);
    }
    model->pass.rows = rows;
    const int rc = fm_pass_run(loss, &model->pass, 1, with_gradients, (float)(1.0 / N));
    model->pass.rows = NULL;
    FM_TRY(rc);
    *loss /= N;
    if (with_gradients) {
        FM_TRY(fm_optimizer_finish_gradients(model->a.model, 1.0));
        model->has_gradients = true;
    }
    return FM_OK;
}

int fm_hf_model_loss(double *loss, fm_hf_model *model, const int32_t *ids, const int32_t *labels, int64_t B, int64_t T)
{
    const fm_rows rows = { ids, labels == NULL ? ids : labels, B, T };
    return run_pass(loss, model, &rows, false);
}

int fm_hf_model_backward(double *loss, fm_hf_model *model, const int32_t *ids, const int32_t *labels, int64_t B, int64_t T)
{
    const fm_rows rows = { ids, labels == NULL ? ids : labels, B, T };
    return run_pass(loss, model, &rows, true);
}

/* ---- parameters ---- */

const char *fm_hf_model_tensor_name(const fm_hf_model *model, int index)
{
    const fm_model *const m = model->a.model;
    return index < 0 || index >= m->n_tensors ? NULL : m->tensors[index].name;
}

static void describe_slice(fm_hf_param *out, const fm_slice *slice)
{
    out->owner = slice->owner;
    out->n_slabs = slice->n_slabs;
    for (int d = 0; d < slice->ndim; d++) {
        out->local_shape[d] = slice->local_shape[d];
        for (int s = 0; s < slice->n_slabs; s++) {
            out->slabs[s].start[d] = slice->slabs[s].start[d];
            out->slabs[s].count[d] = slice->slabs[s].count[d];
            out->slabs[s].local_start[d] = slice->slabs[s].local_start[d];
        }
    }
}

int fm_hf_model_param(fm_hf_param *out, const fm_hf_model *model, const char *name)
{
    const fm_model *const m = model->a.model;
    const int tensor = fm_layout_find(&m->layout, name), p = fm_model_find_param(m, name);
    *out = (fm_hf_param){ .held = false };
    if (tensor < 0) {
        return fm_fail(FM_ERR_JOB, "the model has no tensor %s%s; it has %d, from %s to %s", name,
                       m->config.tied && strcmp(name, "lm_head.weight") == 0 ? " of its own: it is tied to the embedding" : "",
                       m->n_tensors, m->tensors[0].name, m->tensors[m->n_tensors - 1].name);
    }
    out->ndim = m->tensors[tensor].ndim;
    for (int d = 0; d < out->ndim; d++) {
        out->shape[d] = m->tensors[tensor].shape[d];
    }
    out->dtype = m->setup.dtype;
    if (p >= 0) {
        const fm_param_view view = fm_model_param(m, p);
        out->held = true;
        describe_slice(out, &m->params[p].slice);
        out->data = view.weight;
        out->gradient = model->has_gradients ? view.gradient : NULL;
        out->elements = view.elements;
    }
    return FM_OK;
}

int fm_hf_model_save(const fm_hf_model *model, const char *dir)
{
    return fm_assembly_export(&model->a, dir);
}
