#include "data/tokenizer_template.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "data/bpe.h"

enum { MAX_NESTING = 8 };

static int wrong(const char *name, const char *expected)
{
    return fm_fail(FM_ERR_FORMAT, "%s: post_processor: TemplateProcessing: %s was expected", name, expected);
}

/* The ids of one special token of a template, appended. */
static int add_special(fm_template *template, fm_bytes *out, const json_t *processor, const json_t *token, const char *name)
{
    const json_t *const key = json_object_get(token, "id");
    const json_t *const special =
        json_is_string(key) ? json_object_get(json_object_get(processor, "special_tokens"), json_string_value(key)) : NULL;
    const json_t *const ids = json_object_get(special, "ids");
    if (!json_is_array(ids)) {
        return wrong(name, "an entry of special_tokens with \"ids\" for every SpecialToken");
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *const id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= FM_BPE_MAX_ID) {
            return wrong(name, "ids that a vocabulary can have");
        }
        const int32_t value = (int32_t)json_integer_value(id);
        FM_TRY(fm_bytes_append(out, &value, sizeof value));
        template->id_limit = value >= template->id_limit ? value + 1 : template->id_limit;
    }
    return FM_OK;
}

/* Puts what is in `more` before what is in `text`. */
static int put_before(fm_bytes *text, const fm_bytes *more)
{
    FM_TRY(fm_bytes_reserve(text, more->size_bytes));
    if (more->size_bytes > 0) {
        memmove(text->bytes + more->size_bytes, text->bytes, text->size_bytes);
        memcpy(text->bytes, more->bytes, more->size_bytes);
        text->size_bytes += more->size_bytes;
    }
    return FM_OK;
}

/* `single` is a list of SpecialToken and, once, Sequence A. */
static int add_single(fm_template *out, fm_bytes *before, const json_t *processor, const char *name)
{
    const json_t *const single = json_object_get(processor, "single");
    bool behind_text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *const item = json_array_get(single, i);
        const json_t *const token = json_object_get(item, "SpecialToken");
        const json_t *const sequence = json_object_get(item, "Sequence");
        if (token != NULL) {
            FM_TRY(add_special(out, behind_text ? &out->after : before, processor, token, name));
        } else if (sequence != NULL && !behind_text) {
            behind_text = true;
        } else {
            return wrong(name, "a \"single\" of SpecialTokens and one Sequence");
        }
    }
    return behind_text ? put_before(&out->before, before) : wrong(name, "a \"single\" with one Sequence");
}

static int add_processor(fm_template *out, const json_t *processor, int nesting, const char *name)
{
    const char *type = "";
    FM_TRY(fm_json_get_string(&type, processor, "type", name));
    if (strcmp(type, "ByteLevel") == 0) {
        return FM_OK;                   /* it moves offsets, not ids */
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        fm_bytes before = { 0 };
        const int rc = add_single(out, &before, processor, name);
        fm_bytes_free(&before);
        return rc;
    }
    if (strcmp(type, "Sequence") != 0 || nesting >= MAX_NESTING) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: post_processor: the component \"%.60s\" is not supported; these are: ByteLevel, "
                       "TemplateProcessing, Sequence", name, type);
    }
    const json_t *const processors = json_object_get(processor, "processors");
    for (size_t i = 0; i < json_array_size(processors); i++) {
        FM_TRY(add_processor(out, json_array_get(processors, i), nesting + 1, name));
    }
    return FM_OK;
}

int fm_template_read(fm_template *out, const json_t *post_processor, const char *name)
{
    *out = (fm_template){ 0 };
    if (post_processor == NULL || json_is_null(post_processor)) {
        return FM_OK;
    }
    const int rc = add_processor(out, post_processor, 0, name);
    if (rc < 0) {
        fm_template_free(out);
    }
    return rc;
}

void fm_template_free(fm_template *template)
{
    fm_bytes_free(&template->before);
    fm_bytes_free(&template->after);
}
