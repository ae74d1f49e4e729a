#include "data/tokenizer_pipeline.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "data/tokenizer_steps.h"
#include "data/unicode.h"

enum { MAX_NESTING = 8, MAX_STRIP = 1 << 20, NAME_BYTES = 4352 };

struct fm_pipeline {
    fm_bytes steps;                  /* fm_step */
};

/* One component on its way to being steps. */
typedef struct {
    fm_pipeline *pipeline;
    const json_t *object;
    const char *name;               /* "FILE: pre_tokenizer" */
    int nesting;
    enum fm_pipeline_kind kind;
} component;

typedef int compile(const component *c);

void fm_words_free(fm_words *words)
{
    fm_bytes_free(&words->text);
    fm_bytes_free(&words->words);
    fm_bytes_free(&words->other_text);
    fm_bytes_free(&words->other_words);
    fm_bytes_free(&words->stack);
}

int fm_words_add(fm_words *words, const char *text, size_t size_bytes)
{
    const fm_word word = { words->text.size_bytes, words->text.size_bytes + size_bytes, false };
    FM_TRY(fm_bytes_append(&words->text, text, size_bytes));
    return fm_bytes_append(&words->words, &word, sizeof word);
}

int fm_words_start(fm_words *words, const char *text, size_t size_bytes, bool at_start)
{
    words->text.size_bytes = words->words.size_bytes = 0;
    if (size_bytes == 0) {
        return FM_OK;
    }
    FM_TRY(fm_words_add(words, text, size_bytes));
    ((fm_word *)(void *)words->words.bytes)->at_start = at_start;
    return FM_OK;
}

static void step_free(fm_step *step)
{
    fm_regex_destroy(step->pattern.regex);
    fm_bytes_free(&step->pattern.literal);
    fm_bytes_free(&step->content);
}

/* Takes over what the step owns, also when it fails. */
static int add_step(const component *c, fm_step *step)
{
    const int rc = fm_bytes_append(&c->pipeline->steps, step, sizeof *step);
    if (rc < 0) {
        step_free(step);
    }
    return rc;
}

static int wrong(const component *c, const char *key, const char *expected)
{
    return fm_fail(FM_ERR_FORMAT, "%s: \"%s\" is missing or of the wrong kind, %s was expected", c->name, key, expected);
}

static int set_text(fm_bytes *out, const json_t *string)
{
    return fm_bytes_append(out, json_string_value(string), json_string_length(string));
}

/* {"String": ...} or {"Regex": ...}; a bare string too. */
static int get_pattern(fm_pattern *out, const component *c)
{
    const json_t *const pattern = json_object_get(c->object, "pattern");
    const json_t *const regex = json_object_get(pattern, "Regex");
    const json_t *const literal = json_is_string(pattern) ? pattern : json_object_get(pattern, "String");
    if (json_is_string(regex)) {
        return fm_regex_new(&out->regex, json_string_value(regex), json_string_length(regex), c->name);
    }
    return json_is_string(literal) ? set_text(&out->literal, literal)
                                   : wrong(c, "pattern", "{\"Regex\": ...} or {\"String\": ...}");
}

static int get_content(fm_bytes *out, const component *c, const char *key)
{
    const json_t *const content = json_object_get(c->object, key);
    return json_is_string(content) ? set_text(out, content) : wrong(c, key, "a string");
}

static int get_choice(int *out, const component *c, const char *key, const char *const *choices, int n_choices)
{
    const char *value = choices[*out];
    FM_TRY(fm_json_get_string(&value, c->object, key, c->name));
    for (int i = 0; i < n_choices; i++) {
        if (strcmp(value, choices[i]) == 0) {
            *out = i;
            return FM_OK;
        }
    }
    return fm_fail(FM_ERR_UNSUPPORTED, "%s: \"%s\" is \"%.60s\", which finemesh does not know", c->name, key, value);
}

static int compile_component(const component *c);

static int compile_list(const component *c, const char *key)
{
    const json_t *const list = json_object_get(c->object, key);
    if (!json_is_array(list)) {
        return wrong(c, key, "a list");
    }
    if (c->nesting >= MAX_NESTING) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: more than %d Sequences within each other", c->name, MAX_NESTING);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        component part = *c;
        part.object = json_array_get(list, i);
        part.nesting++;
        FM_TRY(compile_component(&part));
    }
    return FM_OK;
}

static int compile_normalizers(const component *c)
{
    return compile_list(c, "normalizers");
}

static int compile_pre_tokenizers(const component *c)
{
    return compile_list(c, "pretokenizers");
}

static int compile_decoders(const component *c)
{
    return compile_list(c, "decoders");
}

static int add_prefix(const component *c, const char *prefix, size_t size_bytes, int scheme)
{
    fm_step step = { .run = fm_step_prefix, .behavior = scheme };
    if (size_bytes == 0) {
        return FM_OK;
    }
    FM_TRY(fm_bytes_append(&step.content, prefix, size_bytes));
    return add_step(c, &step);
}

static int compile_prepend(const component *c)
{
    const char *prefix = "";
    FM_TRY(fm_json_get_string(&prefix, c->object, "prepend", c->name));
    return add_prefix(c, prefix, strlen(prefix), FM_PREFIX_UNCONDITIONAL);
}

static int compile_replace(const component *c)
{
    fm_step step = { .run = fm_step_replace };
    int rc = get_pattern(&step.pattern, c);
    if (rc == FM_OK) {
        rc = get_content(&step.content, c, "content");
    }
    if (rc < 0) {
        step_free(&step);
        return rc;
    }
    return add_step(c, &step);
}

static int compile_nfc(const component *c)
{
    return add_step(c, &(fm_step){ .run = fm_step_nfc });
}

static int compile_nfd(const component *c)
{
    return add_step(c, &(fm_step){ .run = fm_step_nfd });
}

static int compile_strip_blanks(const component *c)
{
    bool left = true, right = true;
    FM_TRY(fm_json_get_bool(&left, c->object, "strip_left", c->name));
    FM_TRY(fm_json_get_bool(&right, c->object, "strip_right", c->name));
    return add_step(c, &(fm_step){ .run = fm_step_strip_blanks, .left = left, .right = right });
}

static int compile_split(const component *c)
{
    static const char *const behaviors[] = { "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    fm_step step = { .run = fm_step_split };
    FM_TRY(get_choice(&step.behavior, c, "behavior", behaviors, sizeof behaviors / sizeof *behaviors));
    FM_TRY(fm_json_get_bool(&step.invert, c->object, "invert", c->name));
    const int rc = get_pattern(&step.pattern, c);
    if (rc < 0) {
        step_free(&step);
        return rc;
    }
    return add_step(c, &step);
}

static int add_class_split(const component *c, const char *class_name, int behavior)
{
    fm_step step = { .run = fm_step_split, .behavior = behavior };
    step.pattern.cells = fm_unicode_class_cells(class_name, strlen(class_name));
    return add_step(c, &step);
}

static int compile_digits(const component *c)
{
    bool individual = false;
    FM_TRY(fm_json_get_bool(&individual, c->object, "individual_digits", c->name));
    return add_class_split(c, "numeric", individual ? FM_SPLIT_ISOLATED : FM_SPLIT_CONTIGUOUS);
}

static int compile_whitespace_split(const component *c)
{
    return add_class_split(c, "space", FM_SPLIT_REMOVED);
}

/* The words of GPT-2: its use_regex. */
static int add_word_split(const component *c)
{
    static const char words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    fm_step step = { .run = fm_step_split, .behavior = FM_SPLIT_ISOLATED };
    FM_TRY(fm_regex_new(&step.pattern.regex, words, sizeof words - 1, c->name));
    return add_step(c, &step);
}

static int compile_byte_level(const component *c)
{
    bool prefix = true, use_regex = true;
    FM_TRY(fm_json_get_bool(&prefix, c->object, "add_prefix_space", c->name));
    FM_TRY(fm_json_get_bool(&use_regex, c->object, "use_regex", c->name));
    if (prefix) {
        FM_TRY(add_prefix(c, " ", 1, FM_PREFIX_ALWAYS));
    }
    if (use_regex) {
        FM_TRY(add_word_split(c));
    }
    return add_step(c, &(fm_step){ .run = fm_step_bytes });
}

static int add_replace(const component *c, fm_step_run *run, const char *from, const char *to)
{
    fm_step step = { .run = run };
    int rc = fm_bytes_append(&step.pattern.literal, from, strlen(from));
    if (rc == FM_OK) {
        rc = fm_bytes_append(&step.content, to, strlen(to));
    }
    if (rc < 0) {
        step_free(&step);
        return rc;
    }
    return add_step(c, &step);
}

/* prepend_scheme, or the older add_prefix_space. */
enum metaspace_scheme { SCHEME_ALWAYS, SCHEME_FIRST, SCHEME_NEVER };

static int get_metaspace(const char **mark, int *scheme, const component *c)
{
    static const char *const schemes[] = { "always", "first", "never" };
    bool prefix = true;
    FM_TRY(fm_json_get_string(mark, c->object, "replacement", c->name));
    FM_TRY(fm_json_get_bool(&prefix, c->object, "add_prefix_space", c->name));
    *scheme = prefix ? SCHEME_ALWAYS : SCHEME_NEVER;
    return get_choice(scheme, c, "prepend_scheme", schemes, sizeof schemes / sizeof *schemes);
}

static int compile_metaspace(const component *c)
{
    const char *mark = "\xe2\x96\x81";
    int scheme;
    bool splits = true;
    FM_TRY(get_metaspace(&mark, &scheme, c));
    FM_TRY(fm_json_get_bool(&splits, c->object, "split", c->name));
    FM_TRY(add_replace(c, fm_step_replace, " ", mark));
    if (scheme != SCHEME_NEVER) {
        FM_TRY(add_prefix(c, mark, strlen(mark), scheme == SCHEME_FIRST ? FM_PREFIX_FIRST : FM_PREFIX_ALWAYS));
    }
    if (!splits) {
        return FM_OK;
    }
    fm_step step = { .run = fm_step_split, .behavior = FM_SPLIT_MERGED_WITH_NEXT };
    FM_TRY(fm_bytes_append(&step.pattern.literal, mark, strlen(mark)));
    return add_step(c, &step);
}

static int compile_metaspace_decoder(const component *c)
{
    const char *mark = "\xe2\x96\x81";
    int scheme;
    FM_TRY(get_metaspace(&mark, &scheme, c));
    if (scheme != SCHEME_NEVER) {
        FM_TRY(add_replace(c, fm_step_drop_in_first, mark, ""));
    }
    return add_replace(c, fm_step_replace, mark, " ");
}

static int compile_from_bytes(const component *c)
{
    return add_step(c, &(fm_step){ .run = fm_step_from_bytes });
}

static int compile_byte_fallback(const component *c)
{
    return add_step(c, &(fm_step){ .run = fm_step_byte_fallback });
}

static int compile_fuse(const component *c)
{
    return add_step(c, &(fm_step){ .run = fm_step_fuse });
}

static int compile_strip_content(const component *c)
{
    int64_t left = 0, right = 0;
    FM_TRY(fm_json_get_int(&left, c->object, "start", 0, MAX_STRIP, c->name));
    FM_TRY(fm_json_get_int(&right, c->object, "stop", 0, MAX_STRIP, c->name));
    fm_step step = { .run = fm_step_strip_content, .left = (int)left, .right = (int)right };
    FM_TRY(get_content(&step.content, c, "content"));
    return step.content.size_bytes == 0 ? wrong(c, "content", "a character") : add_step(c, &step);
}

/* What each list of tokenizer.json may hold. */
static const struct {
    enum fm_pipeline_kind kind;
    const char *type;
    compile *compile;
} known[] = {
    { FM_PIPELINE_NORMALIZER, "Sequence", compile_normalizers },
    { FM_PIPELINE_NORMALIZER, "Prepend", compile_prepend },
    { FM_PIPELINE_NORMALIZER, "Replace", compile_replace },
    { FM_PIPELINE_NORMALIZER, "NFC", compile_nfc },
    { FM_PIPELINE_NORMALIZER, "NFD", compile_nfd },
    { FM_PIPELINE_NORMALIZER, "Strip", compile_strip_blanks },
    { FM_PIPELINE_PRE_TOKENIZER, "Sequence", compile_pre_tokenizers },
    { FM_PIPELINE_PRE_TOKENIZER, "Split", compile_split },
    { FM_PIPELINE_PRE_TOKENIZER, "ByteLevel", compile_byte_level },
    { FM_PIPELINE_PRE_TOKENIZER, "Digits", compile_digits },
    { FM_PIPELINE_PRE_TOKENIZER, "Metaspace", compile_metaspace },
    { FM_PIPELINE_PRE_TOKENIZER, "WhitespaceSplit", compile_whitespace_split },
    { FM_PIPELINE_DECODER, "Sequence", compile_decoders },
    { FM_PIPELINE_DECODER, "ByteLevel", compile_from_bytes },
    { FM_PIPELINE_DECODER, "Replace", compile_replace },
    { FM_PIPELINE_DECODER, "ByteFallback", compile_byte_fallback },
    { FM_PIPELINE_DECODER, "Fuse", compile_fuse },
    { FM_PIPELINE_DECODER, "Strip", compile_strip_content },
    { FM_PIPELINE_DECODER, "Metaspace", compile_metaspace_decoder },
};

enum { N_KNOWN = sizeof known / sizeof *known };

static int compile_component(const component *c)
{
    const char *type = NULL;
    if (!json_is_object(c->object)) {
        return fm_fail(FM_ERR_FORMAT, "%s: an object with a \"type\" was expected", c->name);
    }
    FM_TRY(fm_json_get_string(&type, c->object, "type", c->name));
    if (type == NULL) {
        return wrong(c, "type", "a string");
    }
    char supported[256] = "";
    for (int i = 0; i < N_KNOWN; i++) {
        if (known[i].kind != c->kind) {
            continue;
        }
        if (strcmp(known[i].type, type) == 0) {
            return known[i].compile(c);
        }
        const size_t length = strlen(supported);
        snprintf(supported + length, sizeof supported - length, "%s%s", length > 0 ? ", " : "", known[i].type);
    }
    return fm_fail(FM_ERR_UNSUPPORTED, "%s: the component \"%.60s\" is not supported; these are: %s", c->name, type, supported);
}

int fm_pipeline_new(fm_pipeline **out, const json_t *component_json, enum fm_pipeline_kind kind, const char *name)
{
    static const char *const keys[FM_PIPELINE_KINDS] = { "normalizer", "pre_tokenizer", "decoder" };
    char full_name[NAME_BYTES];
    snprintf(full_name, sizeof full_name, "%s: %s", name, keys[kind]);
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    const component c = { .pipeline = *out, .object = component_json, .name = full_name, .kind = kind };
    const int rc = component_json == NULL || json_is_null(component_json) ? FM_OK : compile_component(&c);
    if (rc < 0) {
        fm_pipeline_destroy(*out);
        *out = NULL;
    }
    return rc;
}

static fm_step *step_list(const fm_pipeline *pipeline, size_t *n)
{
    *n = pipeline->steps.size_bytes / sizeof(fm_step);
    return (fm_step *)(void *)pipeline->steps.bytes;
}

void fm_pipeline_destroy(fm_pipeline *pipeline)
{
    if (pipeline == NULL) {
        return;
    }
    size_t n;
    fm_step *const steps = step_list(pipeline, &n);
    for (size_t i = 0; i < n; i++) {
        step_free(&steps[i]);
    }
    fm_bytes_free(&pipeline->steps);
    fm_free(pipeline);
}

int fm_pipeline_run(const fm_pipeline *pipeline, fm_words *words)
{
    size_t n;
    const fm_step *const steps = step_list(pipeline, &n);
    for (size_t i = 0; i < n; i++) {
        FM_TRY(steps[i].run(&steps[i], words));
    }
    return FM_OK;
}

bool fm_pipeline_is_empty(const fm_pipeline *pipeline)
{
    return pipeline->steps.size_bytes == 0;
}
