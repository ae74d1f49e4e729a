/* Added tokens: texts that are one token wherever they stand, found before the model sees the text.
 *
 * The rules are those of the tokenizers library: a token that the model knows keeps the model's id, another gets the next free
 * one; the longest token that starts first wins; tokens that are not `normalized` are looked for in the text as it is, the others
 * in the normalized text, in their own normalized form. All functions are local; after fm_added_index the list is constant. */
#ifndef FM_DATA_TOKENIZER_ADDED_H
#define FM_DATA_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "data/bpe.h"
#include "data/tokenizer_pipeline.h"

typedef struct {
    bool special;             /* left out by decoding with skip_special */
    bool normalized;
    bool single_word;         /* only between characters that are not \w */
    bool lstrip, rstrip;      /* takes the blanks before, behind */
} fm_added_flags;

typedef struct fm_added fm_added;

/* Stretches of a text: id < 0 is text that is no added token. */
typedef struct {
    size_t begin, end;
    int32_t id;
} fm_added_piece;

/* An empty list on top of a model, which must outlive it. The caller destroys it. */
int fm_added_new(fm_added **out, const fm_bpe *bpe);
void fm_added_destroy(fm_added *added);

/* Adds a token; an equal one that is there already, or an empty one, is left out. One whose text is there gets the new flags.
 * Error: memory. */
int fm_added_add(fm_added *added, const char *text, size_t size_bytes, fm_added_flags flags);

/* Reads {"content", "special", "normalized", "single_word", "lstrip", "rstrip"}; absent flags are false, but `normalized` is
 * !special. *text is borrowed from the object. Error: FM_ERR_FORMAT. */
int fm_added_read(const json_t **text, fm_added_flags *flags, const json_t *object, const char *name);

/* Whether the text is an added token, and then with which flags (NULL allowed). */
bool fm_added_has(const fm_added *added, const char *text, size_t size_bytes, fm_added_flags *flags);

/* Prepares the search, after all tokens were added. */
int fm_added_index(fm_added *added, const fm_pipeline *normalizer);

/* Cuts a text into pieces (fm_added_piece, written to the start of `pieces`): by the tokens that are normalized or by the others.
 * splits_special: special tokens are ordinary text. Error: memory. */
int fm_added_find(fm_bytes *pieces, const fm_added *added, bool normalized, bool splits_special, const char *text,
                  size_t size_bytes);

/* The id of a token, added or of the model, or -1. */
int32_t fm_added_id(const fm_added *added, const char *text, size_t size_bytes);

/* What decoding shows of an id, added (then in its normalized form) or of the model, or NULL; *special: it is a special token. */
const char *fm_added_text(const fm_added *added, int32_t id, size_t *size_bytes, bool *special);

/* One more than the largest id, added or of the model. */
int32_t fm_added_id_limit(const fm_added *added);

#endif
