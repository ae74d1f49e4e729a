/* Holds a run of finemesh against what transformers said (README.md beside this file has the formats):
 *     check_model step DATA/MODEL OUTPUT_DIR GRADIENTS_DIR     first line of metrics.jsonl and the gradients of that step
 *     check_model curve DATA/MODEL OUTPUT_DIR                  the losses of all steps
 * Prints what is too far; exits 0 or 1. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "ckpt/safetensors.h"
#include "ckpt/source.h"

static const double loss_bound = 1e-6, gradient_bound = 1e-5, curve_bound = 1e-4;

static int n_far;

/* Relative distance of a number; a NaN is far. */
static void hold(const char *what, double found, double expected, double bound)
{
    const double distance = fabs(found - expected) / fmax(fabs(expected), 1e-30);
    if (!(distance <= bound)) {
        printf("%s: %.9g found, %.9g expected: %.2g off, %.2g allowed\n", what, found, expected, distance, bound);
        n_far++;
    }
}

static double real(const json_t *object, const char *key)
{
    const json_t *const value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* Line `line` (from 0) of metrics.jsonl that has a loss; NULL: there are fewer. New reference. */
static json_t *metrics_line(const char *text, int line)
{
    for (; *text != '\0'; text = strchr(text, '\n') + 1) {
        const char *const end = strchr(text, '\n');
        json_t *object = NULL;
        if (end == NULL || fm_json_parse(&object, text, (size_t)(end - text), "metrics.jsonl") < 0) {
            return NULL;
        }
        if (json_object_get(object, "loss") != NULL && line-- == 0) {
            return object;
        }
        json_decref(object);
    }
    return NULL;
}

/* Relative L2 distance of one gradient; a zero reference demands zero. */
static void hold_gradient(const char *name, const float *found, const float *expected, int64_t n, double bound)
{
    double difference = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        difference += pow((double)found[i] - expected[i], 2);
        scale += pow(expected[i], 2);
    }
    const double distance = scale > 0 ? sqrt(difference / scale) : sqrt(difference);
    if (!(distance <= bound)) {
        printf("gradient of %s: relative L2 %.2g, %.2g allowed\n", name, distance, bound);
        n_far++;
    }
}

/* One tensor of the reference file against the tensor of the same name in the shard set. */
static int check_tensor(fm_source *gradients, const fm_index *index, int tensor, int fd, const json_t *torch_distance)
{
    const fm_index_tensor *const reference = fm_index_get_tensor(index, tensor);
    const char *const name = fm_index_string(index, reference->name);
    const int64_t n = reference->rows * reference->columns;
    int found = -1;
    for (int i = 0; i < fm_source_count(gradients); i++) {
        const char *const full = fm_source_get(gradients, i)->name;
        const char *const slash = strrchr(full, '/');
        if (strcmp(slash ? slash + 1 : full, name) == 0) {
            found = i;
        }
    }
    if (found < 0) {
        printf("no gradient of %s\n", name);
        n_far++;
        return FM_OK;
    }
    const fm_source_tensor *const ours = fm_source_get(gradients, found);
    if (ours->dtype != FM_F32 || ours->ndim != reference->ndim || memcmp(ours->shape, reference->shape, sizeof(int64_t) * (size_t)ours->ndim)) {
        return fm_fail(FM_ERR_FORMAT, "the gradient of %s has another dtype or shape than float32 and the reference's", name);
    }
    float *const expected = fm_alloc_array(n, sizeof(float), FM_MEMORY_HOST);
    float *const values = fm_alloc_array(n, sizeof(float), FM_MEMORY_HOST);
    int rc = expected && values ? FM_OK : FM_ERR_MEMORY;
    if (rc == FM_OK) {
        rc = fm_file_pread(fd, expected, (size_t)n * sizeof(float), fm_index_get_slice(index, reference->first_slice)->offset_bytes, name);
    }
    if (rc == FM_OK) {
        rc = fm_source_read(gradients, values, found, (int64_t[]){0, 0}, ours->shape);
    }
    if (rc == FM_OK) {
        hold_gradient(name, values, expected, n, fmax(gradient_bound, 2 * real(torch_distance, name)));
    }
    fm_free(expected);
    fm_free(values);
    return rc;
}

static int check_gradients(const char *model_dir, const char *gradients_dir, const json_t *torch_distance)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/reference.safetensors", model_dir);
    fm_source *gradients = NULL;
    fm_index index = {0};
    int fd = -1;
    int64_t size_bytes = 0;
    int rc = fm_source_open_shards(&gradients, gradients_dir, NULL);
    if (rc == FM_OK) {
        rc = fm_safetensors_scan(&index, NULL, path);
    }
    if (rc == FM_OK) {
        rc = fm_index_seal(&index, true, path);
    }
    if (rc == FM_OK) {
        rc = fm_file_open(&fd, &size_bytes, path);
    }
    for (int i = 0; rc == FM_OK && i < index.tensors.n; i++) {
        if (strcmp(fm_index_string(&index, fm_index_get_tensor(&index, i)->name), "logits") != 0) {
            rc = check_tensor(gradients, &index, i, fd, torch_distance);
        }
    }
    fm_index_clear(&index);
    fm_source_close(gradients);
    return rc;
}

static int check_step(const char *metrics, const json_t *reference, const char *model_dir, const char *gradients_dir)
{
    json_t *const line = metrics_line(metrics, 0);
    hold("loss", real(line, "loss"), real(reference, "loss_fp64"), loss_bound);
    hold("norm of the gradient", real(line, "grad_norm"), real(reference, "grad_norm_fp64"), gradient_bound);
    hold("tokens", real(line, "tokens"), real(reference, "tokens"), 0);
    hold("label tokens", real(line, "label_tokens"), real(reference, "label_tokens"), 0);
    json_decref(line);
    return check_gradients(model_dir, gradients_dir, json_object_get(reference, "fp32_gradient_distance"));
}

static int check_curve(const char *metrics, const json_t *reference)
{
    const json_t *const losses = json_object_get(reference, "loss_fp64");
    for (size_t step = 0; step < json_array_size(losses); step++) {
        json_t *const line = metrics_line(metrics, (int)step);
        char what[64];
        snprintf(what, sizeof what, "loss of step %zu", step + 1);
        hold(what, real(line, "loss"), json_number_value(json_array_get(losses, step)), step == 0 ? loss_bound : curve_bound);
        json_decref(line);
    }
    return json_array_size(losses) > 0 ? FM_OK : fm_fail(FM_ERR_FORMAT, "no losses in loss_curve.json");
}

int main(int argc, char **argv)
{
    const bool step = argc == 5 && strcmp(argv[1], "step") == 0;
    if (!step && !(argc == 4 && strcmp(argv[1], "curve") == 0)) {
        fprintf(stderr, "usage: check_model step|curve DATA/MODEL OUTPUT_DIR [GRADIENTS_DIR]\n");
        return 99;
    }
    char path[4096];
    json_t *reference = NULL;
    char *metrics = NULL;
    size_t size_bytes = 0;
    snprintf(path, sizeof path, "%s/%s", argv[2], step ? "reference.json" : "loss_curve.json");
    int rc = fm_json_read(&reference, path, 1 << 20);
    snprintf(path, sizeof path, "%s/metrics.jsonl", argv[3]);
    if (rc == FM_OK) {
        rc = fm_file_read(&metrics, &size_bytes, path, 1 << 20);
    }
    if (rc == FM_OK) {
        rc = step ? check_step(metrics, reference, argv[2], argv[4]) : check_curve(metrics, reference);
    }
    if (rc < 0) {
        printf("%s\n", fm_error_message());
    }
    fm_free(metrics);
    json_decref(reference);
    return rc < 0 || n_far > 0;
}
