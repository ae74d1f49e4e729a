#include "data/tokenizer_class.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 128 };

static const char ENDOFTEXT[] = "<|endoftext|>";

/* Sources: transformers 5, models/{llama,qwen2,gpt2}/tokenization_*.py. */
static const fm_tokenizer_class classes[] = {
    { .name = "TokenizersBackend", .is_plain = true },
    { .name = "PreTrainedTokenizer", .is_plain = true },
    { .name = "PythonBackend", .is_plain = true },
    { .name = "LlamaTokenizer", .bos = "<s>", .eos = "</s>", .unk = "<unk>" },
    { .name = "Qwen2Tokenizer", .eos = ENDOFTEXT, .unk = ENDOFTEXT, .pad = ENDOFTEXT },
    { .name = "GPT2Tokenizer", .bos = ENDOFTEXT, .eos = ENDOFTEXT, .unk = ENDOFTEXT },
};

enum { PLAIN, N_CLASSES = sizeof classes / sizeof *classes };

/* The class that transformers has registered for a model type; `overrides` where it distrusts tokenizer_config.json.
 * Source: transformers 5, models/auto/tokenization_auto.py, for the families that finemesh trains. */
static const struct {
    const char *model_type, *class_name;
    bool overrides;
} registered[] = {
    { "gpt2", "GPT2Tokenizer", false },
    { "mistral", "TokenizersBackend", false },
    { "qwen2", "Qwen2Tokenizer", true },
    { "qwen2_moe", "Qwen2Tokenizer", false },
    { "qwen3", "Qwen2Tokenizer", false },
    { "qwen3_moe", "Qwen2Tokenizer", false },
};

enum { N_REGISTERED = sizeof registered / sizeof *registered };

static int find_class(const fm_tokenizer_class **out, const char *class_name, const char *name)
{
    char supported[512] = "";
    for (int i = 0; i < N_CLASSES; i++) {
        if (strcmp(classes[i].name, class_name) == 0) {
            *out = &classes[i];
            return FM_OK;
        }
        const size_t length = strlen(supported);
        snprintf(supported + length, sizeof supported - length, "%s%s", length > 0 ? ", " : "", classes[i].name);
    }
    return fm_fail(FM_ERR_UNSUPPORTED, "%s: tokenizer_class \"%s\" is not supported; these are: %s. If tokenizer.json alone "
                   "describes the tokenizer, write \"tokenizer_class\": \"TokenizersBackend\" into tokenizer_config.json", name,
                   class_name, supported);
}

/* The class that the directory declares, without "Fast"; empty where it declares none. */
static int declared_class(char out[NAME_BYTES], const json_t *config, const json_t *model_config, const char *name)
{
    const char *declared = "";
    FM_TRY(fm_json_get_string(&declared, model_config, "tokenizer_class", name));
    FM_TRY(fm_json_get_string(&declared, config, "tokenizer_class", name));
    snprintf(out, NAME_BYTES, "%s", declared);
    const size_t length = strlen(out), suffix = strlen("Fast");
    if (length > suffix && strcmp(out + length - suffix, "Fast") == 0) {
        out[length - suffix] = '\0';
    }
    return FM_OK;
}

int fm_tokenizer_class_choose(const fm_tokenizer_class **out, const json_t *config, const json_t *model_config, bool byte_level,
                              const char *name)
{
    char declared[NAME_BYTES];
    const char *model_type = "";
    FM_TRY(declared_class(declared, config, model_config, name));
    FM_TRY(fm_json_get_string(&model_type, model_config, "model_type", name));
    int known = -1;
    for (int i = 0; i < N_REGISTERED; i++) {
        known = strcmp(registered[i].model_type, model_type) == 0 ? i : known;
    }
    const bool overrides = known >= 0 && registered[known].overrides;
    const char *const expected = known >= 0 ? registered[known].class_name : classes[PLAIN].name;
    *out = &classes[PLAIN];
    if (strcmp(declared, "LlamaTokenizer") == 0 && byte_level && !overrides) {
        return FM_OK;                   /* Llama 3 and others: the file is byte-level, the class is not */
    }
    if (declared[0] == '\0') {
        return find_class(out, expected, name);
    }
    if (known < 0 || strcmp(expected, declared) == 0) {
        return find_class(out, declared, name);
    }
    if (strcmp(expected, classes[PLAIN].name) == 0) {
        return FM_OK;
    }
    return find_class(out, overrides ? expected : declared, name);
}

static int set_component(json_t *file, const char *key, json_t *value)
{
    const bool ok = value != NULL && json_object_set_new(file, key, value) == 0;
    return ok ? FM_OK : fm_fail(FM_ERR_MEMORY, "out of memory for \"%s\"", key);
}

static json_t *byte_level(bool prefix, bool use_regex)
{
    return json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix, "use_regex", use_regex);
}

static json_t *bpe_options(bool fuses, bool falls_back)
{
    return json_pack("{s:s, s:b, s:b, s:n, s:n}", "type", "BPE", "fuse_unk", fuses, "byte_fallback", falls_back, "vocab",
                     "merges");
}

/* SentencePiece-like: marks for spaces, one at the start of the text, or (legacy) of every part of it. */
static int apply_llama(json_t *file, const json_t *config, const char *name)
{
    static const char mark[] = "\xe2\x96\x81";
    bool legacy = false, prefix = true;
    FM_TRY(fm_json_get_bool(&legacy, config, "legacy", name));
    FM_TRY(fm_json_get_bool(&prefix, config, "add_prefix_space", name));
    FM_TRY(set_component(file, "normalizer", json_null()));
    FM_TRY(set_component(file, "pre_tokenizer", json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", mark,
                                                          "prepend_scheme", !prefix ? "never" : legacy ? "always" : "first",
                                                          "split", 0)));
    FM_TRY(set_component(file, "decoder", json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}, {s:s, s:s, s:i, s:i}]}",
                                                    "type", "Sequence", "decoders", "type", "Replace", "pattern", "String", mark,
                                                    "content", " ", "type", "ByteFallback", "type", "Fuse", "type", "Strip",
                                                    "content", " ", "start", prefix ? 1 : 0, "stop", 0)));
    return set_component(file, "model", bpe_options(true, true));
}

static int apply_qwen2(json_t *file, const json_t *config, const char *name)
{
    static const char words[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    bool prefix = false;
    FM_TRY(fm_json_get_bool(&prefix, config, "add_prefix_space", name));
    FM_TRY(set_component(file, "normalizer", json_pack("{s:s}", "type", "NFC")));
    FM_TRY(set_component(file, "pre_tokenizer", json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence",
                                                          "pretokenizers", "type", "Split", "pattern", "Regex", words, "behavior",
                                                          "Isolated", "invert", 0, byte_level(prefix, false))));
    FM_TRY(set_component(file, "decoder", byte_level(true, true)));
    return set_component(file, "model", bpe_options(false, false));
}

static int apply_gpt2(json_t *file, const json_t *config, const char *name)
{
    bool prefix = false;
    FM_TRY(fm_json_get_bool(&prefix, config, "add_prefix_space", name));
    FM_TRY(set_component(file, "normalizer", json_null()));
    FM_TRY(set_component(file, "pre_tokenizer", byte_level(prefix, true)));
    FM_TRY(set_component(file, "decoder", byte_level(true, true)));
    return set_component(file, "model", bpe_options(false, false));
}

int fm_tokenizer_class_apply(json_t *file, const fm_tokenizer_class *chosen, const json_t *config, const char *name)
{
    static const struct {
        const char *class_name;
        int (*apply)(json_t *file, const json_t *config, const char *name);
    } builders[] = { { "LlamaTokenizer", apply_llama }, { "Qwen2Tokenizer", apply_qwen2 }, { "GPT2Tokenizer", apply_gpt2 } };
    for (size_t i = 0; i < sizeof builders / sizeof *builders; i++) {
        if (strcmp(builders[i].class_name, chosen->name) == 0) {
            return builders[i].apply(file, config, name);
        }
    }
    return FM_OK;
}
