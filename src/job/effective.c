#include "job/effective.h"

#include <stdio.h>
#include <string.h>

#include "base/ini.h"
#include "base/log.h"
#include "base/memory.h"
#include "job/keys.h"

int fm_job_note(fm_job *job, const char *section, const char *key, const char *format, ...)
{
    const int index = fm_key_find(section, key);
    FM_ASSERT(index >= 0);
    char note[FM_INI_LINE_BYTES - 4];          /* with "# " and its newline it fits into a line */
    va_list args;
    va_start(args, format);
    vsnprintf(note, sizeof note, format, args);
    va_end(args);
    for (char *c = note; *c != '\0'; c++) {
        *c = (unsigned char)*c < ' ' ? ' ' : *c;
    }
    char **const notes = &job->states[index].notes;
    fm_text text = { 0 };
    fm_text_add(&text, "%s%s\n", *notes != NULL ? *notes : "", note);
    char *whole;
    FM_TRY(fm_text_take(&whole, NULL, &text));
    fm_free(*notes);
    *notes = whole;
    return FM_OK;
}

/* The sizes and the mesh exclude each other, whatever their defaults are. */
static bool is_replaced_by_mesh(const fm_job *job, const fm_key *key)
{
    return job->distributed.has_mesh && strcmp(key->section, "distributed") == 0 && strstr(key->name, "_size") != NULL
        && strcmp(key->name, "ep_size") != 0;
}

static void write_notes(fm_text *text, const char *notes)
{
    for (const char *line = notes; line != NULL && *line != '\0'; ) {
        const size_t length = strcspn(line, "\n");
        fm_text_add(text, "# %.*s%s\n", (int)length, line, length > 0 && line[length - 1] == '\\' ? "." : "");
        line += length + (line[length] == '\n');
    }
}

int fm_job_write(char **text, size_t *size_bytes, const fm_job *job)
{
    fm_text out = { 0 };
    fm_text_add(&out, "# The effective job: finemesh run on this file does the same again.\n");
    const char *section = "";
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        if (strcmp(section, key->section) != 0) {
            section = key->section;
            fm_text_add(&out, "\n[%s]\n", section);
        }
        write_notes(&out, job->states[i].notes);
        fm_text value = { 0 };
        if (!is_replaced_by_mesh(job, key)) {
            fm_key_print(&value, job, key);
        }
        fm_text_add(&out, "%s = ", key->name);
        const bool written = fm_ini_write_value(&out, key->name, fm_text_get(&value));
        FM_ASSERT(written);                    /* fm_job_parse refused what cannot be written */
        fm_text_add(&out, "\n");
        fm_text_clear(&value);
    }
    return fm_text_take(text, size_bytes, &out);
}

void fm_job_print(const fm_job *job)
{
    int n_defaults = 0;
    fm_log_print("# %-34s %-36s %s\n", "setting", "value", "from");
    for (int i = 0; i < fm_key_count(); i++) {
        const fm_key *const key = fm_key_get(i);
        const fm_key_state *const state = &job->states[i];
        fm_text value = { 0 };
        fm_key_print(&value, job, key);
        const bool filled_in = key->fallback[0] == '\0' && value.size_bytes > 0;
        if (state->origin == FM_FROM_DEFAULT && state->notes == NULL && !filled_in) {
            n_defaults++;
            fm_text_clear(&value);
            continue;
        }
        char from[32] = "default";
        if (state->origin == FM_FROM_FILE) {
            snprintf(from, sizeof from, "line %d", state->line);
        } else if (state->origin == FM_FROM_OVERRIDE) {
            snprintf(from, sizeof from, "command line");
        }
        char name[64];
        snprintf(name, sizeof name, "%s.%s", key->section, key->name);
        const int note_length = state->notes != NULL ? (int)strcspn(state->notes, "\n") : 0;
        fm_log_print("  %-34s %-36s %s%s%.*s\n", name, fm_text_get(&value), from, note_length > 0 ? "; " : "", note_length,
                     note_length > 0 ? state->notes : "");
        fm_text_clear(&value);
    }
    fm_log_print("# %d other keys have their defaults: finemesh run --help-keys\n", n_defaults);
}
