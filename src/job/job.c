#include "job/job.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "base/ini.h"
#include "base/memory.h"
#include "job/check.h"
#include "job/keys.h"

static bool is_string(const fm_key *key)
{
    return key->type == FM_KEY_TEXT || key->type == FM_KEY_PATH || key->type == FM_KEY_PATHS;
}

static int set_defaults(fm_job *job, const char *file_name)
{
    *job = (fm_job){ .file_name = fm_strdup(file_name) };
    job->states = fm_alloc_array(fm_key_count(), sizeof *job->states, FM_MEMORY_HOST);
    if (job->file_name == NULL || job->states == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int i = 0; i < fm_key_count(); i++) {
        fm_text expected = { 0 };
        const int rc = fm_key_parse(job, fm_key_get(i), "", &expected);
        FM_ASSERT(rc != FM_ERR_JOB);
        FM_TRY(rc);
    }
    return FM_OK;
}

/* Takes one value from the file (where = "FILE:LINE") or the command line. */
static int take(fm_job *job, fm_complaints *complaints, const char *where, const char *section, const char *name,
                const char *value, enum fm_origin origin, int line)
{
    const int index = fm_key_find(section, name);
    if (index < 0) {
        const fm_key *const nearest = fm_key_get(fm_key_nearest(section, name));
        fm_complain(complaints, "%s: [%.100s] %.100s = %.200s: unknown key; the nearest known key is [%s] %s", where, section,
                    name, value, nearest->section, nearest->name);
        return FM_OK;
    }
    const fm_key *const key = fm_key_get(index);
    fm_key_state *const state = &job->states[index];
    fm_text expected = { 0 };
    int rc = fm_key_parse(job, key, value, &expected);
    if (rc == FM_ERR_JOB) {
        fm_complain(complaints, "%s: [%s] %s = %.200s: %s was expected", where, key->section, key->name, value,
                    fm_text_get(&expected));
        rc = FM_OK;
        state->faulty = true;
    } else {
        state->origin = value[0] != '\0' ? origin : FM_FROM_DEFAULT;
        state->line = line;
    }
    fm_text_clear(&expected);
    return rc;
}

static int take_file(fm_job *job, fm_complaints *complaints, const fm_ini *ini)
{
    for (int i = 0; i < ini->n; i++) {
        const fm_ini_entry *const entry = &ini->entries[i];
        char where[512];
        snprintf(where, sizeof where, "%.480s:%d", job->file_name, entry->line);
        if (entry->key != NULL) {
            FM_TRY(take(job, complaints, where, entry->section, entry->key, entry->value, FM_FROM_FILE, entry->line));
        } else if (!fm_key_has_section(entry->section)) {
            fm_complain(complaints, "%s: [%.100s]: unknown section; the nearest known one is [%s]", where, entry->section,
                        fm_key_nearest_section(entry->section));
        }
    }
    return FM_OK;
}

static const char *skip_blanks(const char *text)
{
    return text + strspn(text, " \t");
}

/* [start, end) without the blanks around it; false where it does not fit. */
static bool copy_trimmed(char *out, size_t out_bytes, const char *start, const char *end)
{
    start = skip_blanks(start);
    while (end > start && strchr(" \t", end[-1]) != NULL) {
        end--;
    }
    const int length = end > start ? (int)(end - start) : 0;
    return snprintf(out, out_bytes, "%.*s", length, start) < (int)out_bytes;
}

static int take_override(fm_job *job, fm_complaints *complaints, const char *text)
{
    const char *const equals = strchr(text, '=');
    const char *const dot = strchr(text, '.');
    char section[128], name[128], value[FM_INI_LINE_BYTES];
    if (equals == NULL || dot == NULL || dot > equals) {
        fm_complain(complaints, "command line: '%.200s': section.key=value was expected", text);
        return FM_OK;
    }
    if (!copy_trimmed(section, sizeof section, text, dot) || !copy_trimmed(name, sizeof name, dot + 1, equals)
        || !copy_trimmed(value, sizeof value, equals + 1, text + strlen(text))) {
        fm_complain(complaints, "command line: '%.200s...': at most %d bytes were expected", text, FM_INI_LINE_BYTES);
        return FM_OK;
    }
    return take(job, complaints, "command line", section, name, value, FM_FROM_OVERRIDE, 0);
}

/* Features that are not there yet are refused by the value that counts in the end. */
static void check_availability(fm_job *job, fm_complaints *complaints)
{
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        fm_text value = { 0 };
        fm_key_print(&value, job, key);
        if (!fm_key_is_available(key, fm_text_get(&value))) {
            job->states[i].faulty = true;
            fm_job_complain(complaints, job, key->section, key->name,
                            "not available in this version of finemesh, which takes only: %s",
                            key->available[0] != '\0' ? key->available : "nothing");
        }
        fm_text_clear(&value);
    }
}

/* "runs/fine.ini" -> "fine" */
static void stem(char *out, size_t out_bytes, const char *file_name)
{
    const char *const slash = strrchr(file_name, '/');
    const char *const base = slash != NULL ? slash + 1 : file_name;
    const char *const dot = strrchr(base, '.');
    const int length = dot != NULL && dot != base ? (int)(dot - base) : (int)strlen(base);
    snprintf(out, out_bytes, "%.*s", length, length > 0 ? base : "job");
}

static int fill_in_names(fm_job *job)
{
    char text[FM_PATH_BYTES];
    if (job->name[0] == '\0') {
        stem(text, sizeof text, job->file_name);
        fm_free(job->name);
        job->name = fm_strdup(text[0] != '\0' ? text : "job");
    }
    if (job->name != NULL && job->output_dir[0] == '\0') {
        FM_TRY(fm_path_join(text, "runs", job->name));
        fm_free(job->output_dir);
        job->output_dir = fm_strdup(text);
    }
    return job->name == NULL || job->output_dir == NULL ? FM_ERR_MEMORY : FM_OK;
}

/* One path, or each of a list of them, made absolute. Error: too long. */
static int absolute(fm_text *out, const char *paths, bool is_list, const char *start_dir)
{
    for (const char *start = paths; *start != '\0'; ) {
        const size_t length = is_list ? strcspn(start, ",") : strlen(start);
        const char *const end = start + length;
        const char *first = skip_blanks(start);
        while (first + 1 < end && first[0] == '.' && first[1] == '/') {
            first += 2;
        }
        const char *last = end;
        while (last > first && strchr(" \t", last[-1]) != NULL) {
            last--;
        }
        if (last > first) {
            char path[FM_PATH_BYTES], joined[FM_PATH_BYTES];
            snprintf(path, sizeof path, "%.*s", (int)(last - first), first);
            FM_TRY(fm_path_join(joined, start_dir, path));
            fm_text_add(out, "%s%s", out->size_bytes > 0 ? "," : "", joined);
        } else if (last == first && first > skip_blanks(start)) {
            fm_text_add(out, "%s%s", out->size_bytes > 0 ? "," : "", start_dir);       /* "./" alone */
        }
        start = *end == ',' ? end + 1 : end;
    }
    return FM_OK;
}

static const char *special_word(const fm_key *key, const char *value)
{
    for (const fm_choice *choice = key->choices; choice != NULL && choice->word != NULL; choice++) {
        if (strcasecmp(choice->word, value) == 0) {
            return choice->word;
        }
    }
    return NULL;
}

static int make_paths_absolute(fm_job *job, fm_complaints *complaints)
{
    char start_dir[FM_PATH_BYTES];
    if (getcwd(start_dir, sizeof start_dir) == NULL) {
        return fm_fail(FM_ERR_IO, "cannot tell the current directory, to which paths are relative: %s", strerror(errno));
    }
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        if (key->type != FM_KEY_PATH && key->type != FM_KEY_PATHS) {
            continue;
        }
        char **const value = fm_key_string(job, key);
        fm_text paths = { 0 };
        const char *const word = special_word(key, *value);
        if (word != NULL) {
            fm_text_add(&paths, "%s", word);
        } else if (absolute(&paths, *value, key->type == FM_KEY_PATHS, start_dir) < 0) {
            fm_job_complain(complaints, job, key->section, key->name, "%s", fm_error_message());
        }
        fm_free(*value);
        *value = NULL;
        FM_TRY(fm_text_take(value, NULL, &paths));
    }
    return FM_OK;
}

/* The effective job must be able to say it. */
static void check_writable(fm_job *job, fm_complaints *complaints)
{
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        fm_text line = { 0 };
        if (is_string(key) && !fm_ini_write_value(&line, key->name, *fm_key_string(job, key))) {
            fm_job_complain(complaints, job, key->section, key->name,
                            "a value without control characters that fits into a line of a job file (%d bytes, paths made "
                            "absolute) was expected", FM_INI_LINE_BYTES);
        }
        fm_text_clear(&line);
    }
}

static bool has_mesh(const fm_job *job)
{
    for (int d = 0; d < FM_DIMS; d++) {
        if (job->distributed.explicit_mesh.size[d] != 0) {
            return true;
        }
    }
    return false;
}

static int read_job(fm_job *job, fm_complaints *complaints, const fm_ini *ini, const char *const *overrides, int n_overrides)
{
    FM_TRY(take_file(job, complaints, ini));
    for (int i = 0; i < n_overrides; i++) {
        FM_TRY(take_override(job, complaints, overrides[i]));
    }
    job->distributed.has_mesh = has_mesh(job);
    check_availability(job, complaints);
    FM_TRY(fill_in_names(job));
    FM_TRY(make_paths_absolute(job, complaints));
    check_writable(job, complaints);
    fm_job_check_written(complaints, job);
    return FM_OK;
}

/* Parses, and where `runs` checks a run too. */
static int parse(fm_job *out, const char *text, size_t size_bytes, const char *file_name, const char *const *overrides,
                 int n_overrides, bool runs, int n_ranks)
{
    fm_complaints complaints = { 0 };
    fm_ini ini = { 0 };
    int rc;
    FM_TRY_TO(done, rc, set_defaults(out, file_name));
    FM_TRY_TO(done, rc, fm_ini_parse(&ini, &complaints, text, size_bytes, file_name));
    FM_TRY_TO(done, rc, read_job(out, &complaints, &ini, overrides, n_overrides));
    if (runs) {
        fm_job_check_run(&complaints, out, n_ranks);
    }
    rc = fm_complaints_end(&complaints, FM_ERR_JOB, file_name);
done:
    fm_text_clear(&complaints.lines);
    fm_ini_clear(&ini);
    if (rc < 0) {
        fm_job_clear(out);
    }
    return rc;
}

int fm_job_parse(fm_job *out, const char *text, size_t size_bytes, const char *file_name, const char *const *overrides,
                 int n_overrides)
{
    return parse(out, text, size_bytes, file_name, overrides, n_overrides, false, 0);
}

int fm_job_load(fm_job *out, const char *text, size_t size_bytes, const char *file_name, const char *const *overrides,
                int n_overrides, int n_ranks)
{
    return parse(out, text, size_bytes, file_name, overrides, n_overrides, true, n_ranks);
}

int fm_job_validate(const fm_job *job, int n_ranks)
{
    fm_complaints complaints = { 0 };
    fm_job_check_run(&complaints, job, n_ranks);
    return fm_complaints_end(&complaints, FM_ERR_JOB, job->file_name);
}

void fm_job_clear(fm_job *job)
{
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        if (is_string(key)) {
            fm_free(*fm_key_string(job, key));
        }
        if (job->states != NULL) {
            fm_free(job->states[i].notes);
        }
    }
    fm_free(job->states);
    fm_free(job->file_name);
    *job = (fm_job){ 0 };
}

int fm_job_mesh(fm_mesh_shape *out, const fm_job *job, int n_ranks)
{
    const fm_distributed_options *const options = &job->distributed;
    if (!options->has_mesh) {
        return fm_mesh_from_sizes(out, &options->sizes, n_ranks);
    }
    fm_mesh_shape mesh = options->explicit_mesh;
    for (int d = 0; d < FM_DIMS; d++) {
        mesh.size[d] = mesh.size[d] > 0 ? mesh.size[d] : 1;
    }
    FM_TRY(fm_mesh_check(&mesh, n_ranks));
    *out = mesh;
    return FM_OK;
}
