/* tokenizer.json, a text, tokenizer_config.json and config.json, the last two optional. */
#include <string.h>

#include "base/memory.h"
#include "finemesh/tokenizer.h"
#include "fuzz.h"

void fuzz_begin(void)
{
}

static void check_text(const fm_tokenizer *tokenizer, fuzz_part text, bool add_special)
{
    int32_t *ids;
    int64_t n;
    if (fuzz_result(fm_tokenizer_encode(&ids, &n, tokenizer, text.data, text.size_bytes, add_special)) < 0) {
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        FUZZ_CHECK(ids[i] >= 0 && ids[i] < fm_tokenizer_vocab_size(tokenizer));
    }
    char *decoded;
    size_t decoded_bytes;
    if (fuzz_result(fm_tokenizer_decode(&decoded, &decoded_bytes, tokenizer, ids, n, add_special)) == FM_OK) {
        FUZZ_CHECK(decoded[decoded_bytes] == '\0');
        fm_tokenizer_free(decoded);
    }
    fm_tokenizer_free(ids);
}

void fuzz_one(const char *data, size_t size_bytes)
{
    fuzz_part rest = { data, size_bytes }, text = { "", 0 };
    fm_tokenizer_texts texts = { .text = { NULL } };
    for (int i = 0; i <= FM_TOKENIZER_FILES && (i == 0 || rest.size_bytes > 0); i++) {
        const fuzz_part part = fuzz_next(&rest);
        if (i == 1) {
            text = part;
        } else {
            const int file = i == 0 ? FM_TOKENIZER_JSON : i == 2 ? FM_TOKENIZER_CONFIG : FM_TOKENIZER_MODEL_CONFIG;
            texts.text[file] = fuzz_copy(part);
            texts.size_bytes[file] = part.size_bytes;
        }
    }
    fm_tokenizer *tokenizer;
    const int rc = fuzz_result(fm_tokenizer_new(&tokenizer, &texts, "MODEL"));
    fm_tokenizer_texts_free(&texts);
    if (rc == FM_OK) {
        check_text(tokenizer, text, true);
        check_text(tokenizer, text, false);
        const int32_t all[] = { 0, 1, 2, 3, 255, 1000, INT32_MAX };
        char *decoded;
        size_t decoded_bytes;
        if (fuzz_result(fm_tokenizer_decode(&decoded, &decoded_bytes, tokenizer, all, sizeof all / sizeof all[0], false)) == FM_OK) {
            fm_tokenizer_free(decoded);
        }
        FUZZ_CHECK(fm_tokenizer_eos_id(tokenizer) < fm_tokenizer_vocab_size(tokenizer));
        fm_tokenizer_destroy(tokenizer);
    }
}
