/* The two hash tables of data/bpe.h: tokens by their bytes, merges by their pair of ids. Structs of zeros are empty. Local. */
#ifndef FM_DATA_BPE_TABLE_H
#define FM_DATA_BPE_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer_bytes.h"

typedef struct {
    size_t begin, size_bytes;       /* in `bytes`; begin counts from 1, 0: no token has this id */
} fm_token_place;

typedef struct {
    uint32_t hash;
    int32_t id;                     /* + 1, 0: free */
} fm_token_slot;

typedef struct {
    fm_bytes bytes;                  /* of all tokens, one behind the other */
    fm_token_place *places;         /* by id */
    int32_t id_limit, id_capacity;
    int32_t n_tokens;
    fm_token_slot *slots;
    int32_t n_slots;
} fm_token_table;

typedef struct {
    int32_t left, right, rank, new_id;
} fm_merge;

typedef struct {
    fm_merge *slots;                /* left < 0: free */
    int32_t n_slots, n_merges;
} fm_merge_table;

void fm_token_table_free(fm_token_table *table);
void fm_merge_table_free(fm_merge_table *table);

/* 1: added (copied), 0: the token or its id is there already; or an error (memory). id >= 0. */
int fm_token_table_add(fm_token_table *table, const char *token, size_t size_bytes, int32_t id);

/* The id of a token, or -1. */
int32_t fm_token_table_find(const fm_token_table *table, const char *token, size_t size_bytes);

/* The bytes of an id's token, or NULL; not 0-terminated. */
const char *fm_token_table_get(const fm_token_table *table, int32_t id, size_t *size_bytes);

/* Sets what a pair merges to. Error: memory. */
int fm_merge_table_set(fm_merge_table *table, int32_t left, int32_t right, int32_t rank, int32_t new_id);

/* The merge of a pair, or NULL. */
const fm_merge *fm_merge_table_find(const fm_merge_table *table, int32_t left, int32_t right);

#endif
