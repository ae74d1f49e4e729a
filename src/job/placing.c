#include "job/placing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "job/device.h"
#include "train/forward.h"

enum { MAX_OVERRIDES = 8, OVERRIDE_BYTES = FM_PATH_BYTES + 32 };

/* A size option: its name, and the key that it becomes with sizes and with an explicit mesh. */
static const struct {
    const char *option, *key, *mesh_key;
    int standard;
} sizes[] = {
    { "--tp-size", "distributed.tp_size", "device_mesh.tp", 1 },
    { "--cp-size", "distributed.cp_size", "device_mesh.cp", 1 },
    { "--pp-size", "distributed.pp_size", "device_mesh.pp", 1 },
    { "--dp-replicate-size", "distributed.dp_replicate_size", "device_mesh.dp_replicate", 1 },
    { "--dp-size", "distributed.dp_size", "device_mesh.dp_shard", 0 },
};
enum { N_SIZES = FM_PLACING_SIZES, TP = 0, CP = 1, PP = 2, DP_REPLICATE = 3, DP = 4 };
#define SIZE_LIST "--tp-size N, --cp-size N, --pp-size N, --dp-replicate-size N, --dp-size N"

fm_placing fm_placing_default(void)
{
    fm_placing placing = { .dtype = "float32" };
    for (int i = 0; i < N_SIZES; i++) {
        placing.size[i] = sizes[i].standard;
    }
    return placing;
}

const char *fm_placing_list(void)
{
    return "--model-name MODEL, " SIZE_LIST ", --use-device-mesh, --dtype float32|bfloat16|float16";
}

const char *fm_placing_size_list(void)
{
    return SIZE_LIST;
}

static int parse_size(int *out, const char *option, const char *text)
{
    char *end = NULL;
    const long value = text == NULL ? -1 : strtol(text, &end, 10);
    if (text == NULL || end == text || *end != '\0' || value < 0 || value > 1 << 20) {
        return fm_fail(FM_ERR_JOB, "%s %s: a number of ranks was expected", option, text == NULL ? "" : text);
    }
    *out = (int)value;
    return FM_OK;
}

int fm_placing_size_option(fm_placing *placing, bool *known, int *i, int argc, char **argv)
{
    const char *const option = argv[*i];
    *known = true;
    for (int s = 0; s < N_SIZES; s++) {
        if (strcmp(option, sizes[s].option) == 0) {
            *i += 1;
            return parse_size(&placing->size[s], option, *i < argc ? argv[*i] : NULL);
        }
    }
    *known = false;
    return FM_OK;
}

int fm_placing_option(fm_placing *placing, bool *known, int *i, int argc, char **argv)
{
    const char *const option = argv[*i], *const value = *i + 1 < argc ? argv[*i + 1] : NULL;
    *known = true;
    if (strcmp(option, "--use-device-mesh") == 0) {
        placing->use_device_mesh = true;
        return FM_OK;
    }
    if (strcmp(option, "--model-name") == 0 || strcmp(option, "--dtype") == 0) {
        *(option[2] == 'm' ? &placing->model : &placing->dtype) = value;
        *i += 1;
        return value == NULL ? fm_fail(FM_ERR_JOB, "%s: a value was expected after it", option) : FM_OK;
    }
    return fm_placing_size_option(placing, known, i, argc, argv);
}

/* The embedded tiny model: beside the sources it was built from, or installed. */
static int find_model(char *out, const fm_placing *placing)
{
    static const char *const places[] = { "inputs/tiny-llama", FM_PKGDATADIR "/tiny-llama" };
    if (placing->model != NULL) {
        return fm_path_join(out, "", placing->model);
    }
    for (int i = 0; i < 2; i++) {
        if (fm_path_is_dir(places[i])) {
            return fm_path_join(out, "", places[i]);
        }
    }
    return fm_fail(FM_ERR_JOB, "no MODEL was given, and the embedded tiny model is neither at %s nor at %s", places[0], places[1]);
}

/* An explicit mesh has dp_shard where people give dp: what is left, without the replicas. */
static int dp_shard_of(const fm_placing *p, int n_ranks)
{
    const int others = p->size[TP] * p->size[CP] * p->size[PP];
    const int dp = p->size[DP] > 0 ? p->size[DP] : others > 0 ? n_ranks / others : 1;
    const int shard = p->size[DP_REPLICATE] > 0 ? dp / p->size[DP_REPLICATE] : dp;
    return shard > 0 ? shard : 1;
}

void fm_placing_print_sizes(char out[N_SIZES][FM_PLACING_OVERRIDE_BYTES], const fm_placing *placing)
{
    for (int i = 0; i < N_SIZES; i++) {
        snprintf(out[i], FM_PLACING_OVERRIDE_BYTES, "%s=%d", sizes[i].key, placing->size[i]);
    }
}

/* The options as a job without training. */
static int make_job(fm_assembly *a, const fm_launch *launch, const fm_placing *placing)
{
    char (*const text)[OVERRIDE_BYTES] = fm_alloc_array(MAX_OVERRIDES, sizeof *text, FM_MEMORY_HOST);
    const char *list[MAX_OVERRIDES];
    char model[FM_PATH_BYTES];
    if (text == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc = fm_comm_agree(launch->world, find_model(model, placing)), n = 0;
    if (rc == FM_OK) {
        snprintf(text[n++], OVERRIDE_BYTES, "model.path=%s", model);
        snprintf(text[n++], OVERRIDE_BYTES, "model.dtype=%s", placing->dtype);
        for (int i = 0; i < N_SIZES; i++) {
            const int size = i == DP && placing->use_device_mesh ? dp_shard_of(placing, launch->n_ranks) : placing->size[i];
            snprintf(text[n++], OVERRIDE_BYTES, "%s=%d", placing->use_device_mesh ? sizes[i].mesh_key : sizes[i].key, size);
        }
        for (int i = 0; i < n; i++) {
            list[i] = text[i];
        }
        rc = fm_assemble_text(a, launch, "", "finemesh", list, n, false);
    }
    fm_free(text);
    return rc;
}

int fm_placing_begin(fm_assembly *a, const fm_launch *launch, const fm_placing *placing)
{
    FM_TRY(make_job(a, launch, placing));
    FM_TRY(fm_assemble_shape(a, false));
    return fm_assemble_config(a);
}

static int load(fm_assembly *a, const fm_source *source, int64_t n_tokens)
{
    FM_TRY(fm_assemble_model(a, source, false));
    const fm_model_reserve_spec needs = fm_forward_needs(a->model, n_tokens);
    return fm_assemble_memory(a, &needs);
}

int fm_placing_load(fm_assembly *a, int64_t n_tokens)
{
    fm_source *source;
    FM_TRY(fm_assemble_mesh(a));
    a->tells = FM_TELL_TROUBLE;        /* stdout is for what was asked for */
    FM_TRY(fm_assemble_device(a));
    FM_TRY(fm_source_open(&source, a->job.model.path, a->launch->world));
    int rc = load(a, source, n_tokens);
    if (rc == FM_OK) {
        rc = fm_assemble_weights(a, source);
    }
    fm_source_close(source);
    return rc;
}
