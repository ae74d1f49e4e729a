#include "ckpt/match.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

enum { NAMED = 5, LIST_BYTES = (NAMED + 1) * (FM_NAME_BYTES + 2) };

/* The first few of a list, in words. */
typedef struct {
    char text[LIST_BYTES];
    int n;
} name_list;

static void add_name(name_list *list, const char *name)
{
    const size_t length = strlen(list->text);
    if (list->n < NAMED) {
        snprintf(list->text + length, sizeof list->text - length, "%s%.*s", list->n == 0 ? "" : ", ", FM_NAME_BYTES, name);
    } else if (list->n == NAMED) {
        snprintf(list->text + length, sizeof list->text - length, ", ...");
    }
    list->n++;
}

/* "[3, 5]" */
static void print_shape(char out[FM_INDEX_DIMS * 24], const int64_t *shape, int ndim)
{
    size_t length = (size_t)sprintf(out, "[");
    for (int d = 0; d < ndim; d++) {
        length += (size_t)sprintf(out + length, "%s%lld", d == 0 ? "" : ", ", (long long)shape[d]);
    }
    sprintf(out + length, "]");
}

/* One tensor that is there under its name. */
static int check_tensor(const fm_tensor_spec *spec, const fm_source_tensor *found, const char *name)
{
    bool same = found->ndim == spec->ndim;
    for (int d = 0; same && d < spec->ndim; d++) {
        same = found->shape[d] == spec->shape[d];
    }
    if (!same) {
        char has[FM_INDEX_DIMS * 24], wants[FM_INDEX_DIMS * 24];
        print_shape(has, found->shape, found->ndim);
        print_shape(wants, spec->shape, spec->ndim);
        return fm_fail(FM_ERR_FORMAT, "%s: tensor %s has the shape %s, config.json makes it %s", name, spec->name, has, wants);
    }
    if (found->dtype != FM_F32 && found->dtype != FM_BF16 && found->dtype != FM_F16) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: tensor %s has the dtype %s; F32, BF16 or F16 were expected (quantised models are "
                       "not supported)", name, spec->name, found->dtype_name);
    }
    return FM_OK;
}

/* What the source holds beyond the model. */
static void warn_unexpected(const bool *used, const fm_source *source, bool tied, const char *name)
{
    name_list unexpected = { .n = 0 };
    for (int t = 0; t < fm_source_count(source); t++) {
        const char *const tensor = fm_source_get(source, t)->name;
        const bool known = used[t] || strchr(tensor, '/') != NULL || (tied && strcmp(tensor, "lm_head.weight") == 0);
        if (!known) {
            add_name(&unexpected, tensor);
        }
    }
    if (unexpected.n > 0) {
        fm_log_warning("%s: %d tensors are not the model's and are ignored: %s", name, unexpected.n, unexpected.text);
    }
}

int fm_match_tensors(int *tensor_of, fm_tensor_spec *tensors, int n, const fm_source *source, const char *name)
{
    bool *const used = fm_alloc_array(fm_source_count(source), sizeof *used, FM_MEMORY_HOST);
    name_list missing = { .n = 0 };
    bool tied = false;
    int rc = used == NULL ? FM_ERR_MEMORY : FM_OK;
    for (int i = 0; rc == FM_OK && i < n; i++) {
        tied = tied || tensors[i].place == FM_PLACE_TIED;
        tensor_of[i] = fm_source_find(source, tensors[i].name);
        if (tensor_of[i] < 0) {
            add_name(&missing, tensors[i].name);
            continue;
        }
        const fm_source_tensor *const found = fm_source_get(source, tensor_of[i]);
        used[tensor_of[i]] = true;
        rc = check_tensor(&tensors[i], found, name);
        tensors[i].dtype = found->dtype;
    }
    if (rc == FM_OK && missing.n > 0) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: %d of the model's %d tensors are missing: %s", name, missing.n, n, missing.text);
    }
    if (rc == FM_OK) {
        warn_unexpected(used, source, tied, name);
    }
    fm_free(used);
    return rc;
}

int fm_match_trained(int *tensor_of, const fm_tensor_spec *tensors, int n, const fm_source *source, const char *name)
{
    for (int i = 0; i < n; i++) {
        char master[FM_NAME_BYTES + 16];
        snprintf(master, sizeof master, "master/%s", tensors[i].name);
        tensor_of[i] = fm_source_find(source, master);
        tensor_of[i] = tensor_of[i] >= 0 ? tensor_of[i] : fm_source_find(source, tensors[i].name);
        if (tensor_of[i] < 0) {
            return fm_fail(FM_ERR_FORMAT, "%s: tensor %s is not there: another model wrote it", name, tensors[i].name);
        }
        FM_TRY(check_tensor(&tensors[i], fm_source_get(source, tensor_of[i]), name));
    }
    return FM_OK;
}
