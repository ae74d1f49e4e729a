#include "job/identity.h"

#include <string.h>

#include "base/complaints.h"
#include "base/crc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/hf.h"
#include "job/keys.h"

enum { CONFIG_LIMIT_BYTES = 16 << 20 };

static int set(json_t *object, const char *key, const char *text)
{
    return json_object_set_new(object, key, json_string(text)) == 0 ? FM_OK
        : fm_fail(FM_ERR_MEMORY, "out of memory: the identity of %s", key);
}

/* config.json, and where weights are read the headers and sizes of their files. */
static int add_model(json_t *object, const fm_job *job)
{
    json_t *files = NULL;
    char text[96], path[FM_PATH_BYTES];
    uint32_t crc = 0;
    long long bytes = 0;
    size_t n = 1;
    if (job->model.init == FM_INIT_PRETRAINED) {
        FM_TRY(fm_hf_identity(&files, job->model.path));
        n = json_array_size(files);
        for (size_t i = 0; i < n; i++) {
            const json_t *const file = json_array_get(files, i);
            const int64_t numbers[2] = { json_integer_value(json_object_get(file, "size")),
                                         json_integer_value(json_object_get(file, "crc32")) };
            crc = fm_crc32(crc, numbers, sizeof numbers);
            bytes += numbers[0];
        }
        json_decref(files);
    } else {
        char *config;
        size_t size_bytes;
        FM_TRY(fm_path_join(path, job->model.path, "config.json"));
        FM_TRY(fm_file_read(&config, &size_bytes, path, CONFIG_LIMIT_BYTES));
        crc = fm_crc32(0, config, size_bytes);
        bytes = (long long)size_bytes;
        fm_free(config);
    }
    snprintf(text, sizeof text, "%zu files, %lld bytes, CRC %08x", n, bytes, crc);
    return set(object, "model.path", text);
}

static int add_data(json_t *object, const fm_dataset *train)
{
    char text[128];
    uint32_t all = 0;
    long long bytes = 0;
    for (int64_t f = 0; f < fm_dataset_files(train); f++) {
        int64_t size_bytes, mtime_ns;
        uint32_t crc;
        fm_dataset_file(&size_bytes, &mtime_ns, &crc, train, f);
        all = fm_crc32(all, &crc, sizeof crc);
        bytes += size_bytes;
    }
    snprintf(text, sizeof text, "%lld files, %lld bytes, CRC %08x", (long long)fm_dataset_files(train), bytes, all);
    return set(object, "data.train", text);
}

/* Settings that make other batches of the same files. */
static const char *const settings[][2] = {
    { "job", "seed" }, { "data", "format" }, { "data", "question_column" }, { "data", "context_column" },
    { "data", "answer_column" }, { "data", "seq_length" }, { "data", "packing" }, { "data", "shuffle" },
    { "data", "mask_prompt" }, { "batch", "global_batch_size" },
};

static int add_settings(json_t *object, const fm_job *job)
{
    int rc = FM_OK;
    for (size_t i = 0; rc == FM_OK && i < sizeof settings / sizeof settings[0]; i++) {
        char key[64];
        fm_text value = { 0 };
        snprintf(key, sizeof key, "%s.%s", settings[i][0], settings[i][1]);
        fm_key_print(&value, job, fm_key_get(fm_key_find(settings[i][0], settings[i][1])));
        rc = value.failed ? FM_ERR_MEMORY : set(object, key, fm_text_get(&value));
        fm_text_clear(&value);
    }
    return rc;
}

int fm_identity_make(json_t **out, const fm_assembly *a, const fm_inputs *inputs, const fm_dataset *train)
{
    *out = json_object();
    int rc = add_model(*out, &a->job);
    if (rc == FM_OK) {
        rc = set(*out, "tokenizer", inputs->tokenizer == NULL ? "none" : inputs->identity);
    }
    if (rc == FM_OK) {
        rc = add_data(*out, train);
    }
    if (rc == FM_OK) {
        rc = add_settings(*out, &a->job);
    }
    if (rc < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

int fm_identity_compare(const json_t *was, const json_t *is, bool allowed, const char *where)
{
    fm_complaints changes = { .count = 0 };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)is, key, value) {
        const char *const before = json_string_value(json_object_get(was, key)), *const now = json_string_value(value);
        if (before == NULL || strcmp(before, now) != 0) {
            fm_complain(&changes, "%s was \"%s\" when %s was written and is \"%s\" now", key,
                        before == NULL ? "not noted" : before, where, now);
        }
    }
    if (changes.count == 0) {
        return FM_OK;
    }
    if (allowed) {
        fm_log_warning("the run goes on with other inputs:\n%s", fm_text_get(&changes.lines));
        fm_text_clear(&changes.lines);
        return FM_OK;
    }
    const int rc = fm_fail(FM_ERR_JOB, "this is not the run that the checkpoint belongs to:\n%sUndo that, or go on all the same with "
                           "checkpoint.allow_changes=yes, or start anew with checkpoint.resume=no and another job.output_dir (or "
                           "job.overwrite=yes).", fm_text_get(&changes.lines));
    fm_text_clear(&changes.lines);
    return rc;
}

/* Sections and keys that change where and how fast a run is, not what comes out. */
static bool matters(const fm_key *key)
{
    static const char *const sections[] = { "distributed", "device_mesh", "pipeline", "log", "device", "checkpoint" };
    static const char *const names[] = { "name", "output_dir", "overwrite", "watchdog", "max_time" };
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        if (strcmp(key->section, sections[i]) == 0) {
            return strcmp(key->name, "export") == 0;
        }
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(key->section, "job") == 0 && strcmp(key->name, names[i]) == 0) {
            return false;
        }
    }
    return true;
}

int fm_identity_fingerprint(uint32_t *out, const json_t *identity, const fm_job *job)
{
    char *text;
    size_t size_bytes;
    fm_text values = { 0 };
    FM_TRY(fm_json_print(&text, &size_bytes, identity, 0));
    for (int i = 0; i < fm_key_count(); i++) {
        if (matters(fm_key_get(i))) {
            fm_key_print(&values, job, fm_key_get(i));
            fm_text_add(&values, "\n");
        }
    }
    *out = fm_crc32(fm_crc32(0, text, size_bytes), fm_text_get(&values), values.size_bytes);
    const int rc = values.failed ? FM_ERR_MEMORY : FM_OK;
    fm_text_clear(&values);
    fm_free(text);
    return rc;
}
