#include "data/tokenizer_steps.h"

#include <string.h>

#include "data/unicode.h"

enum { FIRST_STANDIN = 0x100, BYTE_TOKEN_BYTES = 6 };

static int add_word(fm_bytes *words, size_t begin, size_t end, bool at_start)
{
    const fm_word word = { begin, end, at_start };
    return end > begin ? fm_bytes_append(words, &word, sizeof word) : FM_OK;
}

/* Makes what a step has written the current text. */
static void swap_text(fm_words *words)
{
    const fm_bytes text = words->text;
    words->text = words->other_text;
    words->other_text = text;
}

static void swap_words(fm_words *words)
{
    const fm_bytes list = words->words;
    words->words = words->other_words;
    words->other_words = list;
}

/* What a step does to the text of one word: appends to words->other_text. */
typedef int rewrite(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index);

/* Rewrites each word; `keeps_empty` where words are tokens, whose number matters. */
static int rewrite_all(const fm_step *step, fm_words *words, rewrite *one, bool keeps_empty)
{
    words->other_text.size_bytes = words->other_words.size_bytes = 0;
    for (size_t i = 0; i < fm_words_count(words); i++) {
        const fm_word *const word = &fm_words_list(words)[i];
        const size_t begin = words->other_text.size_bytes;
        FM_TRY(one(step, words, words->text.bytes + word->begin, word, i));
        const fm_word written = { begin, words->other_text.size_bytes, word->at_start };
        if (keeps_empty || written.end > written.begin) {
            FM_TRY(fm_bytes_append(&words->other_words, &written, sizeof written));
        }
    }
    swap_text(words);
    swap_words(words);
    return FM_OK;
}

static int nfc_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    return fm_unicode_nfc(&words->other_text, text, word->end - word->begin);
}

int fm_step_nfc(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, nfc_one, false);
}

static int nfd_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    return fm_unicode_nfd(&words->other_text, text, word->end - word->begin);
}

int fm_step_nfd(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, nfd_one, false);
}

static int prefix_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    const fm_bytes *const prefix = &step->content;
    const size_t size_bytes = word->end - word->begin;
    const bool has_it = size_bytes >= prefix->size_bytes && memcmp(text, prefix->bytes, prefix->size_bytes) == 0;
    const bool may = step->behavior == FM_PREFIX_ALWAYS || word->at_start;
    const bool wants = step->behavior == FM_PREFIX_UNCONDITIONAL || (!has_it && may);
    if (wants && size_bytes > 0) {
        FM_TRY(fm_bytes_append(&words->other_text, prefix->bytes, prefix->size_bytes));
    }
    return fm_bytes_append(&words->other_text, text, size_bytes);
}

int fm_step_prefix(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, prefix_one, false);
}

static int replace_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    const size_t size_bytes = word->end - word->begin;
    size_t done = 0, from = 0, end = 0;
    while (from <= size_bytes) {
        size_t begin = from;
        const int found = fm_pattern_find(&begin, &end, &step->pattern, text, size_bytes, &words->stack);
        if (found < 0) {
            return found;
        }
        if (found == 0) {
            break;
        }
        FM_TRY(fm_bytes_append(&words->other_text, text + done, begin - done));
        FM_TRY(fm_bytes_append(&words->other_text, step->content.bytes, step->content.size_bytes));
        done = end;
        from = end > begin || end >= size_bytes ? end + (end == begin) : end + fm_unicode_length((unsigned char)text[end]);
    }
    return fm_bytes_append(&words->other_text, text + done, size_bytes - done);
}

int fm_step_replace(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, replace_one, true);
}

/* Printable bytes stand for themselves; the others, in order, for the characters from U+0100: 0x00-0x20, 0x7f-0xa0, 0xad. */
enum { CONTROLS_END = 0x21, DELETE = 0x7f, DELETES_END = 0xa1, SOFT_HYPHEN = 0xad };

static uint32_t standin_of_byte(unsigned byte)
{
    if (byte < CONTROLS_END) {
        return FIRST_STANDIN + byte;
    }
    if (byte >= DELETE && byte < DELETES_END) {
        return FIRST_STANDIN + CONTROLS_END + (byte - DELETE);
    }
    return byte == SOFT_HYPHEN ? FIRST_STANDIN + CONTROLS_END + DELETES_END - DELETE : byte;
}

/* The byte that a character stands for, or -1. */
static int byte_of_standin(uint32_t code)
{
    const uint32_t place = code - FIRST_STANDIN;
    const uint32_t byte = code < FIRST_STANDIN ? code
                          : place < CONTROLS_END ? place
                          : place < CONTROLS_END + DELETES_END - DELETE ? place - CONTROLS_END + DELETE : SOFT_HYPHEN;
    return standin_of_byte(byte) == code ? (int)byte : -1;
}

static int bytes_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    const size_t size_bytes = word->end - word->begin;
    FM_TRY(fm_bytes_reserve(&words->other_text, 2 * size_bytes));
    char *out = words->other_text.bytes + words->other_text.size_bytes;
    for (size_t i = 0; i < size_bytes; i++) {
        out += fm_unicode_put(out, standin_of_byte((unsigned char)text[i]));
    }
    words->other_text.size_bytes = (size_t)(out - words->other_text.bytes);
    return FM_OK;
}

int fm_step_bytes(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, bytes_one, false);
}

static int strip_blanks_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    const uint64_t blank = fm_unicode_class_cells("space", strlen("space"));
    size_t begin = 0, end = word->end - word->begin;
    for (size_t at = 0; step->left && at < end && fm_unicode_in(fm_unicode_next(text, &at), blank);) {
        begin = at;
    }
    while (step->right && end > begin) {
        size_t at = fm_unicode_back(text, end);
        const size_t last = at;
        if (!fm_unicode_in(fm_unicode_next(text, &at), blank)) {
            break;
        }
        end = last;
    }
    return fm_bytes_append(&words->other_text, text + begin, end - begin);
}

int fm_step_strip_blanks(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, strip_blanks_one, false);
}

int fm_pattern_find(size_t *begin, size_t *end, const fm_pattern *pattern, const char *text, size_t size_bytes, fm_bytes *stack)
{
    if (pattern->regex != NULL) {
        return fm_regex_find(begin, end, pattern->regex, text, size_bytes, stack);
    }
    if (pattern->cells != 0) {
        for (size_t at = *begin; at < size_bytes;) {
            *begin = at;
            if (fm_unicode_in(fm_unicode_next(text, &at), pattern->cells)) {
                *end = at;
                return 1;
            }
        }
        return 0;
    }
    const size_t n = pattern->literal.size_bytes;
    for (size_t at = *begin; n > 0 && at < size_bytes && size_bytes - at >= n; at++) {
        const char *const found = memchr(text + at, pattern->literal.bytes[0], size_bytes - at - n + 1);
        if (found == NULL) {
            return 0;
        }
        at = (size_t)(found - text);
        if (memcmp(found, pattern->literal.bytes, n) == 0) {
            *begin = at;
            *end = at + n;
            return 1;
        }
    }
    return 0;
}

/* The pieces of one word, as they come from left to right. A match waits for what follows it where it may merge with that. */
typedef struct {
    const fm_step *step;
    fm_bytes *out;
    size_t offset;                  /* of the word in the text */
    bool at_start;
    size_t begin, end;              /* the piece that is not written yet, if end > begin */
    bool last_matched;
} splitter;

static int write_piece(splitter *s)
{
    const int rc = add_word(s->out, s->offset + s->begin, s->offset + s->end, s->at_start && s->begin == 0);
    s->begin = s->end = 0;
    return rc;
}

/* What a behaviour does with a piece: joins it to the one before, or lets that one go and waits itself. */
static int add_piece(splitter *s, size_t begin, size_t end, bool matched)
{
    matched = matched != s->step->invert;
    bool joins = false;
    switch (s->step->behavior) {
    case FM_SPLIT_REMOVED:
        if (matched) {
            return write_piece(s);
        }
        break;
    case FM_SPLIT_MERGED_WITH_PREVIOUS:
        joins = matched && !s->last_matched;
        break;
    case FM_SPLIT_MERGED_WITH_NEXT:
        joins = !matched && s->last_matched;
        break;
    case FM_SPLIT_CONTIGUOUS:
        joins = matched == s->last_matched;
        break;
    default:
        break;
    }
    s->last_matched = matched;
    if (joins && s->end > s->begin) {
        s->end = end;
        return FM_OK;
    }
    FM_TRY(write_piece(s));
    s->begin = begin;
    s->end = end;
    return FM_OK;
}

static int split_one(const fm_step *step, fm_words *words, const fm_word *word)
{
    const char *const text = words->text.bytes + word->begin;
    const size_t size_bytes = word->end - word->begin;
    splitter s = { .step = step, .out = &words->other_words, .offset = word->begin, .at_start = word->at_start };
    size_t done = 0, from = 0, end = 0;
    while (from < size_bytes) {
        size_t begin = from;
        const int found = fm_pattern_find(&begin, &end, &step->pattern, text, size_bytes, &words->stack);
        if (found < 0) {
            return found;
        }
        if (found == 0) {
            break;
        }
        if (begin > done) {
            FM_TRY(add_piece(&s, done, begin, false));
        }
        FM_TRY(add_piece(&s, begin, end, true));
        done = end;
        from = end > begin || end >= size_bytes ? end + (end == begin) : end + fm_unicode_length((unsigned char)text[end]);
    }
    if (done < size_bytes) {
        FM_TRY(add_piece(&s, done, size_bytes, false));
    }
    return write_piece(&s);
}

int fm_step_split(const fm_step *step, fm_words *words)
{
    words->other_words.size_bytes = 0;
    for (size_t i = 0; i < fm_words_count(words); i++) {
        const fm_word word = fm_words_list(words)[i];
        FM_TRY(split_one(step, words, &word));
    }
    swap_words(words);
    return FM_OK;
}

/* Bytes that are no UTF-8 become U+FFFD, one for each longest beginning of a character. */
static int append_lossy(fm_bytes *out, const char *bytes, size_t size_bytes)
{
    static const char replacement[] = "\xef\xbf\xbd";
    for (size_t at = 0; at < size_bytes;) {
        const size_t valid = fm_unicode_check(bytes + at, size_bytes - at);
        FM_TRY(fm_bytes_append(out, bytes + at, valid));
        at += valid;
        if (at == size_bytes) {
            break;
        }
        FM_TRY(fm_bytes_append(out, replacement, sizeof replacement - 1));
        /* a beginning can still become a character with some continuation: try the smallest and the largest */
        const size_t length = fm_unicode_length((unsigned char)bytes[at]);
        size_t n = 1;
        for (bool can_go_on = (unsigned char)bytes[at] >= 0xc2; can_go_on && n < length && at + n < size_bytes;) {
            char low[FM_UNICODE_UTF8_BYTES], high[FM_UNICODE_UTF8_BYTES];
            memset(low, 0x80, sizeof low);
            memset(high, 0xbf, sizeof high);
            memcpy(low, bytes + at, n + 1);
            memcpy(high, bytes + at, n + 1);
            can_go_on = fm_unicode_check(low, length) == length || fm_unicode_check(high, length) == length;
            n += can_go_on;
        }
        at += n;
    }
    return FM_OK;
}

/* A token of stand-ins is its bytes; one with any other character is what it says. */
static int append_token_bytes(fm_bytes *out, const char *token, size_t size_bytes)
{
    const size_t before = out->size_bytes;
    for (size_t at = 0; at < size_bytes;) {
        const int byte = byte_of_standin(fm_unicode_next(token, &at));
        if (byte < 0) {
            out->size_bytes = before;
            return fm_bytes_append(out, token, size_bytes);
        }
        const char c = (char)byte;
        FM_TRY(fm_bytes_append(out, &c, 1));
    }
    return FM_OK;
}

int fm_step_from_bytes(const fm_step *step, fm_words *words)
{
    words->other_text.size_bytes = 0;
    for (size_t i = 0; i < fm_words_count(words); i++) {
        const fm_word *const token = &fm_words_list(words)[i];
        FM_TRY(append_token_bytes(&words->other_text, words->text.bytes + token->begin, token->end - token->begin));
    }
    words->text.size_bytes = words->words.size_bytes = 0;
    FM_TRY(append_lossy(&words->text, words->other_text.bytes, words->other_text.size_bytes));
    const fm_word whole = { 0, words->text.size_bytes, true };
    return fm_bytes_append(&words->words, &whole, sizeof whole);
}

/* <0xHH> -> the byte, else -1. */
static int byte_of_token(const char *token, size_t size_bytes)
{
    if (size_bytes != BYTE_TOKEN_BYTES || memcmp(token, "<0x", 3) != 0 || token[BYTE_TOKEN_BYTES - 1] != '>') {
        return -1;
    }
    int byte = 0;
    for (int i = 3; i < BYTE_TOKEN_BYTES - 1; i++) {
        const char c = token[i];
        const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
        if (digit < 0) {
            return -1;
        }
        byte = byte << 4 | digit;
    }
    return byte;
}

/* A run of byte tokens is one text where it is UTF-8, else one U+FFFD a byte. */
static int add_byte_run(fm_words *words, const char *bytes, size_t n)
{
    static const char replacement[] = "\xef\xbf\xbd";
    const size_t begin = words->other_text.size_bytes;
    if (fm_unicode_check(bytes, n) == n) {
        FM_TRY(fm_bytes_append(&words->other_text, bytes, n));
        return add_word(&words->other_words, begin, words->other_text.size_bytes, false);
    }
    for (size_t i = 0; i < n; i++) {
        const size_t at = words->other_text.size_bytes;
        FM_TRY(fm_bytes_append(&words->other_text, replacement, sizeof replacement - 1));
        FM_TRY(add_word(&words->other_words, at, words->other_text.size_bytes, false));
    }
    return FM_OK;
}

static int fallback_all(fm_words *words, fm_bytes *run)
{
    for (size_t i = 0; i < fm_words_count(words); i++) {
        const fm_word token = fm_words_list(words)[i];
        const int byte = byte_of_token(words->text.bytes + token.begin, token.end - token.begin);
        if (byte >= 0) {
            const char c = (char)byte;
            FM_TRY(fm_bytes_append(run, &c, 1));
            continue;
        }
        FM_TRY(add_byte_run(words, run->bytes, run->size_bytes));
        run->size_bytes = 0;
        const fm_word kept = { words->other_text.size_bytes, words->other_text.size_bytes + (token.end - token.begin), false };
        FM_TRY(fm_bytes_append(&words->other_text, words->text.bytes + token.begin, token.end - token.begin));
        FM_TRY(fm_bytes_append(&words->other_words, &kept, sizeof kept));
    }
    return add_byte_run(words, run->bytes, run->size_bytes);
}

int fm_step_byte_fallback(const fm_step *step, fm_words *words)
{
    fm_bytes run = { 0 };
    words->other_text.size_bytes = words->other_words.size_bytes = 0;
    const int rc = fallback_all(words, &run);
    fm_bytes_free(&run);
    swap_text(words);
    swap_words(words);
    return rc;
}

int fm_step_fuse(const fm_step *step, fm_words *words)
{
    words->other_text.size_bytes = 0;
    for (size_t i = 0; i < fm_words_count(words); i++) {
        const fm_word *const token = &fm_words_list(words)[i];
        FM_TRY(fm_bytes_append(&words->other_text, words->text.bytes + token->begin, token->end - token->begin));
    }
    swap_text(words);
    words->words.size_bytes = 0;
    const fm_word whole = { 0, words->text.size_bytes, true };
    return fm_bytes_append(&words->words, &whole, sizeof whole);
}

static int strip_content_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    const size_t n = step->content.size_bytes;
    size_t begin = 0, end = word->end - word->begin;
    for (int i = 0; i < step->left && end - begin >= n && memcmp(text + begin, step->content.bytes, n) == 0; i++) {
        begin += n;
    }
    for (int i = 0; i < step->right && end - begin >= n && memcmp(text + end - n, step->content.bytes, n) == 0; i++) {
        end -= n;
    }
    return fm_bytes_append(&words->other_text, text + begin, end - begin);
}

int fm_step_strip_content(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, strip_content_one, true);
}

/* Metaspace's decoder leaves its mark out of the first token, before the others' marks become spaces. */
static int drop_in_first_one(const fm_step *step, fm_words *words, const char *text, const fm_word *word, size_t index)
{
    return index == 0 ? replace_one(step, words, text, word, index)
                      : fm_bytes_append(&words->other_text, text, word->end - word->begin);
}

int fm_step_drop_in_first(const fm_step *step, fm_words *words)
{
    return rewrite_all(step, words, drop_in_first_one, true);
}
