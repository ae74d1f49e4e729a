#include "finemesh/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "data/bpe.h"
#include "data/tokenizer_added.h"
#include "data/tokenizer_class.h"
#include "data/tokenizer_file.h"
#include "data/tokenizer_pipeline.h"
#include "data/tokenizer_template.h"
#include "data/unicode.h"

/* Larger files cannot be a tokenizer. */
enum { MAX_FILE_BYTES = 1 << 30 };

struct fm_tokenizer {
    fm_bpe *bpe;
    fm_pipeline *normalizer, *pre_tokenizer, *decoder;
    fm_added *added;
    fm_template template;
    bool splits_special;
    int32_t bos_id, eos_id;
};

/* The parsed files while a tokenizer is built of them. `class` says what tokenizer.json's components give way to. */
typedef struct {
    fm_tokenizer *tokenizer;
    json_t *file, *config, *model_config;
    const fm_tokenizer_class *class;
    char json_name[FM_PATH_BYTES], config_name[FM_PATH_BYTES], model_config_name[FM_PATH_BYTES];
} builder;

static const char *const file_names[FM_TOKENIZER_FILES] = { "tokenizer.json", "tokenizer_config.json", "config.json" };

int fm_tokenizer_texts_read(fm_tokenizer_texts *out, const char *model_dir)
{
    *out = (fm_tokenizer_texts){ 0 };
    for (int i = 0; i < FM_TOKENIZER_FILES; i++) {
        char path[FM_PATH_BYTES];
        int rc = fm_path_join(path, model_dir, file_names[i]);
        if (rc == FM_OK && (i == FM_TOKENIZER_JSON || fm_path_exists(path))) {
            rc = fm_file_read(&out->text[i], &out->size_bytes[i], path, MAX_FILE_BYTES);
        }
        if (rc < 0) {
            fm_tokenizer_texts_free(out);
            return rc;
        }
    }
    return FM_OK;
}

void fm_tokenizer_texts_free(fm_tokenizer_texts *texts)
{
    for (int i = 0; i < FM_TOKENIZER_FILES; i++) {
        fm_free(texts->text[i]);
        texts->text[i] = NULL;
    }
}

/* The model's switches; its vocabulary and merges were read already. */
static int finish_model(const builder *b)
{
    const json_t *const model = json_object_get(b->file, "model");
    const char *const name = b->json_name;
    fm_bpe_options options = { 0 };
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;
    FM_TRY(fm_json_get_string(&type, model, "type", name));
    if (strcmp(type, "BPE") != 0) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: model: the type \"%.60s\" is not supported; this is: BPE", name, type);
    }
    FM_TRY(fm_json_get_string(&prefix, model, "continuing_subword_prefix", name));
    FM_TRY(fm_json_get_string(&suffix, model, "end_of_word_suffix", name));
    FM_TRY(fm_json_get_double(&dropout, model, "dropout", name));
    if (prefix[0] != '\0' || suffix[0] != '\0' || dropout != 0) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s: model: continuing_subword_prefix, end_of_word_suffix and dropout are not "
                       "supported; they must be null, empty or 0", name);
    }
    if (json_object_get(model, "vocab") == NULL || json_object_get(model, "merges") == NULL) {
        return fm_fail(FM_ERR_FORMAT, "%s: model has no \"vocab\" or no \"merges\"", name);
    }
    FM_TRY(fm_json_get_string(&options.unk_token, model, "unk_token", name));
    FM_TRY(fm_json_get_bool(&options.fuse_unk, model, "fuse_unk", name));
    FM_TRY(fm_json_get_bool(&options.byte_fallback, model, "byte_fallback", name));
    FM_TRY(fm_json_get_bool(&options.ignore_merges, model, "ignore_merges", name));
    return fm_bpe_finish(b->tokenizer->bpe, &options);
}

static int make_pipelines(const builder *b)
{
    fm_tokenizer *const t = b->tokenizer;
    const char *const name = b->json_name;
    FM_TRY(fm_pipeline_new(&t->normalizer, json_object_get(b->file, "normalizer"), FM_PIPELINE_NORMALIZER, name));
    FM_TRY(fm_pipeline_new(&t->pre_tokenizer, json_object_get(b->file, "pre_tokenizer"), FM_PIPELINE_PRE_TOKENIZER, name));
    FM_TRY(fm_pipeline_new(&t->decoder, json_object_get(b->file, "decoder"), FM_PIPELINE_DECODER, name));
    return fm_template_read(&t->template, json_object_get(b->file, "post_processor"), name);
}

static int add_object(fm_added *added, const json_t *object, bool special, const char *name)
{
    const json_t *text;
    fm_added_flags flags;
    FM_TRY(fm_added_read(&text, &flags, object, name));
    flags.special = flags.special || special;
    return fm_added_add(added, json_string_value(text), json_string_length(text), flags);
}

static int add_file_tokens(const builder *b)
{
    const json_t *const tokens = json_object_get(b->file, "added_tokens");
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        FM_TRY(add_object(b->tokenizer->added, json_array_get(tokens, i), false, b->json_name));
    }
    return FM_OK;
}

/* The text of a special token: a string or {"content": ...}; NULL where it is neither. */
static const json_t *special_text(const json_t *value)
{
    const json_t *const text = json_is_object(value) ? json_object_get(value, "content") : value;
    return json_is_string(text) ? text : NULL;
}

/* A special token by its name in tokenizer_config.json: a text that is no added token yet becomes one. */
static int add_special(const builder *b, const json_t *value)
{
    const json_t *const text = special_text(value);
    fm_added *const added = b->tokenizer->added;
    if (text == NULL || fm_added_has(added, json_string_value(text), json_string_length(text), NULL)) {
        return FM_OK;
    }
    if (json_is_object(value)) {
        return add_object(added, value, true, b->config_name);
    }
    return fm_added_add(added, json_string_value(text), json_string_length(text), (fm_added_flags){ .special = true });
}

static int add_class_token(const builder *b, const char *key, const char *text)
{
    if (text == NULL || json_object_get(b->config, key) != NULL || fm_added_has(b->tokenizer->added, text, strlen(text), NULL)) {
        return FM_OK;
    }
    return fm_added_add(b->tokenizer->added, text, strlen(text), (fm_added_flags){ .special = true });
}

/* In the order in which transformers goes through them: its own seven, other *_token keys, then lists of further ones. */
static int add_special_tokens(const builder *b)
{
    static const char *const keys[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
                                        "mask_token" };
    const struct {
        const char *key, *text;
    } defaults[] = { { "bos_token", b->class->bos }, { "eos_token", b->class->eos }, { "unk_token", b->class->unk },
                     { "pad_token", b->class->pad } };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        FM_TRY(add_special(b, json_object_get(b->config, keys[i])));
        for (size_t j = 0; j < sizeof defaults / sizeof *defaults; j++) {
            if (strcmp(keys[i], defaults[j].key) == 0) {
                FM_TRY(add_class_token(b, keys[i], defaults[j].text));
            }
        }
    }
    const char *key;
    json_t *value;
    json_object_foreach(b->config, key, value) {
        const size_t length = strlen(key), suffix = strlen("_token");
        if (length > suffix && strcmp(key + length - suffix, "_token") == 0 && json_is_string(value)) {
            FM_TRY(add_special(b, value));
        }
    }
    const json_t *more = json_object_get(b->config, "extra_special_tokens");
    if (more == NULL || (json_array_size(more) == 0 && json_object_size(more) == 0)) {
        more = json_object_get(b->config, "additional_special_tokens");
    }
    for (size_t i = 0; i < json_array_size(more); i++) {
        FM_TRY(add_special(b, json_array_get(more, i)));
    }
    if (json_is_object(more)) {
        json_object_foreach((json_t *)more, key, value) {
            FM_TRY(add_special(b, value));
        }
    }
    return FM_OK;
}

/* tokenizer_config.json's added_tokens_decoder, by ascending id. */
static int add_config_tokens(const builder *b)
{
    const json_t *const tokens = json_object_get(b->config, "added_tokens_decoder");
    int64_t last = -1;
    for (size_t i = 0; i < json_object_size(tokens); i++) {
        int64_t lowest = INT64_MAX;
        const json_t *chosen = NULL;
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)tokens, key, value) {
            char *end;
            const int64_t id = strtoll(key, &end, 10);
            if (*end != '\0' || end == key) {
                return fm_fail(FM_ERR_FORMAT, "%s: added_tokens_decoder: \"%.60s\" is no id", b->config_name, key);
            }
            if (id > last && id < lowest) {
                lowest = id;
                chosen = value;
            }
        }
        if (chosen == NULL) {
            break;
        }
        last = lowest;
        FM_TRY(add_object(b->tokenizer->added, chosen, false, b->config_name));
    }
    return FM_OK;
}

static int add_tokens(const builder *b)
{
    fm_tokenizer *const t = b->tokenizer;
    FM_TRY(fm_added_new(&t->added, t->bpe));
    if (b->class->is_plain || json_object_get(b->config, "added_tokens_decoder") == NULL) {
        FM_TRY(add_file_tokens(b));
    }
    FM_TRY(add_config_tokens(b));
    FM_TRY(add_special_tokens(b));
    return fm_added_index(t->added, t->normalizer);
}

static int32_t named_id(const builder *b, const char *key)
{
    const json_t *const text = special_text(json_object_get(b->config, key));
    return text == NULL ? -1 : fm_added_id(b->tokenizer->added, json_string_value(text), json_string_length(text));
}

static int parse_optional(json_t **out, const fm_tokenizer_texts *texts, enum fm_tokenizer_file file, const char *name)
{
    if (texts->text[file] == NULL) {
        return FM_OK;
    }
    FM_TRY(fm_json_parse(out, texts->text[file], texts->size_bytes[file], name));
    return json_is_object(*out) ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: an object was expected", name);
}

static int build(builder *b, const fm_tokenizer_texts *texts)
{
    static const char byte_level[] = "\"ByteLevel\"";
    fm_tokenizer *const t = b->tokenizer;
    const char *const text = texts->text[FM_TOKENIZER_JSON];
    const size_t size_bytes = texts->size_bytes[FM_TOKENIZER_JSON];
    if (text == NULL) {
        return fm_fail(FM_ERR_FORMAT, "%s: absent; finemesh reads no other form of a tokenizer", b->json_name);
    }
    FM_TRY(parse_optional(&b->config, texts, FM_TOKENIZER_CONFIG, b->config_name));
    FM_TRY(parse_optional(&b->model_config, texts, FM_TOKENIZER_MODEL_CONFIG, b->model_config_name));
    FM_TRY(fm_bpe_new(&t->bpe, b->json_name));
    FM_TRY(fm_tokenizer_file_parse(&b->file, t->bpe, text, size_bytes, b->json_name));
    const bool has_byte_level = memmem(text, size_bytes, byte_level, sizeof byte_level - 1) != NULL;
    FM_TRY(fm_tokenizer_class_choose(&b->class, b->config, b->model_config, has_byte_level, b->config_name));
    FM_TRY(fm_tokenizer_class_apply(b->file, b->class, b->config, b->config_name));
    FM_TRY(fm_json_get_bool(&t->splits_special, b->config, "split_special_tokens", b->config_name));
    FM_TRY(finish_model(b));
    FM_TRY(make_pipelines(b));
    FM_TRY(add_tokens(b));
    t->bos_id = named_id(b, "bos_token");
    t->eos_id = named_id(b, "eos_token");
    return FM_OK;
}

int fm_tokenizer_new(fm_tokenizer **out, const fm_tokenizer_texts *texts, const char *name)
{
    builder b = { 0 };
    *out = NULL;
    FM_TRY(fm_path_join(b.json_name, name, file_names[FM_TOKENIZER_JSON]));
    FM_TRY(fm_path_join(b.config_name, name, file_names[FM_TOKENIZER_CONFIG]));
    FM_TRY(fm_path_join(b.model_config_name, name, file_names[FM_TOKENIZER_MODEL_CONFIG]));
    b.tokenizer = fm_alloc(sizeof *b.tokenizer, FM_MEMORY_HOST);
    if (b.tokenizer == NULL) {
        return FM_ERR_MEMORY;
    }
    const int rc = build(&b, texts);
    json_decref(b.file);
    json_decref(b.config);
    json_decref(b.model_config);
    if (rc < 0) {
        fm_tokenizer_destroy(b.tokenizer);
        return rc;
    }
    *out = b.tokenizer;
    return FM_OK;
}

int fm_tokenizer_open(fm_tokenizer **out, const char *model_dir)
{
    fm_tokenizer_texts texts;
    *out = NULL;
    FM_TRY(fm_tokenizer_texts_read(&texts, model_dir));
    const int rc = fm_tokenizer_new(out, &texts, model_dir);
    fm_tokenizer_texts_free(&texts);
    return rc;
}

void fm_tokenizer_destroy(fm_tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    fm_added_destroy(tokenizer->added);
    fm_pipeline_destroy(tokenizer->normalizer);
    fm_pipeline_destroy(tokenizer->pre_tokenizer);
    fm_pipeline_destroy(tokenizer->decoder);
    fm_template_free(&tokenizer->template);
    fm_bpe_destroy(tokenizer->bpe);
    fm_free(tokenizer);
}

/* What encoding one text needs; each call has its own, so that threads share nothing. */
typedef struct {
    const fm_tokenizer *tokenizer;
    fm_bytes ids;
    fm_words words;
    fm_bytes outer, inner;           /* pieces before and after normalization */
    fm_bytes normalized;
    fm_bpe_scratch scratch;
} encoding;

static void encoding_free(encoding *e)
{
    fm_bytes_free(&e->ids);
    fm_words_free(&e->words);
    fm_bytes_free(&e->outer);
    fm_bytes_free(&e->inner);
    fm_bytes_free(&e->normalized);
    fm_bpe_scratch_free(&e->scratch);
}

/* A stretch without added tokens: words, and the model on each. */
static int encode_stretch(encoding *e, const char *text, size_t size_bytes, bool at_start)
{
    const fm_tokenizer *const t = e->tokenizer;
    FM_TRY(fm_words_start(&e->words, text, size_bytes, at_start));
    FM_TRY(fm_pipeline_run(t->pre_tokenizer, &e->words));
    const fm_word *const list = fm_words_list(&e->words);
    for (size_t i = 0; i < fm_words_count(&e->words); i++) {
        FM_TRY(fm_bpe_encode(&e->ids, t->bpe, e->words.text.bytes + list[i].begin, list[i].end - list[i].begin, &e->scratch));
    }
    return FM_OK;
}

/* A stretch without added tokens that are looked for before normalization. */
static int encode_raw(encoding *e, const char *text, size_t size_bytes, bool at_start)
{
    const fm_tokenizer *const t = e->tokenizer;
    if (!fm_pipeline_is_empty(t->normalizer)) {
        FM_TRY(fm_words_start(&e->words, text, size_bytes, at_start));
        FM_TRY(fm_pipeline_run(t->normalizer, &e->words));
        e->normalized.size_bytes = 0;
        FM_TRY(fm_bytes_append(&e->normalized, e->words.text.bytes, e->words.text.size_bytes));
        text = e->normalized.bytes;
        size_bytes = e->normalized.size_bytes;
    }
    FM_TRY(fm_added_find(&e->inner, t->added, true, t->splits_special, text, size_bytes));
    const fm_added_piece *const pieces = (const fm_added_piece *)(const void *)e->inner.bytes;
    for (size_t i = 0; i < e->inner.size_bytes / sizeof *pieces; i++) {
        const fm_added_piece *const p = &pieces[i];
        if (p->id >= 0) {
            FM_TRY(fm_bytes_append(&e->ids, &p->id, sizeof p->id));
        } else {
            FM_TRY(encode_stretch(e, text + p->begin, p->end - p->begin, at_start && p->begin == 0));
        }
    }
    return FM_OK;
}

static int encode_all(encoding *e, const char *text, size_t size_bytes, bool add_special)
{
    const fm_tokenizer *const t = e->tokenizer;
    if (add_special) {
        FM_TRY(fm_bytes_append(&e->ids, t->template.before.bytes, t->template.before.size_bytes));
    }
    FM_TRY(fm_added_find(&e->outer, t->added, false, t->splits_special, text, size_bytes));
    const fm_added_piece *const pieces = (const fm_added_piece *)(const void *)e->outer.bytes;
    for (size_t i = 0; i < e->outer.size_bytes / sizeof *pieces; i++) {
        const fm_added_piece *const p = &pieces[i];
        if (p->id >= 0) {
            FM_TRY(fm_bytes_append(&e->ids, &p->id, sizeof p->id));
        } else {
            FM_TRY(encode_raw(e, text + p->begin, p->end - p->begin, p->begin == 0));
        }
    }
    return add_special ? fm_bytes_append(&e->ids, t->template.after.bytes, t->template.after.size_bytes) : FM_OK;
}

int fm_tokenizer_encode(int32_t **ids, int64_t *n_ids, const fm_tokenizer *tokenizer, const char *text, size_t size_bytes,
                        bool add_special)
{
    *ids = NULL;
    *n_ids = 0;
    const size_t invalid = fm_unicode_check(text, size_bytes);
    if (invalid < size_bytes) {
        const unsigned byte = (unsigned char)text[invalid];
        return fm_fail(FM_ERR_FORMAT, "the text is not UTF-8 at byte %zu (0x%02x)", invalid, byte);
    }
    encoding e = { .tokenizer = tokenizer };
    int rc = fm_bytes_reserve(&e.ids, 1);
    if (rc == FM_OK) {
        rc = encode_all(&e, text, size_bytes, add_special);
    }
    if (rc == FM_OK) {
        *n_ids = (int64_t)(e.ids.size_bytes / sizeof **ids);
        *ids = (int32_t *)(void *)e.ids.bytes;
        e.ids = (fm_bytes){ 0 };
    }
    encoding_free(&e);
    return rc;
}

static int add_token_words(fm_words *words, const fm_tokenizer *t, const int32_t *ids, int64_t n_ids, bool skip_special)
{
    FM_TRY(fm_words_start(words, NULL, 0, true));
    for (int64_t i = 0; i < n_ids; i++) {
        size_t size_bytes;
        bool special;
        if (ids[i] < 0) {
            return fm_fail(FM_ERR_FORMAT, "id %d at place %lld is negative", (int)ids[i], (long long)i);
        }
        const char *const token = fm_added_text(t->added, ids[i], &size_bytes, &special);
        if (token != NULL && !(special && skip_special)) {
            FM_TRY(fm_words_add(words, token, size_bytes));
        }
    }
    return FM_OK;
}

/* The words one behind the other, with a space between them where there is no decoder that would know better. */
static int join_words(fm_bytes *out, const fm_words *words, bool spaces)
{
    for (size_t i = 0; i < fm_words_count(words); i++) {
        const fm_word *const word = &fm_words_list(words)[i];
        FM_TRY(fm_bytes_append(out, " ", spaces && i > 0));
        FM_TRY(fm_bytes_append(out, words->text.bytes + word->begin, word->end - word->begin));
    }
    FM_TRY(fm_bytes_append(out, "", 1));
    out->size_bytes--;
    return FM_OK;
}

int fm_tokenizer_decode(char **text, size_t *size_bytes, const fm_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                        bool skip_special)
{
    fm_words words = { 0 };
    fm_bytes out = { 0 };
    *text = NULL;
    *size_bytes = 0;
    int rc = add_token_words(&words, tokenizer, ids, n_ids, skip_special);
    if (rc == FM_OK) {
        rc = fm_pipeline_run(tokenizer->decoder, &words);
    }
    if (rc == FM_OK) {
        rc = join_words(&out, &words, fm_pipeline_is_empty(tokenizer->decoder));
    }
    if (rc == FM_OK) {
        *text = out.bytes;
        *size_bytes = out.size_bytes;
        out = (fm_bytes){ 0 };
    }
    fm_bytes_free(&out);
    fm_words_free(&words);
    return rc;
}

void fm_tokenizer_free(void *pointer)
{
    fm_free(pointer);
}

int32_t fm_tokenizer_eos_id(const fm_tokenizer *tokenizer)
{
    return tokenizer->eos_id;
}

int32_t fm_tokenizer_bos_id(const fm_tokenizer *tokenizer)
{
    return tokenizer->bos_id;
}

int32_t fm_tokenizer_vocab_size(const fm_tokenizer *tokenizer)
{
    const int32_t of_tokens = fm_added_id_limit(tokenizer->added), of_template = tokenizer->template.id_limit;
    return of_tokens > of_template ? of_tokens : of_template;
}

int32_t fm_tokenizer_token_id(const fm_tokenizer *tokenizer, const char *token)
{
    return fm_added_id(tokenizer->added, token, strlen(token));
}
