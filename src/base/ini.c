#include "base/ini.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

#if __has_include(<iniparser/iniparser.h>)
#include <iniparser/iniparser.h>
#else
#include <iniparser.h>
#endif

#include "base/file.h"
#include "base/memory.h"

/* State of the scan. */
typedef struct {
    fm_ini *out;
    fm_complaints *complaints;
    const char *file_name;
    int line;
    char section[FM_INI_LINE_BYTES + 1];
    fm_text clean;                     /* the text without the lines that were refused: what iniparser gets */
} scan;

static void trim(const char **start, const char **end)
{
    while (*start < *end && isspace((unsigned char)**start)) {
        ++*start;
    }
    while (*end > *start && isspace((unsigned char)(*end)[-1])) {
        --*end;
    }
}

static char *lower_copy(const char *start, const char *end)
{
    char *copy = fm_alloc((size_t)(end - start) + 1, FM_MEMORY_HOST);
    for (size_t i = 0; copy != NULL && start + i < end; i++) {
        copy[i] = (char)tolower((unsigned char)start[i]);
    }
    return copy;
}

static int add_entry(scan *s, const char *key_start, const char *key_end)
{
    fm_ini *ini = s->out;
    fm_ini_entry *entries = fm_grow(ini->entries, (size_t)(ini->n + 1) * sizeof *entries, FM_MEMORY_HOST);
    if (entries == NULL) {
        return FM_ERR_MEMORY;
    }
    ini->entries = entries;
    fm_ini_entry *entry = &entries[ini->n++];
    *entry = (fm_ini_entry){ .section = fm_strdup(s->section), .line = s->line };
    if (key_start != NULL) {
        entry->key = lower_copy(key_start, key_end);
    }
    return entry->section == NULL || (key_start != NULL && entry->key == NULL) ? FM_ERR_MEMORY : FM_OK;
}

static const fm_ini_entry *find(const fm_ini *ini, const char *section, const char *start, const char *end)
{
    for (int i = 0; i < ini->n; i++) {
        const fm_ini_entry *entry = &ini->entries[i];
        const size_t length = (size_t)(end - start);
        if (entry->key != NULL && strcmp(entry->section, section) == 0 && strlen(entry->key) == length
            && strncasecmp(entry->key, start, length) == 0) {
            return entry;
        }
    }
    return NULL;
}

static int refuse(scan *s, const char *why)
{
    fm_complain(s->complaints, "%s:%d: %s", s->file_name, s->line, why);
    fm_text_add(&s->clean, "\n");
    return FM_OK;
}

static int accept(scan *s, const char *start, const char *end)
{
    fm_text_add(&s->clean, "%.*s\n", (int)(end - start), start);
    return FM_OK;
}

static int scan_section(scan *s, const char *start, const char *end)
{
    const char *name = start + 1;
    const char *name_end = memchr(start, ']', (size_t)(end - start));
    if (name_end == NULL) {
        return refuse(s, "a section name without its ']': [name] was expected");
    }
    if (name_end + 1 != end) {
        return refuse(s, "text after a section's ']': [name] alone on its line was expected; a comment needs a line of its own");
    }
    trim(&name, &name_end);
    if (name == name_end) {
        return refuse(s, "a section without a name");
    }
    for (size_t i = 0; i < (size_t)(name_end - name) + 1; i++) {
        s->section[i] = name + i < name_end ? (char)tolower((unsigned char)name[i]) : '\0';
    }
    FM_TRY(add_entry(s, NULL, NULL));
    return accept(s, start, end);
}

/* What iniparser would swallow after the '=': NULL where the value is sound. */
static const char *value_fault(const char *value, const char *end)
{
    if (value == end || (*value != '"' && *value != '\'')) {
        return NULL;
    }
    const char *close = memchr(value + 1, *value, (size_t)(end - value) - 1);
    if (close == NULL) {
        return "a quote that is not closed on its line";
    }
    const char *rest = close + 1;
    trim(&rest, &end);
    return rest < end && *rest != '#' && *rest != ';' ? "text after the closing quote: only a comment may follow" : NULL;
}

static int scan_key(scan *s, const char *start, const char *end)
{
    const char *equals = memchr(start, '=', (size_t)(end - start));
    const bool in_comment = equals != NULL && (memchr(start, '#', (size_t)(equals - start)) != NULL
                                               || memchr(start, ';', (size_t)(equals - start)) != NULL);
    if (equals == NULL || in_comment) {
        return refuse(s, "a key without '=': key = value was expected");
    }
    const char *key_end = equals;
    trim(&start, &key_end);
    if (start == key_end) {
        return refuse(s, "'=' without a key before it: key = value was expected");
    }
    if (s->section[0] == '\0') {
        return refuse(s, "a key before the first [section]");
    }
    const char *value = equals + 1;
    const char *value_end = end;
    trim(&value, &value_end);
    const char *const fault = value_fault(value, value_end);
    if (fault != NULL) {
        return refuse(s, fault);
    }
    const fm_ini_entry *const first = find(s->out, s->section, start, key_end);
    if (first != NULL) {
        char why[256];
        snprintf(why, sizeof why, "[%.60s] %.60s: the key stands in line %d already; one of the two must go", s->section,
                 first->key, first->line);
        return refuse(s, why);
    }
    FM_TRY(add_entry(s, start, key_end));
    return accept(s, start, end);
}

static int scan_line(scan *s, const char *start, const char *end)
{
    if (end - start + 1 > FM_INI_LINE_BYTES) {
        char why[128];
        snprintf(why, sizeof why, "a line of %td bytes: at most %d with its end were expected", end - start + 1,
                 FM_INI_LINE_BYTES);
        return refuse(s, why);
    }
    if (memchr(start, '\0', (size_t)(end - start)) != NULL) {
        return refuse(s, "a 0 byte: a text file was expected");
    }
    trim(&start, &end);
    if (start < end && end[-1] == '\\') {
        return refuse(s, "a '\\' at the end of the line: there are no continuation lines; write the value on one line");
    }
    if (start == end || *start == '#' || *start == ';') {
        return accept(s, start, start);
    }
    if (s->line == 1 && end - start >= 3 && memcmp(start, "\xef\xbb\xbf", 3) == 0) {
        return refuse(s, "a byte order mark: plain UTF-8 was expected; save the file without it");
    }
    return *start == '[' ? scan_section(s, start, end) : scan_key(s, start, end);
}

/* iniparser prints by itself unless it is given somewhere to say it. */
static int silent(const char *format, ...)
{
    (void)format;
    return 0;
}

/* iniparser 4.1 reads files by name only: the text goes through an unnamed file in memory. */
static int load(dictionary **out, const fm_text *clean)
{
    const int fd = memfd_create("finemesh-job", MFD_CLOEXEC);
    if (fd < 0) {
        return fm_fail(FM_ERR_IO, "cannot make a file in memory for the job: %s", strerror(errno));
    }
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int rc = fm_file_pwrite(fd, fm_text_get(clean), clean->size_bytes, 0, path);
    if (rc == FM_OK) {
        iniparser_set_error_callback(silent);
        *out = iniparser_load(path);
        rc = *out != NULL ? FM_OK : fm_fail(FM_ERR_FORMAT, "iniparser refuses the job for a reason of its own");
    }
    close(fd);
    return rc;
}

/* Fills in the values that iniparser found. */
static int take_values(fm_ini *ini, const fm_text *clean)
{
    dictionary *values = NULL;
    FM_TRY(load(&values, clean));
    int rc = FM_OK;
    for (int i = 0; rc == FM_OK && i < ini->n; i++) {
        fm_ini_entry *entry = &ini->entries[i];
        if (entry->key == NULL) {
            continue;
        }
        char name[2 * FM_INI_LINE_BYTES];
        snprintf(name, sizeof name, "%s:%s", entry->section, entry->key);
        const char *const value = iniparser_getstring(values, name, "");
        entry->value = fm_strdup(value);
        rc = entry->value != NULL ? FM_OK : FM_ERR_MEMORY;
    }
    iniparser_freedict(values);
    return rc;
}

int fm_ini_parse(fm_ini *out, fm_complaints *complaints, const char *text, size_t size_bytes, const char *file_name)
{
    *out = (fm_ini){ 0 };
    scan s = { .out = out, .complaints = complaints, .file_name = file_name };
    int rc = FM_OK;
    for (const char *start = text; rc == FM_OK && start < text + size_bytes; ) {
        const char *newline = memchr(start, '\n', (size_t)(text + size_bytes - start));
        const char *const end = newline != NULL ? newline : text + size_bytes;
        s.line++;
        rc = scan_line(&s, start, end);
        start = end + 1;
    }
    if (rc == FM_OK && s.clean.failed) {
        rc = FM_ERR_MEMORY;
    }
    if (rc == FM_OK) {
        rc = take_values(out, &s.clean);
    }
    fm_text_clear(&s.clean);
    return rc;
}

void fm_ini_clear(fm_ini *ini)
{
    for (int i = 0; i < ini->n; i++) {
        fm_free(ini->entries[i].section);
        fm_free(ini->entries[i].key);
        fm_free(ini->entries[i].value);
    }
    fm_free(ini->entries);
    *ini = (fm_ini){ 0 };
}

bool fm_ini_write_value(fm_text *out, const char *key, const char *value)
{
    const size_t length = strlen(value);
    if (strlen(key) + 3 + length + 2 + 1 > FM_INI_LINE_BYTES) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        if (iscntrl((unsigned char)value[i])) {
            return false;
        }
    }
    const bool bare = length == 0
        || (strpbrk(value, "#;") == NULL && strchr("\"'", value[0]) == NULL && !isspace((unsigned char)value[0])
            && !isspace((unsigned char)value[length - 1]) && value[length - 1] != '\\');
    const char quote = bare ? '\0' : strchr(value, '"') == NULL ? '"' : '\'';
    if (!bare && strchr(value, quote) != NULL) {
        return false;
    }
    if (bare) {
        fm_text_add(out, "%s", value);
    } else {
        fm_text_add(out, "%c%s%c", quote, value, quote);
    }
    return true;
}
