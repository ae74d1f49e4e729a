#include "data/bpe.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "data/bpe_table.h"
#include "data/unicode.h"

enum { DIRECT_CODES = 0x800, N_BYTES = 256, BYTE_TOKEN_BYTES = 8, SHORT_WORD = 32, FIRST_WINDOW = 512, MAX_WINDOW = 1 << 29 };

struct fm_bpe {
    const char *name;
    fm_token_table tokens;
    fm_merge_table merges;
    int32_t n_merges;
    fm_bpe_options options;
    int32_t unk_id;
    int32_t code_ids[DIRECT_CODES];      /* tokens of the characters below U+0800 */
    int32_t byte_ids[N_BYTES];           /* <0x00> to <0xFF> */
};

/* One symbol of a long word, in a list. A merged-away one has id REMOVED. */
typedef struct {
    int32_t id, previous, next;
} symbol;

enum { REMOVED = -1, NONE = -1 };

/* A merge that may be due: the lowest key first, that is the lowest rank, then the leftmost place. */
typedef struct {
    uint64_t key;                        /* rank << 32 | place */
    int32_t new_id;
} candidate;

int fm_bpe_new(fm_bpe **out, const char *name)
{
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    (*out)->name = name;
    return FM_OK;
}

void fm_bpe_destroy(fm_bpe *bpe)
{
    if (bpe == NULL) {
        return;
    }
    fm_token_table_free(&bpe->tokens);
    fm_merge_table_free(&bpe->merges);
    fm_free(bpe);
}

int fm_bpe_add_token(fm_bpe *bpe, const char *token, size_t size_bytes, int64_t id)
{
    if (id < 0 || id >= FM_BPE_MAX_ID) {
        return fm_fail(FM_ERR_FORMAT, "%s: model.vocab: token \"%.*s\" has the id %lld, an id from 0 to %d was expected",
                       bpe->name, (int)(size_bytes < 100 ? size_bytes : 100), token, (long long)id, FM_BPE_MAX_ID - 1);
    }
    const int added = fm_token_table_add(&bpe->tokens, token, size_bytes, (int32_t)id);
    if (added == 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: model.vocab: token \"%.*s\" or its id %lld is there twice", bpe->name,
                       (int)(size_bytes < 100 ? size_bytes : 100), token, (long long)id);
    }
    return added < 0 ? added : FM_OK;
}

static int find_part(int32_t *id, const fm_bpe *bpe, const char *token, size_t size_bytes)
{
    *id = fm_token_table_find(&bpe->tokens, token, size_bytes);
    if (*id < 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: model.merges: merge %d needs the token \"%.*s\", which model.vocab does not have",
                       bpe->name, bpe->n_merges, (int)(size_bytes < 100 ? size_bytes : 100), token);
    }
    return FM_OK;
}

int fm_bpe_add_merge(fm_bpe *bpe, const char *left, size_t left_bytes, const char *right, size_t right_bytes)
{
    int32_t left_id, right_id, whole_id;
    FM_TRY(find_part(&left_id, bpe, left, left_bytes));
    FM_TRY(find_part(&right_id, bpe, right, right_bytes));
    char few[256];
    fm_bytes many = { 0 };
    char *whole = few;
    if (left_bytes + right_bytes > sizeof few) {
        FM_TRY(fm_bytes_reserve(&many, left_bytes + right_bytes));
        whole = many.bytes;
    }
    memcpy(whole, left, left_bytes);
    memcpy(whole + left_bytes, right, right_bytes);
    int rc = find_part(&whole_id, bpe, whole, left_bytes + right_bytes);
    fm_bytes_free(&many);
    if (rc == FM_OK) {
        rc = fm_merge_table_set(&bpe->merges, left_id, right_id, bpe->n_merges, whole_id);
        bpe->n_merges++;
    }
    return rc;
}

int fm_bpe_finish(fm_bpe *bpe, const fm_bpe_options *options)
{
    bpe->options = *options;
    bpe->options.unk_token = NULL;
    bpe->unk_id = NONE;
    if (options->unk_token != NULL) {
        bpe->unk_id = fm_bpe_find(bpe, options->unk_token, strlen(options->unk_token));
        if (bpe->unk_id < 0) {
            return fm_fail(FM_ERR_FORMAT, "%s: model.unk_token \"%s\" is not in model.vocab", bpe->name, options->unk_token);
        }
    }
    for (uint32_t code = 0; code < DIRECT_CODES; code++) {
        char bytes[FM_UNICODE_UTF8_BYTES];
        bpe->code_ids[code] = fm_bpe_find(bpe, bytes, fm_unicode_put(bytes, code));
    }
    for (unsigned byte = 0; byte < N_BYTES; byte++) {
        char token[BYTE_TOKEN_BYTES];
        const int n = snprintf(token, sizeof token, "<0x%02X>", byte);
        bpe->byte_ids[byte] = fm_bpe_find(bpe, token, (size_t)n);
    }
    return FM_OK;
}

int32_t fm_bpe_find(const fm_bpe *bpe, const char *token, size_t size_bytes)
{
    return fm_token_table_find(&bpe->tokens, token, size_bytes);
}

const char *fm_bpe_token(const fm_bpe *bpe, int32_t id, size_t *size_bytes)
{
    return fm_token_table_get(&bpe->tokens, id, size_bytes);
}

int32_t fm_bpe_id_limit(const fm_bpe *bpe)
{
    return bpe->tokens.id_limit;
}

int32_t fm_bpe_n_tokens(const fm_bpe *bpe)
{
    return bpe->tokens.n_tokens;
}

void fm_bpe_scratch_free(fm_bpe_scratch *scratch)
{
    fm_bytes_free(&scratch->ids);
    fm_bytes_free(&scratch->symbols);
    fm_bytes_free(&scratch->queue);
}

static int add_id(fm_bytes *ids, int32_t id)
{
    return fm_bytes_append(ids, &id, sizeof id);
}

/* The bytes of a character without a token. False (nothing added) where one of them has no token either. */
static int add_bytes(fm_bytes *ids, const fm_bpe *bpe, const char *character, size_t size_bytes)
{
    for (size_t i = 0; i < size_bytes; i++) {
        if (bpe->byte_ids[(unsigned char)character[i]] < 0) {
            return 0;
        }
    }
    for (size_t i = 0; i < size_bytes; i++) {
        FM_TRY(add_id(ids, bpe->byte_ids[(unsigned char)character[i]]));
    }
    return 1;
}

/* The symbols that a word starts from. An unknown token waits until the next known character, behind bytes that come between, as
 * Hugging Face's does. */
static int add_characters(fm_bytes *ids, const fm_bpe *bpe, const char *word, size_t size_bytes)
{
    bool unknown_waits = false;
    for (size_t at = 0; at < size_bytes;) {
        const size_t begin = at;
        const uint32_t code = fm_unicode_next(word, &at);
        const int32_t id = code < DIRECT_CODES ? bpe->code_ids[code] : fm_bpe_find(bpe, word + begin, at - begin);
        if (id >= 0) {
            if (unknown_waits) {
                FM_TRY(add_id(ids, bpe->unk_id));
                unknown_waits = false;
            }
            FM_TRY(add_id(ids, id));
            continue;
        }
        const int fell_back = bpe->options.byte_fallback ? add_bytes(ids, bpe, word + begin, at - begin) : 0;
        if (fell_back < 0) {
            return fell_back;
        }
        if (fell_back == 0 && bpe->unk_id >= 0) {
            if (unknown_waits && !bpe->options.fuse_unk) {
                FM_TRY(add_id(ids, bpe->unk_id));
            }
            unknown_waits = true;
        }
    }
    return unknown_waits ? add_id(ids, bpe->unk_id) : FM_OK;
}

/* Merges a short word in place: each round takes the lowest rank, leftmost, and closes the gap. Returns the new length. */
static int merge_short(const fm_bpe *bpe, int32_t *ids, int n)
{
    const fm_merge *pairs[SHORT_WORD];
    for (int i = 0; i + 1 < n; i++) {
        pairs[i] = fm_merge_table_find(&bpe->merges, ids[i], ids[i + 1]);
    }
    for (;;) {
        int best = NONE;
        for (int i = 0; i + 1 < n; i++) {
            if (pairs[i] != NULL && (best == NONE || pairs[i]->rank < pairs[best]->rank)) {
                best = i;
            }
        }
        if (best == NONE) {
            return n;
        }
        ids[best] = pairs[best]->new_id;
        memmove(ids + best + 1, ids + best + 2, (size_t)(n - best - 2) * sizeof *ids);
        n--;
        if (best + 1 < n) {
            memmove(pairs + best, pairs + best + 1, (size_t)(n - 1 - best) * sizeof *pairs);
            pairs[best] = fm_merge_table_find(&bpe->merges, ids[best], ids[best + 1]);
        }
        if (best > 0) {
            pairs[best - 1] = fm_merge_table_find(&bpe->merges, ids[best - 1], ids[best]);
        }
    }
}

static candidate *candidates(fm_bytes *queue, size_t *n)
{
    *n = queue->size_bytes / sizeof(candidate);
    return (candidate *)(void *)queue->bytes;
}

/* The heap's order: no child's key is below its parent's. */
static void sift_down(candidate *heap, size_t n, size_t at)
{
    const candidate moved = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && heap[child + 1].key < heap[child].key;
        if (moved.key <= heap[child].key) {
            break;
        }
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static candidate pop(fm_bytes *queue)
{
    size_t n;
    candidate *const heap = candidates(queue, &n);
    const candidate top = heap[0];
    heap[0] = heap[n - 1];
    queue->size_bytes -= sizeof(candidate);
    sift_down(heap, n - 1, 0);
    return top;
}

/* Appends the merge of a symbol with its right neighbour, if there is one; `sifts` keeps the heap's order. */
static int offer(fm_bytes *queue, const fm_bpe *bpe, const symbol *symbols, int32_t left, bool sifts)
{
    const int32_t right = left < 0 ? NONE : symbols[left].next;
    const fm_merge *const merge = right < 0 ? NULL : fm_merge_table_find(&bpe->merges, symbols[left].id, symbols[right].id);
    if (merge == NULL) {
        return FM_OK;
    }
    const candidate added = { (uint64_t)(uint32_t)merge->rank << 32 | (uint32_t)left, merge->new_id };
    FM_TRY(fm_bytes_append(queue, &added, sizeof added));
    if (sifts) {
        size_t n;
        candidate *const heap = candidates(queue, &n);
        size_t at = n - 1;
        while (at > 0 && added.key < heap[(at - 1) / 2].key) {
            heap[at] = heap[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        heap[at] = added;
    }
    return FM_OK;
}

static int merge_list(const fm_bpe *bpe, symbol *symbols, fm_bytes *queue)
{
    while (queue->size_bytes > 0) {
        const candidate top = pop(queue);
        const int32_t left = (int32_t)(top.key & UINT32_MAX);
        const int32_t right = symbols[left].id == REMOVED ? NONE : symbols[left].next;
        const fm_merge *const merge = right < 0 ? NULL : fm_merge_table_find(&bpe->merges, symbols[left].id, symbols[right].id);
        if (merge == NULL || merge->new_id != top.new_id) {
            continue;                    /* one of the two has merged otherwise meanwhile */
        }
        symbols[left].id = merge->new_id;
        symbols[left].next = symbols[right].next;
        symbols[right].id = REMOVED;
        if (symbols[left].next >= 0) {
            symbols[symbols[left].next].previous = left;
        }
        FM_TRY(offer(queue, bpe, symbols, symbols[left].previous, true));
        FM_TRY(offer(queue, bpe, symbols, left, true));
    }
    return FM_OK;
}

/* Merges ids[0, n) in a list, whose place i starts where ids[i] did; what is left begins at place 0. */
static int merge_window(const fm_bpe *bpe, const int32_t *ids, int32_t n, fm_bpe_scratch *scratch)
{
    scratch->symbols.size_bytes = scratch->queue.size_bytes = 0;
    FM_TRY(fm_bytes_reserve(&scratch->symbols, (size_t)n * sizeof(symbol)));
    symbol *const symbols = (symbol *)(void *)scratch->symbols.bytes;
    for (int32_t i = 0; i < n; i++) {
        symbols[i] = (symbol){ ids[i], i - 1, i + 1 < n ? i + 1 : NONE };
    }
    for (int32_t i = 0; i < n; i++) {
        FM_TRY(offer(&scratch->queue, bpe, symbols, i, false));
    }
    size_t n_candidates;
    candidate *const heap = candidates(&scratch->queue, &n_candidates);
    for (size_t i = n_candidates / 2; i-- > 0;) {
        sift_down(heap, n_candidates, i);
    }
    return merge_list(bpe, symbols, &scratch->queue);
}

/* The last token that a window gave: a border that the next window must confirm. */
typedef struct {
    size_t begin;                        /* its first symbol, counted from the start of the word */
    size_t out_bytes;                    /* of the ids before it */
    int32_t id, length;                  /* NONE: the start of the word, nothing to confirm */
} seam;

static int32_t token_length(const symbol *symbols, int32_t at, int32_t window)
{
    return (symbols[at].next < 0 ? window : symbols[at].next) - at;
}

/* Appends the tokens of a window that start before `end`; the last of them becomes the seam. */
static int take_tokens(fm_bytes *out, seam *last, const symbol *symbols, int32_t end, int32_t window)
{
    const size_t begin = last->begin;
    out->size_bytes = last->out_bytes;
    for (int32_t i = 0; i >= 0 && i < end; i = symbols[i].next) {
        *last = (seam){ begin + (size_t)i, out->size_bytes, symbols[i].id, token_length(symbols, i, window) };
        FM_TRY(add_id(out, symbols[i].id));
    }
    return FM_OK;
}

/* Merges a long word window by window, so that time and cache misses grow with its length alone.
 *
 * Tokens t1 t2 ... are the encoding of a word if, and only if, each two neighbours encode to themselves: up to the first merge
 * across a border, what happens left and right of it is what would happen in those two tokens alone. So a window's tokens hold up
 * to a seam if the next window, begun at the last token that is kept, starts with that token too. Where it does not, the window
 * was too small: go back one window, and where that is not enough to the start, with windows of twice the size. */
static int merge_long(fm_bytes *out, const fm_bpe *bpe, const int32_t *ids, size_t n, fm_bpe_scratch *scratch)
{
    const seam start = { 0, out->size_bytes, NONE, 0 };
    seam here = start, before = start;
    bool went_back = false;
    for (size_t window = FIRST_WINDOW; window <= MAX_WINDOW;) {
        const bool is_last = n - here.begin <= window;
        const int32_t length = (int32_t)(is_last ? n - here.begin : window);
        FM_TRY(merge_window(bpe, ids + here.begin, length, scratch));
        const symbol *const symbols = (const symbol *)(const void *)scratch->symbols.bytes;
        if (here.id != NONE && (symbols[0].id != here.id || token_length(symbols, 0, length) != here.length)) {
            here = went_back ? start : before;
            went_back = true;
            window *= 2;
            continue;
        }
        before = here;
        went_back = false;
        FM_TRY(take_tokens(out, &here, symbols, is_last ? length : length - length / 4, length));
        if (is_last) {
            return FM_OK;
        }
        window *= here.begin == before.begin ? 2 : 1;       /* one token fills it */
    }
    return fm_fail(FM_ERR_FORMAT, "%s: the merges of more than %d characters depend on each other; cut the text", bpe->name,
                   MAX_WINDOW);
}

int fm_bpe_encode(fm_bytes *ids, const fm_bpe *bpe, const char *word, size_t size_bytes, fm_bpe_scratch *scratch)
{
    const int32_t whole = bpe->options.ignore_merges ? fm_bpe_find(bpe, word, size_bytes) : NONE;
    if (whole >= 0) {
        return add_id(ids, whole);
    }
    scratch->ids.size_bytes = 0;
    FM_TRY(add_characters(&scratch->ids, bpe, word, size_bytes));
    const size_t n = scratch->ids.size_bytes / sizeof(int32_t);
    int32_t *const symbols = (int32_t *)(void *)scratch->ids.bytes;
    if (n <= SHORT_WORD) {
        return fm_bytes_append(ids, symbols, (size_t)merge_short(bpe, symbols, (int)n) * sizeof *symbols);
    }
    return merge_long(ids, bpe, symbols, n, scratch);
}
