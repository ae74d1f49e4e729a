/* config.json of every family, both generations, against what transformers makes of it (tests/unit/data, made by tests/oracle). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "model/config.h"

static json_t *read_data(const char *file)
{
    const char *const srcdir = getenv("srcdir");
    char path[FM_PATH_BYTES];
    snprintf(path, sizeof path, "%s/tests/unit/data/%s", srcdir != NULL ? srcdir : ".", file);
    json_t *value;
    if (fm_json_read(&value, path, 1 << 24) != FM_OK) {
        fail_msg("%s", fm_error_message());
    }
    return value;
}

static double number(const json_t *object, const char *key)
{
    const json_t *const value = json_object_get(object, key);
    assert_non_null(value);
    return json_is_boolean(value) ? json_is_true(value) : json_number_value(value);
}

static void check_dimensions(const fm_config *config, const json_t *expected)
{
    const struct {
        const char *key;
        double found;
    } rows[] = {
        {"C", (double)config->C}, {"F", (double)config->F}, {"V", (double)config->V}, {"L", config->L}, {"H", config->H},
        {"K", config->K}, {"D", config->D}, {"max_positions", (double)config->max_positions}, {"norm_eps", config->norm_eps},
        {"tied", config->tied}, {"qkv_bias", config->qkv_bias}, {"o_bias", config->o_bias}, {"mlp_bias", config->mlp_bias},
        {"qk_norm", config->qk_norm}, {"pad", (double)config->pad_token}, {"bos", (double)config->bos_token},
        {"eos", (double)config->eos_token}, {"initializer_range", config->initializer_range}, {"rope_theta", config->rope.theta},
        {"rope_factor", config->rope.factor}, {"parameters", (double)fm_config_parameters(config)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].found != number(expected, rows[i].key)) {
            fail_msg("%s is %.17g, transformers has %.17g", rows[i].key, rows[i].found, number(expected, rows[i].key));
        }
    }
    assert_string_equal(fm_dtype_name(config->dtype), json_string_value(json_object_get(expected, "dtype")));
    assert_int_equal(config->rope.rotary_dim, config->D);
    const char *const types[] = {"default", "linear", "dynamic", "llama3", "yarn"};
    assert_string_equal(types[config->rope.type], json_string_value(json_object_get(expected, "rope_type")));
    if (number(expected, "original_max_positions") > 0) {
        assert_int_equal(config->rope.original_max_positions, (int64_t)number(expected, "original_max_positions"));
    }
    for (int i = 0; i < config->L; i++) {
        assert_int_equal(config->window[i], json_integer_value(json_array_get(json_object_get(expected, "windows"), (size_t)i)));
    }
}

static void check_tensors(const fm_config *config, const json_t *expected)
{
    fm_tensor_spec *tensors;
    int n;
    int64_t elements = 0;
    assert_int_equal(fm_config_tensors(&tensors, &n, config), FM_OK);
    assert_int_equal(n, json_object_size(expected));
    for (int i = 0; i < n; i++) {
        const json_t *const shape = json_object_get(expected, tensors[i].name);
        if (shape == NULL) {
            fail_msg("transformers has no %s", tensors[i].name);
        }
        assert_int_equal(tensors[i].ndim, json_array_size(shape));
        for (int d = 0; d < tensors[i].ndim; d++) {
            assert_int_equal(tensors[i].shape[d], json_integer_value(json_array_get(shape, (size_t)d)));
        }
        assert_int_equal(tensors[i].dtype, config->dtype);
        assert_true(i == 0 || tensors[i].layer >= tensors[i - 1].layer || tensors[i].layer == -1);
        assert_true((tensors[i].layer >= 0) == (tensors[i].place == FM_PLACE_LAYER));
        elements += fm_tensor_elements(&tensors[i]);
    }
    assert_int_equal(elements, fm_config_parameters(config));
    assert_int_equal(tensors[0].place, config->tied ? FM_PLACE_TIED : FM_PLACE_EMBEDDING);
    const fm_layout layout = {.mesh = {{1, 1, 1, 1, 2}}, .heads = {config->H, config->K, config->D}, .n_layers = config->L,
                              .n_tensors = n, .tensors = tensors};
    assert_int_equal(fm_layout_check(&layout), FM_OK);
    fm_free(tensors);
}

static void families_are_read_as_transformers_reads_them(void **state)
{
    json_t *const cases = read_data("configs.json");
    assert_true(json_array_size(cases) > 20);
    size_t i;
    json_t *item;
    json_array_foreach(cases, i, item) {
        fm_config config;
        const char *const name = json_string_value(json_object_get(item, "name"));
        print_message("%s\n", name);
        if (fm_config_parse(&config, json_object_get(item, "config"), name) != FM_OK) {
            fail_msg("%s", fm_error_message());
        }
        check_dimensions(&config, json_object_get(item, "expected"));
        check_tensors(&config, json_object_get(json_object_get(item, "expected"), "tensors"));
        fm_config_clear(&config);
    }
    json_decref(cases);
}

/* fp32 has 24 bits: torch's power is within one unit of the last place of ours, and few steps follow it. */
static void rope_frequencies_are_those_of_transformers(void **state)
{
    json_t *const cases = read_data("rope.json");
    assert_true(json_array_size(cases) > 40);
    size_t i, exact = 0, all = 0;
    json_t *item;
    json_array_foreach(cases, i, item) {
        fm_config config;
        double found[64], scale;
        assert_int_equal(fm_config_parse(&config, json_object_get(item, "config"), "rope.json"), FM_OK);
        config.rope.rotary_dim = (int)number(item, "rotary_dim");
        fm_rope_frequencies(found, &scale, &config, (int64_t)number(item, "T"));
        assert_true(fabs(scale - number(item, "scale")) <= 1e-15 * scale);
        const json_t *const expected = json_object_get(item, "inv_freq");
        assert_int_equal(json_array_size(expected), config.rope.rotary_dim / 2);
        for (size_t j = 0; j < json_array_size(expected); j++) {
            const double torch = json_real_value(json_array_get(expected, j));
            if (!(fabs(found[j] - torch) <= 0x1p-22 * torch)) {
                fail_msg("case %zu, frequency %zu: %.9g, torch has %.9g", i, j, found[j], torch);
            }
            exact += found[j] == torch;
            all++;
        }
        fm_config_clear(&config);
    }
    print_message("%zu of %zu frequencies are torch's to the last bit\n", exact, all);
    assert_true(exact * 10 > all * 9);
    json_decref(cases);
}

/* Parses a text of which every ' stands for a ". */
static int parse_text(fm_config *out, const char *text)
{
    char quoted[1024];
    snprintf(quoted, sizeof quoted, "%s", text);
    for (char *c = quoted; *c != '\0'; c++) {
        *c = *c == '\'' ? '"' : *c;
    }
    json_t *object;
    *out = (fm_config){ .family = NULL };
    FM_TRY(fm_json_parse(&object, quoted, strlen(quoted), "dir/config.json"));
    const int rc = fm_config_parse(out, object, "dir/config.json");
    json_decref(object);
    return rc;
}

static void hostile_configs_are_refused_in_words(void **state)
{
    const struct {
        const char *text;
        int code;
        const char *message;           /* a part of it */
    } rows[] = {
        {"[]", FM_ERR_FORMAT, "dir/config.json: a JSON object"},
        {"{}", FM_ERR_FORMAT, "\"model_type\" is absent; supported are: llama, mistral, qwen2, qwen3"},
        {"{'model_type': 7}", FM_ERR_FORMAT, "\"model_type\" is 7, a string"},
        {"{'model_type': 'gpt2'}", FM_ERR_UNSUPPORTED, "\"model_type\" is \"gpt2\"; supported are: llama, mistral, qwen2, qwen3"},
        {"{'model_type': 'llama', 'hidden_size': -4096}", FM_ERR_FORMAT, "\"hidden_size\" is -4096, an integer from 1 to 1048576"},
        {"{'model_type': 'llama', 'hidden_size': 64.0}", FM_ERR_FORMAT, "\"hidden_size\" is 64.0"},
        {"{'model_type': 'llama', 'hidden_size': '64'}", FM_ERR_FORMAT, "\"hidden_size\" is \"64\""},
        {"{'model_type': 'llama', 'vocab_size': 9000000000000000000}", FM_ERR_FORMAT, "\"vocab_size\" is 9000000000000000000"},
        {"{'model_type': 'llama', 'hidden_size': 64, 'vocab_size': 9223372036854775808}", FM_ERR_FORMAT, "\"vocab_size\" is 9.2"},
        {"{'model_type': 'llama', 'vocab_size': -9223372036854775809}", FM_ERR_FORMAT, "\"vocab_size\" is -9.2"},
        {"{'model_type': 'llama', 'vocab_size': 1e400}", FM_ERR_FORMAT, "not valid JSON at line 1"},
        {"{'model_type': 'llama', 'rms_norm_eps': NaN}", FM_ERR_FORMAT, "not valid JSON at line 1"},
        {"{'model_type': 'llama', 'vocab_size': 7, 'vocab_size': 8}", FM_ERR_FORMAT, "duplicate"},
        {"{'model_type': 'llama', 'num_hidden_layers': 0}", FM_ERR_FORMAT, "\"num_hidden_layers\" is 0"},
        {"{'model_type': 'llama', 'intermediate_size': [83, 84]}", FM_ERR_FORMAT, "\"intermediate_size\" is [83,84]"},
        {"{'model_type': 'llama', 'num_attention_heads': 9, 'num_key_value_heads': 4}", FM_ERR_FORMAT,
         "\"num_attention_heads\" is 9, a multiple of \"num_key_value_heads\" (4)"},
        {"{'model_type': 'llama', 'num_attention_heads': 4, 'num_key_value_heads': 8}", FM_ERR_FORMAT, "a multiple of"},
        {"{'model_type': 'llama', 'hidden_size': 8}", FM_ERR_FORMAT, "gives heads of 0 elements"},
        {"{'model_type': 'llama', 'head_dim': 7}", FM_ERR_FORMAT, "7 of head_dim 7 are rotated: an even number"},
        {"{'model_type': 'llama', 'head_dim': 2, 'rope_scaling': {'type': 'dynamic', 'factor': 2}}", FM_ERR_FORMAT, "from 4"},
        {"{'model_type': 'llama', 'hidden_act': 'gelu'}", FM_ERR_UNSUPPORTED, "\"hidden_act\" is \"gelu\"; supported is: silu"},
        {"{'model_type': 'llama', 'quantization_config': {'bits': 4}}", FM_ERR_UNSUPPORTED, "\"quantization_config\" is there"},
        {"{'model_type': 'llama', 'attention_bias': 1}", FM_ERR_FORMAT, "\"attention_bias\" is 1, true or false"},
        {"{'model_type': 'llama', 'tie_word_embeddings': 'yes'}", FM_ERR_FORMAT, "\"tie_word_embeddings\" is \"yes\""},
        {"{'model_type': 'llama', 'rms_norm_eps': -1e-5}", FM_ERR_FORMAT, "\"rms_norm_eps\" is -1e-05"},
        {"{'model_type': 'llama', 'dtype': 'float8_e4m3fn'}", FM_ERR_UNSUPPORTED, "dir/config.json: \"dtype\": dtype \"float8_e4m3fn\""},
        {"{'model_type': 'llama', 'torch_dtype': 'int64'}", FM_ERR_UNSUPPORTED, "\"int64\"; supported are: float32 bfloat16 float16"},
        {"{'model_type': 'llama', 'pad_token_id': 32000}", FM_ERR_FORMAT, "\"pad_token_id\" is 32000, an integer from -32000 to 31999"},
        {"{'model_type': 'llama', 'pad_token_id': -32001}", FM_ERR_FORMAT, "\"pad_token_id\" is -32001"},
        {"{'model_type': 'llama', 'eos_token_id': 'x'}", FM_ERR_FORMAT, "\"eos_token_id\" holds something that is no token id"},
        {"{'model_type': 'llama', 'rope_theta': 0}", FM_ERR_FORMAT, "\"rope_theta\""},
        {"{'model_type': 'llama', 'rope_scaling': 'linear'}", FM_ERR_FORMAT, "\"rope_scaling\" is not an object"},
        {"{'model_type': 'llama', 'rope_scaling': {'type': 'longrope'}}", FM_ERR_UNSUPPORTED,
         "\"rope_type\" is \"longrope\"; supported are: default linear dynamic llama3 yarn"},
        {"{'model_type': 'llama', 'rope_scaling': {'type': 'linear'}}", FM_ERR_FORMAT, "\"factor\" is absent"},
        {"{'model_type': 'llama', 'rope_scaling': {'type': 'linear', 'factor': -2}}", FM_ERR_FORMAT, "\"factor\" is -2, a number above 0"},
        {"{'model_type': 'llama', 'rope_scaling': {'type': 'linear', 'factor': '2'}}", FM_ERR_FORMAT, "\"factor\" is \"2\", a number"},
        {"{'model_type': 'llama', 'rope_parameters': {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 4, 'high_freq_factor': 4}}",
         FM_ERR_FORMAT, "\"high_freq_factor\" is 4, a number above 4"},
        {"{'model_type': 'llama', 'rope_parameters': {'rope_type': 'yarn', 'original_max_position_embeddings': 0}}", FM_ERR_FORMAT,
         "\"original_max_position_embeddings\" is 0"},
        {"{'model_type': 'qwen3', 'rope_parameters': {'full_attention': {'rope_type': 'default'}}}", FM_ERR_UNSUPPORTED,
         "rope parameters of their own for \"full_attention\""},
        {"{'model_type': 'llama', 'partial_rotary_factor': 1.5}", FM_ERR_FORMAT, "\"partial_rotary_factor\" is 1.5"},
        {"{'model_type': 'llama', 'partial_rotary_factor': 0.5, 'rope_scaling': {'type': 'linear', 'factor': 2}}", FM_ERR_UNSUPPORTED,
         "llama rotates whole heads"},
        {"{'model_type': 'mistral', 'sliding_window': 0}", FM_ERR_FORMAT, "\"sliding_window\" is 0"},
        {"{'model_type': 'qwen2', 'num_hidden_layers': 2, 'layer_types': ['full_attention']}", FM_ERR_FORMAT,
         "\"layer_types\" has 1 entries, a list of 2"},
        {"{'model_type': 'qwen2', 'num_hidden_layers': 1, 'layer_types': ['sliding_attention']}", FM_ERR_FORMAT, "give no window"},
        {"{'model_type': 'qwen2', 'num_hidden_layers': 1, 'layer_types': ['linear_attention']}", FM_ERR_UNSUPPORTED,
         "\"layer_types\"[0] is linear_attention"},
        {"{'model_type': 'qwen2', 'num_hidden_layers': 1, 'layer_types': [3]}", FM_ERR_UNSUPPORTED, "\"layer_types\"[0] is no text"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_config config;
        const int rc = parse_text(&config, rows[i].text);
        if (rc != rows[i].code || strstr(fm_error_message(), rows[i].message) == NULL ||
            strstr(fm_error_message(), "dir/config.json") == NULL) {
            fail_msg("%s: %d, %s", rows[i].text, rc, fm_error_message());
        }
        assert_null(config.window);
    }
}

static void what_is_legal_but_odd_is_read(void **state)
{
    fm_config config;
    assert_int_equal(parse_text(&config, "{'model_type': 'llama', 'eos_token_id': [], 'bos_token_id': -1, 'hidden_act': 'swish'}"), FM_OK);
    assert_int_equal(config.eos_token, -1);
    assert_int_equal(config.bos_token, -1);
    fm_config_clear(&config);
    assert_int_equal(parse_text(&config, "{'model_type': 'llama', 'partial_rotary_factor': 0.5, 'attention_dropout': 0.1}"), FM_OK);
    assert_int_equal(config.rope.rotary_dim, 128);
    fm_memory_fail_at(1);
    fm_tensor_spec *tensors;
    int n;
    assert_int_equal(fm_config_tensors(&tensors, &n, &config), FM_ERR_MEMORY);
    fm_config_clear(&config);
    fm_memory_fail_at(1);
    assert_int_equal(parse_text(&config, "{'model_type': 'llama'}"), FM_ERR_MEMORY);
    assert_int_equal(fm_memory_used_bytes(FM_MEMORY_HOST), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_are_read_as_transformers_reads_them),
        cmocka_unit_test(rope_frequencies_are_those_of_transformers),
        cmocka_unit_test(hostile_configs_are_refused_in_words),
        cmocka_unit_test(what_is_legal_but_odd_is_read),
    };
    fm_log_set_speaker(false);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
