#include "data/bpe_table.h"

#include "base/memory.h"

/* Open addressing, at most half full; sizes are powers of two. */
enum { FIRST_SLOTS = 1024 };

/* Spreads all bits of a word over all bits of the result (the finalizer of splitmix64). */
static inline uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint32_t hash_bytes(const char *bytes, size_t size_bytes)
{
    uint64_t hash = size_bytes;
    for (; size_bytes > sizeof(uint64_t); bytes += sizeof(uint64_t), size_bytes -= sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, bytes, sizeof word);
        hash = mix(hash ^ word) + 1;
    }
    uint64_t rest = 0;
    memcpy(&rest, bytes, size_bytes);
    return (uint32_t)mix(hash ^ rest);
}

void fm_token_table_free(fm_token_table *table)
{
    fm_bytes_free(&table->bytes);
    fm_free(table->places);
    fm_free(table->slots);
    *table = (fm_token_table){ 0 };
}

void fm_merge_table_free(fm_merge_table *table)
{
    fm_free(table->slots);
    *table = (fm_merge_table){ 0 };
}

const char *fm_token_table_get(const fm_token_table *table, int32_t id, size_t *size_bytes)
{
    if (id < 0 || id >= table->id_limit || table->places[id].begin == 0) {
        return NULL;
    }
    *size_bytes = table->places[id].size_bytes;
    return table->bytes.bytes + table->places[id].begin - 1;
}

/* The slot that holds the token, or the free one where it belongs. */
static fm_token_slot *token_slot(const fm_token_table *table, const char *token, size_t size_bytes, uint32_t hash)
{
    const uint32_t mask = (uint32_t)table->n_slots - 1;
    uint32_t at = hash & mask;
    for (; table->slots[at].id != 0; at = (at + 1) & mask) {
        if (table->slots[at].hash != hash) {
            continue;
        }
        const fm_token_place *const place = &table->places[table->slots[at].id - 1];
        if (place->size_bytes == size_bytes && memcmp(table->bytes.bytes + place->begin - 1, token, size_bytes) == 0) {
            break;
        }
    }
    return &table->slots[at];
}

static int grow_token_slots(fm_token_table *table)
{
    const int32_t n_slots = table->n_slots == 0 ? FIRST_SLOTS : table->n_slots * 2;
    fm_token_slot *const slots = fm_alloc_array(n_slots, sizeof *slots, FM_MEMORY_HOST);
    if (slots == NULL) {
        return FM_ERR_MEMORY;
    }
    const uint32_t mask = (uint32_t)n_slots - 1;
    for (int32_t i = 0; i < table->n_slots; i++) {
        uint32_t at = table->slots[i].hash & mask;
        while (table->slots[i].id != 0 && slots[at].id != 0) {
            at = (at + 1) & mask;
        }
        if (table->slots[i].id != 0) {
            slots[at] = table->slots[i];
        }
    }
    fm_free(table->slots);
    table->slots = slots;
    table->n_slots = n_slots;
    return FM_OK;
}

static int grow_places(fm_token_table *table, int32_t id)
{
    if (id >= table->id_capacity) {
        const int32_t capacity = id < FIRST_SLOTS ? FIRST_SLOTS : id + id / 2;
        fm_token_place *const places = fm_grow(table->places, (size_t)capacity * sizeof *places, FM_MEMORY_HOST);
        if (places == NULL) {
            return FM_ERR_MEMORY;
        }
        table->places = places;
        table->id_capacity = capacity;
    }
    if (id >= table->id_limit) {
        table->id_limit = id + 1;
    }
    return FM_OK;
}

int fm_token_table_add(fm_token_table *table, const char *token, size_t size_bytes, int32_t id)
{
    if (table->n_tokens >= table->n_slots / 2) {
        FM_TRY(grow_token_slots(table));
    }
    FM_TRY(grow_places(table, id));
    const uint32_t hash = hash_bytes(token, size_bytes);
    fm_token_slot *const slot = token_slot(table, token, size_bytes, hash);
    if (slot->id != 0 || table->places[id].begin != 0) {
        return 0;
    }
    const size_t begin = table->bytes.size_bytes + 1;
    FM_TRY(fm_bytes_append(&table->bytes, token, size_bytes));
    table->places[id] = (fm_token_place){ begin, size_bytes };
    *slot = (fm_token_slot){ hash, id + 1 };
    table->n_tokens++;
    return 1;
}

int32_t fm_token_table_find(const fm_token_table *table, const char *token, size_t size_bytes)
{
    return table->n_slots == 0 ? -1 : token_slot(table, token, size_bytes, hash_bytes(token, size_bytes))->id - 1;
}

static inline fm_merge *merge_slot(const fm_merge_table *table, int32_t left, int32_t right)
{
    const uint32_t mask = (uint32_t)table->n_slots - 1;
    uint32_t slot = (uint32_t)mix((uint64_t)(uint32_t)left << 32 | (uint32_t)right) & mask;
    while (table->slots[slot].left >= 0 && (table->slots[slot].left != left || table->slots[slot].right != right)) {
        slot = (slot + 1) & mask;
    }
    return &table->slots[slot];
}

static int grow_merges(fm_merge_table *table)
{
    fm_merge_table grown = { .n_slots = table->n_slots == 0 ? FIRST_SLOTS : table->n_slots * 2, .n_merges = table->n_merges };
    grown.slots = fm_alloc_array(grown.n_slots, sizeof *grown.slots, FM_MEMORY_HOST);
    if (grown.slots == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int32_t i = 0; i < grown.n_slots; i++) {
        grown.slots[i].left = -1;
    }
    for (int32_t i = 0; i < table->n_slots; i++) {
        if (table->slots[i].left >= 0) {
            *merge_slot(&grown, table->slots[i].left, table->slots[i].right) = table->slots[i];
        }
    }
    fm_free(table->slots);
    *table = grown;
    return FM_OK;
}

int fm_merge_table_set(fm_merge_table *table, int32_t left, int32_t right, int32_t rank, int32_t new_id)
{
    if (table->n_merges >= table->n_slots / 2) {
        FM_TRY(grow_merges(table));
    }
    fm_merge *const slot = merge_slot(table, left, right);
    table->n_merges += slot->left < 0;
    *slot = (fm_merge){ left, right, rank, new_id };
    return FM_OK;
}

const fm_merge *fm_merge_table_find(const fm_merge_table *table, int32_t left, int32_t right)
{
    if (table->n_slots == 0) {
        return NULL;
    }
    const fm_merge *const slot = merge_slot(table, left, right);
    return slot->left < 0 ? NULL : slot;
}
