#include "base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Stands in front of every block; as large as the alignment, so that the block keeps it. */
typedef struct {
    size_t size_bytes;
    enum fm_memory kind;
    uint32_t magic;
    char padding[48];
} block_header;

enum { ALIGNMENT = 64, MAGIC = 0x464d424cu };

_Static_assert(sizeof(block_header) == ALIGNMENT, "the header must keep the alignment of the block");

/* The counters are the allocator's own, as malloc's are: they cannot change what a caller computes. */
static _Atomic size_t used[FM_MEMORY_KINDS + 1];
static _Atomic size_t peak[FM_MEMORY_KINDS + 1];
static _Atomic int64_t fail_countdown;

const char *fm_memory_name(enum fm_memory kind)
{
    static const char *const names[] = {
#define MEMORY_NAME(name, text) text,
        FM_MEMORY_LIST(MEMORY_NAME)
#undef MEMORY_NAME
        "all",
    };
    return names[kind];
}

static void count_up(enum fm_memory kind, size_t size_bytes)
{
    const size_t now = atomic_fetch_add(&used[kind], size_bytes) + size_bytes;
    size_t most = atomic_load(&peak[kind]);
    while (now > most && !atomic_compare_exchange_weak(&peak[kind], &most, now)) {
    }
}

static bool must_fail(void)
{
    return atomic_load(&fail_countdown) > 0 && atomic_fetch_sub(&fail_countdown, 1) == 1;
}

void *fm_alloc(size_t size_bytes, enum fm_memory kind)
{
    /* calloc, not memset: fresh pages of a large block come zeroed and untouched from the system */
    const size_t total = size_bytes + 2 * ALIGNMENT;
    char *raw = total < size_bytes || must_fail() ? NULL : calloc(1, total);
    if (raw == NULL) {
        fm_fail(FM_ERR_MEMORY, "out of memory: %zu bytes asked for %s, %zu bytes in use", size_bytes, fm_memory_name(kind),
                fm_memory_used_bytes(FM_MEMORY_KINDS));
        return NULL;
    }
    char *block = raw + ALIGNMENT + (ALIGNMENT - (uintptr_t)raw % ALIGNMENT) % ALIGNMENT;
    block_header *header = (block_header *)(void *)block - 1;
    *header = (block_header){ .size_bytes = size_bytes, .kind = kind, .magic = MAGIC };
    memcpy(header->padding, &raw, sizeof raw);
    count_up(kind, size_bytes);
    count_up(FM_MEMORY_KINDS, size_bytes);
    return block;
}

void fm_memory_expect_use(void *block, size_t size_bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)block + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)block + size_bytes) / page * page;
    if (first < end) {                 /* advice alone: whether it is taken makes no difference to what comes out */
        madvise((void *)first, end - first, MADV_HUGEPAGE);
    }
}

void fm_memory_populate(void *block, size_t size_bytes)
{
#ifdef MADV_POPULATE_WRITE
    enum { PART_BYTES = 16 << 20 };    /* a call keeps others from getting or giving back address space */
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), end = ((uintptr_t)block + size_bytes) / page * page;
    for (uintptr_t at = ((uintptr_t)block + page - 1) / page * page; at < end; at += PART_BYTES) {
        if (madvise((void *)at, end - at < PART_BYTES ? end - at : PART_BYTES, MADV_POPULATE_WRITE) != 0) {
            return;                    /* an older system: they come when they are used */
        }
    }
#endif
}

void *fm_alloc_array(int64_t count, size_t size_bytes, enum fm_memory kind)
{
    size_t total;
    if (count < 0 || __builtin_mul_overflow((size_t)count, size_bytes, &total)) {
        fm_fail(FM_ERR_MEMORY, "%lld elements of %zu bytes were asked for %s", (long long)count, size_bytes, fm_memory_name(kind));
        return NULL;
    }
    return fm_alloc(total, kind);
}

void *fm_grow(void *old, size_t size_bytes, enum fm_memory kind)
{
    void *grown = fm_alloc(size_bytes, kind);
    if (grown != NULL && old != NULL) {
        const size_t old_bytes = ((block_header *)old - 1)->size_bytes;
        memcpy(grown, old, old_bytes < size_bytes ? old_bytes : size_bytes);
        fm_free(old);
    }
    return grown;
}

char *fm_strdup(const char *text)
{
    const size_t size_bytes = strlen(text) + 1;
    char *copy = fm_alloc(size_bytes, FM_MEMORY_HOST);
    return copy == NULL ? NULL : memcpy(copy, text, size_bytes);
}

void fm_free(void *pointer)
{
    if (pointer == NULL) {
        return;
    }
    block_header *header = (block_header *)pointer - 1;
    FM_ASSERT(header->magic == MAGIC);
    header->magic = 0;
    atomic_fetch_sub(&used[header->kind], header->size_bytes);
    atomic_fetch_sub(&used[FM_MEMORY_KINDS], header->size_bytes);
    char *raw;
    memcpy(&raw, header->padding, sizeof raw);
    free(raw);
}

void *fm_carve(void *base, size_t *used_bytes, int64_t elements, size_t size_bytes)
{
    void *const at = base == NULL ? NULL : (char *)base + *used_bytes;
    *used_bytes += ((size_t)elements * size_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

void fm_memory_note(enum fm_memory kind, int64_t change_bytes)
{
    if (change_bytes >= 0) {
        count_up(kind, (size_t)change_bytes);
        count_up(FM_MEMORY_KINDS, (size_t)change_bytes);
    } else {
        atomic_fetch_sub(&used[kind], (size_t)-change_bytes);
        atomic_fetch_sub(&used[FM_MEMORY_KINDS], (size_t)-change_bytes);
    }
}

size_t fm_memory_used_bytes(enum fm_memory kind)
{
    return atomic_load(&used[kind]);
}

size_t fm_memory_peak_bytes(enum fm_memory kind)
{
    return atomic_load(&peak[kind]);
}

void fm_memory_forget_peaks(void)
{
    for (int kind = 0; kind <= FM_MEMORY_KINDS; kind++) {
        atomic_store(&peak[kind], atomic_load(&used[kind]));
    }
}

void fm_memory_fail_at(int64_t n)
{
    atomic_store(&fail_countdown, n);
}
