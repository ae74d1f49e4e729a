#include "data/tokenizer_added.h"

#include "base/memory.h"
#include "data/bpe_table.h"
#include "data/unicode.h"

enum { NONE = -1, N_BYTES = 256, TEXT_SHOWN = 100 };

/* One text that is a token, with the flags that it was last given. */
typedef struct {
    int32_t id;
    fm_added_flags flags;
    bool is_special;          /* was special when it came; it stays so */
    bool first_normalized;    /* `normalized` when it came: decides by which search it is found */
    bool is_plain;            /* came as a token that is not special, with plain_normalized */
    bool plain_normalized;
    size_t shown_begin, shown_bytes;      /* in `shown`: its normalized form, which decoding shows; 0 bytes: the text itself */
} entry;

/* A node of a tree over bytes. Children are a list; the root's are looked up by `roots`. */
typedef struct {
    unsigned char byte;
    int32_t child, sibling;
    int32_t entry;            /* the token that ends here, or NONE */
} node;

typedef struct {
    fm_bytes nodes;
    int32_t roots[N_BYTES];
} tree;

struct fm_added {
    const fm_bpe *bpe;
    fm_token_table texts;     /* text -> number of the entry */
    fm_bytes entries;          /* entry */
    fm_bytes shown;
    int32_t *entry_of_id;     /* by id: number of the entry + 1, the latest that got it */
    int32_t id_limit, max_id;
    tree trees[2];            /* of the tokens that are not normalized, and of those that are */
    uint64_t word_cells, space_cells;
};

int fm_added_new(fm_added **out, const fm_bpe *bpe)
{
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    (*out)->bpe = bpe;
    (*out)->id_limit = fm_bpe_id_limit(bpe);
    (*out)->max_id = NONE;
    (*out)->word_cells = fm_unicode_class_cells("single_word", strlen("single_word"));
    (*out)->space_cells = fm_unicode_class_cells("space", strlen("space"));
    return FM_OK;
}

void fm_added_destroy(fm_added *added)
{
    if (added == NULL) {
        return;
    }
    fm_token_table_free(&added->texts);
    fm_bytes_free(&added->entries);
    fm_bytes_free(&added->shown);
    fm_free(added->entry_of_id);
    fm_bytes_free(&added->trees[0].nodes);
    fm_bytes_free(&added->trees[1].nodes);
    fm_free(added);
}

static entry *entry_at(const fm_added *added, int32_t number)
{
    return (entry *)(void *)added->entries.bytes + number;
}

/* The model's id, else the next one behind all tokens that were added and the size of the model's vocabulary. */
static int32_t new_id(const fm_added *added, const char *text, size_t size_bytes)
{
    const int32_t known = fm_bpe_find(added->bpe, text, size_bytes);
    if (known >= 0) {
        return known;
    }
    const int32_t n_tokens = fm_bpe_n_tokens(added->bpe);
    return added->max_id >= n_tokens ? added->max_id + 1 : n_tokens;
}

static int append_entry(fm_added *added, const char *text, size_t size_bytes, int32_t *number)
{
    const entry made = { .id = new_id(added, text, size_bytes) };
    *number = (int32_t)(added->entries.size_bytes / sizeof made);
    if (made.id >= FM_BPE_MAX_ID) {
        return fm_fail(FM_ERR_FORMAT, "more than %d tokens", FM_BPE_MAX_ID);
    }
    const int rc = fm_token_table_add(&added->texts, text, size_bytes, *number);
    FM_TRY(rc);
    FM_TRY(fm_bytes_append(&added->entries, &made, sizeof made));
    added->max_id = made.id > added->max_id ? made.id : added->max_id;
    added->id_limit = made.id >= added->id_limit ? made.id + 1 : added->id_limit;
    return FM_OK;
}

static bool same_flags(fm_added_flags a, fm_added_flags b)
{
    return a.special == b.special && a.normalized == b.normalized && a.single_word == b.single_word && a.lstrip == b.lstrip &&
           a.rstrip == b.rstrip;
}

int fm_added_add(fm_added *added, const char *text, size_t size_bytes, fm_added_flags flags)
{
    int32_t number = fm_token_table_find(&added->texts, text, size_bytes);
    if (size_bytes == 0 || (number >= 0 && same_flags(entry_at(added, number)->flags, flags))) {
        return FM_OK;
    }
    if (number < 0) {
        FM_TRY(append_entry(added, text, size_bytes, &number));
    }
    entry *const e = entry_at(added, number);
    e->flags = flags;
    if (flags.special && !e->is_special) {
        e->is_special = true;
        e->first_normalized = flags.normalized;
    } else if (!e->is_special && !e->is_plain) {
        e->is_plain = true;
        e->plain_normalized = flags.normalized;
    }
    return FM_OK;
}

int fm_added_read(const json_t **text, fm_added_flags *flags, const json_t *object, const char *name)
{
    *flags = (fm_added_flags){ 0 };
    *text = json_object_get(object, "content");
    if (!json_is_string(*text)) {
        return fm_fail(FM_ERR_FORMAT, "%s: an added token without \"content\"", name);
    }
    FM_TRY(fm_json_get_bool(&flags->special, object, "special", name));
    flags->normalized = !flags->special;
    FM_TRY(fm_json_get_bool(&flags->normalized, object, "normalized", name));
    FM_TRY(fm_json_get_bool(&flags->single_word, object, "single_word", name));
    FM_TRY(fm_json_get_bool(&flags->lstrip, object, "lstrip", name));
    return fm_json_get_bool(&flags->rstrip, object, "rstrip", name);
}

bool fm_added_has(const fm_added *added, const char *text, size_t size_bytes, fm_added_flags *flags)
{
    const int32_t number = fm_token_table_find(&added->texts, text, size_bytes);
    if (number >= 0 && flags != NULL) {
        *flags = entry_at(added, number)->flags;
    }
    return number >= 0;
}

static node *node_at(const tree *t, int32_t number)
{
    return (node *)(void *)t->nodes.bytes + number;
}

static int add_node(tree *t, unsigned char byte, int32_t sibling, int32_t *number)
{
    const node made = { byte, NONE, sibling, NONE };
    *number = (int32_t)(t->nodes.size_bytes / sizeof made);
    return fm_bytes_append(&t->nodes, &made, sizeof made);
}

static int32_t find_child(const tree *t, int32_t parent, unsigned char byte)
{
    int32_t child = parent == NONE ? t->roots[byte] : node_at(t, parent)->child;
    while (child != NONE && node_at(t, child)->byte != byte) {
        child = node_at(t, child)->sibling;
    }
    return child;
}

/* Of two equal texts the first stays. */
static int tree_add(tree *t, const char *text, size_t size_bytes, int32_t number)
{
    int32_t at = NONE;
    for (size_t i = 0; i < size_bytes; i++) {
        const unsigned char byte = (unsigned char)text[i];
        int32_t child = find_child(t, at, byte);
        if (child == NONE) {
            FM_TRY(add_node(t, byte, at == NONE ? NONE : node_at(t, at)->child, &child));
            if (at == NONE) {
                t->roots[byte] = child;
            } else {
                node_at(t, at)->child = child;
            }
        }
        at = child;
    }
    if (at != NONE && node_at(t, at)->entry == NONE) {
        node_at(t, at)->entry = number;
    }
    return FM_OK;
}

static int add_normalized(fm_added *added, const fm_pipeline *normalizer, const char *text, size_t size_bytes, int32_t number)
{
    fm_words words = { 0 };
    int rc = fm_words_start(&words, text, size_bytes, true);
    if (rc == FM_OK) {
        rc = fm_pipeline_run(normalizer, &words);
    }
    if (rc == FM_OK) {
        rc = tree_add(&added->trees[1], words.text.bytes, words.text.size_bytes, number);
    }
    if (rc == FM_OK) {
        entry *const e = entry_at(added, number);
        e->shown_begin = added->shown.size_bytes;
        e->shown_bytes = words.text.size_bytes;
        rc = fm_bytes_append(&added->shown, words.text.bytes, words.text.size_bytes);
    }
    fm_words_free(&words);
    return rc;
}

/* Special tokens come before the others, as in the library's two lists. */
static int index_entries(fm_added *added, const fm_pipeline *normalizer, bool specials)
{
    for (int32_t number = 0; number < added->texts.id_limit; number++) {
        const entry *const e = entry_at(added, number);
        size_t size_bytes;
        const char *const text = fm_token_table_get(&added->texts, number, &size_bytes);
        if (!(specials ? e->is_special : e->is_plain)) {
            continue;
        }
        if (specials ? e->first_normalized : e->plain_normalized) {
            FM_TRY(add_normalized(added, normalizer, text, size_bytes, number));
        } else {
            FM_TRY(tree_add(&added->trees[0], text, size_bytes, number));
        }
    }
    return FM_OK;
}

int fm_added_index(fm_added *added, const fm_pipeline *normalizer)
{
    for (int i = 0; i < 2; i++) {
        for (int byte = 0; byte < N_BYTES; byte++) {
            added->trees[i].roots[byte] = NONE;
        }
    }
    FM_TRY(index_entries(added, normalizer, true));
    FM_TRY(index_entries(added, normalizer, false));
    added->entry_of_id = fm_alloc_array(added->id_limit, sizeof *added->entry_of_id, FM_MEMORY_HOST);
    if (added->entry_of_id == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int32_t number = 0; number < added->texts.id_limit; number++) {
        added->entry_of_id[entry_at(added, number)->id] = number + 1;
    }
    return FM_OK;
}

/* The longest token at one place: *end, or NONE. */
static int32_t match_at(const tree *t, const char *text, size_t size_bytes, size_t at, size_t *end)
{
    int32_t found = NONE, here = NONE;
    for (size_t i = at; i < size_bytes; i++) {
        here = find_child(t, here, (unsigned char)text[i]);
        if (here == NONE) {
            break;
        }
        if (node_at(t, here)->entry != NONE) {
            found = node_at(t, here)->entry;
            *end = i + 1;
        }
    }
    return found;
}

static bool is_word_at(const fm_added *added, const char *text, size_t at)
{
    return fm_unicode_in(fm_unicode_next(text, &at), added->word_cells);
}

/* Whether a token may stand there, and how far it takes blanks with it. `floor_at` is the end of the token before. */
static bool fits(size_t *begin, size_t *end, const fm_added *added, const entry *e, const char *text, size_t size_bytes,
                 size_t floor_at)
{
    const bool hidden = (*begin > 0 && is_word_at(added, text, fm_unicode_back(text, *begin))) ||
                        (*end < size_bytes && is_word_at(added, text, *end));
    if (e->flags.single_word && hidden) {
        return false;
    }
    while (e->flags.lstrip && *begin > floor_at) {
        const size_t before = fm_unicode_back(text, *begin);
        size_t at = before;
        if (!fm_unicode_in(fm_unicode_next(text, &at), added->space_cells)) {
            break;
        }
        *begin = before;
    }
    while (e->flags.rstrip && *end < size_bytes) {
        size_t at = *end;
        if (!fm_unicode_in(fm_unicode_next(text, &at), added->space_cells)) {
            break;
        }
        *end = at;
    }
    return true;
}

static int add_piece(fm_bytes *pieces, size_t begin, size_t end, int32_t id)
{
    const fm_added_piece piece = { begin, end, id };
    return fm_bytes_append(pieces, &piece, sizeof piece);
}

int fm_added_find(fm_bytes *pieces, const fm_added *added, bool normalized, bool splits_special, const char *text,
                  size_t size_bytes)
{
    const tree *const t = &added->trees[normalized];
    size_t done = 0;
    pieces->size_bytes = 0;
    for (size_t at = 0; t->nodes.size_bytes > 0 && at < size_bytes;) {
        size_t end = at;
        const int32_t number = t->roots[(unsigned char)text[at]] == NONE ? NONE : match_at(t, text, size_bytes, at, &end);
        if (number == NONE) {
            at++;
            continue;
        }
        const entry *const e = entry_at(added, added->entry_of_id[entry_at(added, number)->id] - 1);
        size_t begin = at;
        at = end;
        if ((splits_special && e->is_special) || !fits(&begin, &end, added, e, text, size_bytes, done)) {
            continue;
        }
        if (done < begin) {
            FM_TRY(add_piece(pieces, done, begin, NONE));
        }
        FM_TRY(add_piece(pieces, begin, end, e->id));
        done = end;
    }
    return done < size_bytes ? add_piece(pieces, done, size_bytes, NONE) : FM_OK;
}

int32_t fm_added_id(const fm_added *added, const char *text, size_t size_bytes)
{
    const int32_t number = fm_token_table_find(&added->texts, text, size_bytes);
    return number >= 0 ? entry_at(added, number)->id : fm_bpe_find(added->bpe, text, size_bytes);
}

/* A token is special by what it shows, as in the library: one whose normalized form is another text is not skipped. */
const char *fm_added_text(const fm_added *added, int32_t id, size_t *size_bytes, bool *special)
{
    const int32_t number = id >= 0 && id < added->id_limit ? added->entry_of_id[id] - 1 : NONE;
    const entry *const e = number >= 0 ? entry_at(added, number) : NULL;
    const char *text = NULL;
    if (e == NULL) {
        text = fm_bpe_token(added->bpe, id, size_bytes);
    } else if (e->shown_bytes > 0) {
        text = added->shown.bytes + e->shown_begin;
        *size_bytes = e->shown_bytes;
    } else {
        text = fm_token_table_get(&added->texts, number, size_bytes);
    }
    const int32_t same = text == NULL ? NONE : fm_token_table_find(&added->texts, text, *size_bytes);
    *special = same >= 0 && entry_at(added, same)->is_special;
    return text;
}

int32_t fm_added_id_limit(const fm_added *added)
{
    return added->id_limit;
}
