#include "reference.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/ends.h"
#include "train/step.h"

enum { NUMBERS_LIMIT_BYTES = 1 << 20 };

/* The sources' way in is an HF directory: one is made around the file. */
static int link_tensors(const char *dir, const char *scratch)
{
    char from[FM_PATH_BYTES], to[FM_PATH_BYTES];
    FM_TRY(fm_path_join(from, dir, "reference.safetensors"));
    FM_TRY(fm_path_join(to, scratch, "model.safetensors"));
    return symlink(from, to) == 0 ? FM_OK : fm_fail(FM_ERR_IO, "%s: %s", to, strerror(errno));
}

static int read_numbers(reference *ref, const char *dir)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, dir, "reference.json"));
    FM_TRY(fm_json_read(&ref->numbers, path, NUMBERS_LIMIT_BYTES));
    ref->loss = ref->grad_norm = NAN;
    FM_TRY(fm_json_get_double(&ref->loss, ref->numbers, "loss_fp64", path));
    FM_TRY(fm_json_get_double(&ref->grad_norm, ref->numbers, "grad_norm_fp64", path));
    FM_TRY(fm_json_get_int(&ref->label_tokens, ref->numbers, "label_tokens", 0, INT64_MAX, path));
    return fm_json_get_int(&ref->tokens, ref->numbers, "tokens", 0, INT64_MAX, path);
}

int reference_open(reference *out, const char *dir, const char *scratch, fm_comm *world)
{
    *out = (reference){ .numbers = NULL };
    FM_TRY(fm_comm_agree(world, read_numbers(out, dir)));
    FM_TRY(fm_comm_agree(world, fm_comm_rank(world) == 0 ? link_tensors(dir, scratch) : FM_OK));
    return fm_source_open_hf(&out->tensors, scratch, world);
}

void reference_close(reference *ref)
{
    json_decref(ref->numbers);
    fm_source_close(ref->tensors);
    for (int t = 0; t < ref->n_gradients; t++) {
        fm_free(ref->gradients[t]);
    }
    fm_free(ref->gradients);
    *ref = (reference){ .numbers = NULL };
}

/* Sums over the ranks, of one tensor. */
typedef struct {
    double difference, norm;           /* squares, over owned slabs */
    double elements;                   /* owned */
    double different;                  /* of them in a bit */
} tensor_sums;

enum { SUMS = sizeof(tensor_sums) / sizeof(double) };

static int64_t columns_of(const fm_slice *slice)
{
    return slice->ndim > 1 ? slice->local_shape[1] : 1;
}

/* Adds the squares of a slab; `worst` gets its difference whether it is owned or not. */
static void add_slab(tensor_sums *sums, double *worst, const fm_slice *slice, const fm_slab *slab, const float *found,
                     const float *expected)
{
    const int64_t columns = columns_of(slice), width = slice->ndim > 1 ? slab->count[1] : 1;
    const int64_t first = slice->ndim > 1 ? slab->local_start[1] : 0;
    for (int64_t r = 0; r < slab->count[0]; r++) {
        const int64_t at = (slab->local_start[0] + r) * columns + first;
        for (int64_t c = at; c < at + width; c++) {
            const double difference = (double)found[c] - (double)expected[c];
            *worst += difference * difference;
            sums->difference += slab->owned ? difference * difference : 0.0;
            sums->different += slab->owned && memcmp(&found[c], &expected[c], sizeof *found) != 0;
            sums->norm += slab->owned ? (double)expected[c] * (double)expected[c] : 0.0;
        }
    }
    sums->elements += slab->owned ? (double)(slab->count[0] * width) : 0.0;
}

/* This rank's slice of a parameter's reference. */
static int read_expected(float *out, const reference *ref, const fm_model *m, int p)
{
    const fm_param *const param = &m->params[p];
    const char *const name = m->tensors[param->tensor].name;
    if (ref->gradients == NULL) {
        const int at = fm_source_find(ref->tensors, name);
        return at < 0 ? fm_fail(FM_ERR_FORMAT, "the reference has no gradient of %s", name)
                      : fm_source_read_slice(ref->tensors, out, at, &m->layout, param->tensor, &m->coord, NULL);
    }
    const fm_slice *const slice = &param->slice;
    const int64_t columns = columns_of(slice), whole_columns = slice->ndim > 1 ? m->tensors[param->tensor].shape[1] : 1;
    for (int s = 0; s < slice->n_slabs; s++) {
        const fm_slab *const slab = &slice->slabs[s];
        const bool is_matrix = slice->ndim > 1;
        for (int64_t r = 0; r < slab->count[0]; r++) {
            const float *const from = ref->gradients[param->tensor] + (slab->start[0] + r) * whole_columns
                                      + (is_matrix ? slab->start[1] : 0);
            float *const to = out + (slab->local_start[0] + r) * columns + (is_matrix ? slab->local_start[1] : 0);
            memcpy(to, from, (size_t)(is_matrix ? slab->count[1] : 1) * sizeof *to);
        }
    }
    return FM_OK;
}

static int add_param(tensor_sums *sums, double *worst, const reference *ref, const fm_model *m, int p)
{
    const fm_param *const param = &m->params[p];
    const fm_param_view view = fm_model_param(m, p);
    float *const found = fm_alloc_array(view.elements, sizeof *found, FM_MEMORY_HOST);
    float *const expected = fm_alloc_array(view.elements, sizeof *expected, FM_MEMORY_HOST);
    int rc = found == NULL || expected == NULL ? FM_ERR_MEMORY : FM_OK;
    if (rc == FM_OK) {
        rc = fm_device_copy_out(m->compute->device, found, view.gradient, (size_t)view.elements * sizeof *found);
    }
    if (rc == FM_OK) {
        rc = read_expected(expected, ref, m, p);
    }
    for (int s = 0; s < param->slice.n_slabs && rc == FM_OK; s++) {
        add_slab(sums, worst, &param->slice, &param->slice.slabs[s], found, expected);
    }
    fm_free(found);
    fm_free(expected);
    return rc;
}

static double relative(double squares, double norm)
{
    return squares == 0.0 ? 0.0 : sqrt(squares / norm);
}

/* NaN counts as infinitely far. */
static double worse(double a, double b)
{
    return isnan(a) || isnan(b) ? INFINITY : a > b ? a : b;
}

static void judge(tensor_error *out, const reference *ref, const fm_tensor_spec *tensor, const tensor_sums *sums, double worst,
                  double tolerance, double times)
{
    double own = 0.0;
    fm_json_get_double(&own, json_object_get(ref->numbers, "fp32_gradient_distance"), tensor->name, tensor->name);
    const double allowed = times * own > tolerance ? times * own : tolerance;
    const double error = worse(relative(sums->difference, sums->norm), relative(worst, sums->norm));
    if (out->name[0] == '\0' || error / allowed > out->error / out->tolerance) {
        out->error = error;
        out->tolerance = allowed;
        memcpy(out->name, tensor->name, sizeof out->name);
    }
    out->different += sums->different > 0.0 && tensor->place != FM_PLACE_TIED;
    if ((int64_t)sums->elements != fm_tensor_elements(tensor)) {
        snprintf(out->complaint, sizeof out->complaint, "%.0f of the %lld elements of %.100s are owned by a rank", sums->elements,
                 (long long)fm_tensor_elements(tensor), tensor->name);
    }
}

static int sum_params(tensor_sums *sums, double *worst, const reference *ref, const fm_model *m)
{
    int rc = FM_OK;
    for (int p = 0; p < m->n_params && rc == FM_OK; p++) {
        const int t = m->params[p].tensor;
        rc = add_param(&sums[t], &worst[t], ref, m, p);
    }
    fm_comm *const world = fm_groups_get(m->groups, FM_GROUP_WORLD);
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_all_reduce(world, sums, (int64_t)m->n_tensors * SUMS, FM_F64, FM_SUM));
    return fm_comm_all_reduce(world, worst, m->n_tensors, FM_F64, FM_MAX);
}

int reference_take_gradients(reference *out, const fm_model *m)
{
    out->gradients = fm_alloc_array(m->n_tensors, sizeof *out->gradients, FM_MEMORY_HOST);
    if (out->gradients == NULL) {
        return FM_ERR_MEMORY;
    }
    out->n_gradients = m->n_tensors;
    for (int p = 0; p < m->n_params; p++) {
        const fm_param_view view = fm_model_param(m, p);
        float *const copy = fm_alloc_array(view.elements, sizeof *copy, FM_MEMORY_HOST);
        if (copy == NULL) {
            return FM_ERR_MEMORY;
        }
        out->gradients[m->params[p].tensor] = copy;
        FM_TRY(fm_device_copy_out(m->compute->device, copy, view.gradient, (size_t)view.elements * sizeof *copy));
    }
    return FM_OK;
}

int reference_compare_gradients(tensor_error *out, const reference *ref, const fm_model *m, double tolerance, double times)
{
    *out = (tensor_error){ .error = 0.0 };
    tensor_sums *const sums = fm_alloc_array(m->n_tensors, sizeof *sums, FM_MEMORY_HOST);
    double *const worst = fm_alloc_array(m->n_tensors, sizeof *worst, FM_MEMORY_HOST);
    FM_ASSERT(sums != NULL && worst != NULL);
    int rc = sum_params(sums, worst, ref, m);
    for (int t = 0; t < m->n_tensors && rc == FM_OK; t++) {
        judge(out, ref, &m->tensors[t], &sums[t], worst[t], tolerance, times);
    }
    fm_free(sums);
    fm_free(worst);
    FM_TRY(rc);
    char name[FM_NAME_BYTES];
    FM_TRY(reference_check_replicas(name, m, true));
    if (name[0] != '\0') {
        snprintf(out->complaint, sizeof out->complaint, "ranks that hold the same slice differ in the gradient of %.100s", name);
    }
    return FM_OK;
}

/* What a rank holds of a tensor, in two numbers: which slice, and its bits. Zeros: nothing. */
typedef struct {
    int64_t slice, bits;
} fingerprint;

static int take_fingerprint(fingerprint *out, const fm_model *m, int p, bool of_gradients)
{
    const fm_slice *const slice = &m->params[p].slice;
    const fm_param_view view = fm_model_param(m, p);
    const size_t bytes = (size_t)view.elements * (of_gradients ? sizeof(float) : fm_dtype_bytes(m->setup.dtype));
    if (view.elements == 0) {
        return FM_OK;
    }
    void *const host = fm_alloc(bytes, FM_MEMORY_HOST);
    if (host == NULL) {
        return FM_ERR_MEMORY;
    }
    const int rc = fm_device_copy_out(m->compute->device, host, of_gradients ? view.gradient : view.weight, bytes);
    uint32_t crc = 0;
    for (int s = 0; s < slice->n_slabs; s++) {
        crc = fm_crc32(crc, slice->slabs[s].start, (size_t)slice->ndim * sizeof slice->slabs[s].start[0]);
        crc = fm_crc32(crc, slice->slabs[s].count, (size_t)slice->ndim * sizeof slice->slabs[s].count[0]);
    }
    *out = (fingerprint){ 1 + (int64_t)crc, 1 + (int64_t)fm_crc32(0, host, bytes) };
    fm_free(host);
    return rc;
}

/* all [ranks][tensors] */
static bool replicas_agree(const fingerprint *all, int ranks, int n_tensors, int tensor)
{
    for (int a = 0; a < ranks; a++) {
        for (int b = 0; b < a; b++) {
            const fingerprint *const x = &all[a * n_tensors + tensor], *const y = &all[b * n_tensors + tensor];
            if (x->slice == y->slice && x->bits != y->bits) {
                return false;
            }
        }
    }
    return true;
}

int reference_check_replicas(char name[FM_NAME_BYTES], const fm_model *m, bool of_gradients)
{
    fm_comm *const world = fm_groups_get(m->groups, FM_GROUP_WORLD);
    const int ranks = fm_comm_size(world);
    name[0] = '\0';
    fingerprint *const mine = fm_alloc_array(m->n_tensors, sizeof *mine, FM_MEMORY_HOST);
    fingerprint *const all = fm_alloc_array((int64_t)m->n_tensors * ranks, sizeof *all, FM_MEMORY_HOST);
    FM_ASSERT(mine != NULL && all != NULL);
    int rc = FM_OK;
    for (int p = 0; p < m->n_params && rc == FM_OK; p++) {
        rc = take_fingerprint(&mine[m->params[p].tensor], m, p, of_gradients);
    }
    rc = fm_comm_agree(world, rc);
    if (rc == FM_OK) {
        rc = fm_comm_all_gather(world, all, mine, 2 * (int64_t)m->n_tensors, FM_I64);
    }
    for (int t = m->n_tensors - 1; t >= 0 && rc == FM_OK; t--) {
        if (!replicas_agree(all, ranks, m->n_tensors, t)) {
            memcpy(name, m->tensors[t].name, FM_NAME_BYTES);
        }
    }
    fm_free(mine);
    fm_free(all);
    return rc;
}

/* Adds the first row's squares on this rank. logits [B T, words]. */
static int add_logits(tensor_sums *sums, const reference *ref, const fm_model *m, const fm_batch *batch, const float *logits)
{
    const int at = fm_source_find(ref->tensors, "logits");
    const int64_t words = m->vocabulary.count;
    float *const expected = fm_alloc_array(words, sizeof *expected, FM_MEMORY_HOST);
    if (at < 0 || expected == NULL) {
        fm_free(expected);
        return at < 0 ? fm_fail(FM_ERR_FORMAT, "the reference has no logits") : FM_ERR_MEMORY;
    }
    int rc = FM_OK;
    for (int64_t t = 0; t < batch->T && rc == FM_OK; t++) {
        if (batch->documents[t] < 0) {
            continue;
        }
        const int64_t start[] = { batch->positions[t], m->vocabulary.start }, count[] = { 1, words };
        rc = fm_source_read(ref->tensors, expected, at, start, count);
        for (int64_t w = 0; w < words; w++) {
            const double difference = (double)logits[t * words + w] - (double)expected[w];
            sums->difference += difference * difference;
            sums->norm += (double)expected[w] * (double)expected[w];
        }
        sums->elements += (double)words;
    }
    fm_free(expected);
    return rc;
}

/* The logits of the rows that were run last, on the last stage. */
static int take_logits(tensor_sums *sums, const reference *ref, fm_model *m, const fm_pass *pass)
{
    if (m->coord.at[FM_PP] != m->layout.mesh.size[FM_PP] - 1) {
        return FM_OK;
    }
    const fm_batch *const batch = m->layout.mesh.size[FM_CP] > 1 ? &pass->cut : &pass->whole;
    float *const logits = fm_alloc_array(batch->B * batch->T * m->vocabulary.count, sizeof *logits, FM_MEMORY_HOST);
    if (logits == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc = fm_head_logits(m, &m->slots[0], logits);
    if (rc == FM_OK && fm_mesh_dp_index(&m->layout.mesh, &m->coord) == 0) {
        rc = add_logits(sums, ref, m, batch, logits);
    }
    fm_free(logits);
    return rc;
}

int reference_compare_logits(double *error, const reference *ref, fm_model *m, const fm_dataset *data, int64_t local_batch_size)
{
    *error = -1.0;
    if (m->n_chunks > 1) {
        return FM_OK;
    }
    fm_comm *const world = fm_groups_get(m->groups, FM_GROUP_WORLD);
    const fm_order order = fm_order_pass(fm_dataset_samples(data), local_batch_size * fm_mesh_dp_size(&m->layout.mesh));
    fm_pipeline pipeline;
    FM_TRY(fm_pipeline_emit(&pipeline, FM_PIPELINE_GPIPE, m->layout.mesh.size[FM_PP], 1, 1));
    fm_pass pass = { .model = m, .dataset = data, .order = &order, .pipeline = &pipeline, .local_batch_size = local_batch_size };
    double loss;
    tensor_sums sums = { .difference = 0.0 };
    int rc = fm_pass_run(&loss, &pass, 1, false, 0.0f);
    if (rc == FM_OK) {
        rc = take_logits(&sums, ref, m, &pass);
    }
    fm_pass_clear(&pass);
    fm_pipeline_clear(&pipeline);
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_all_reduce(world, &sums, SUMS, FM_F64, FM_SUM));
    fm_sample_info first;
    FM_TRY(fm_dataset_info(&first, data, 0));
    *error = sums.elements == (double)(first.tokens * m->config.V) ? relative(sums.difference, sums.norm) : INFINITY;
    return FM_OK;
}
