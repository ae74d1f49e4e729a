#include "memory.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include "settings.h"

enum { ALIGN = 256, GUARD = 256, POISON = 0xff, GUARD_BYTE = 0xa5 };
static const size_t arena_bytes = (size_t)1 << 36, poison_limit_bytes = (size_t)1 << 28;

typedef struct block {
    char *start;
    size_t size, room;                 /* asked for; with the guard */
    struct block *next;                /* by address */
} block;

typedef struct pin {
    void *start;
    size_t size;
    struct pin *next;
} pin;

static struct {
    char *arena;
    block *blocks;
    pin *pins;
    size_t used_bytes, high_bytes;     /* asked for; the end of the part of the arena that has been used */
    int protects;                      /* -1: not yet known */
    int loans;
    bool is_closed;
} memory = { .protects = -1 };

static size_t limit_bytes(void)
{
    return (size_t)setting("FM_DOUBLE_MEMORY_MIB", 4096) << 20;
}

void memory_open(void)
{
    if (memory.is_closed) {
        mprotect(memory.arena, memory.high_bytes, PROT_READ | PROT_WRITE);
        memory.is_closed = false;
    }
}

void memory_lend(int n)
{
    memory.loans += n;
}

void memory_close(void)
{
    if (memory.protects < 0) {
        memory.protects = setting("FM_DOUBLE_PROTECT", 0) != 0;
    }
    if (memory.protects > 0 && !memory.is_closed && memory.loans == 0 && memory.high_bytes > 0) {
        mprotect(memory.arena, memory.high_bytes, PROT_NONE);
        memory.is_closed = true;
    }
}

/* The first gap of the arena that is large enough: `*at` is the link that a block there goes into. */
static char *find_gap(block ***at, size_t room)
{
    char *start = memory.arena;
    block **link = &memory.blocks;
    while (*link != NULL && (size_t)((*link)->start - start) < room) {
        start = (*link)->start + (*link)->room;
        link = &(*link)->next;
    }
    *at = link;
    return (size_t)(memory.arena + arena_bytes - start) < room ? NULL : start;
}

cudaError_t memory_alloc(void **out, size_t size)
{
    if (size == 0) {
        *out = NULL;
        return cudaSuccess;
    }
    if (memory.arena == NULL) {
        void *const arena = mmap(NULL, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (arena == MAP_FAILED) {
            return cudaErrorMemoryAllocation;
        }
        memory.arena = arena;
    }
    if (size > arena_bytes || memory.used_bytes + size > limit_bytes()) {
        return cudaErrorMemoryAllocation;
    }
    const size_t room = (size + GUARD + ALIGN - 1) / ALIGN * ALIGN;
    block **at, *const made = malloc(sizeof *made);
    char *const start = find_gap(&at, room);
    if (start == NULL || made == NULL) {
        free(made);
        return cudaErrorMemoryAllocation;
    }
    *made = (block){ .start = start, .size = size, .room = room, .next = *at };
    *at = made;
    memory.used_bytes += size;
    memory_open();
    const size_t end = (size_t)(start - memory.arena) + room;
    memory.high_bytes = end > memory.high_bytes ? (end + 4095) / 4096 * 4096 : memory.high_bytes;
    memset(start, POISON, size < poison_limit_bytes ? size : poison_limit_bytes);
    memset(start + size, GUARD_BYTE, room - size);
    memory_close();
    *out = start;
    return cudaSuccess;
}

cudaError_t memory_free(void *pointer)
{
    block **at = &memory.blocks;
    while (*at != NULL && (*at)->start != pointer) {
        at = &(*at)->next;
    }
    block *const gone = *at;
    if (gone == NULL) {
        return pointer == NULL ? cudaSuccess : cudaErrorInvalidValue;
    }
    memory_open();
    for (size_t i = gone->size; i < gone->room; i++) {
        if ((unsigned char)gone->start[i] != GUARD_BYTE) {
            fprintf(stderr, "cuda double: %zu bytes of device memory were written %zu bytes behind their end\n", gone->size,
                    i - gone->size);
            abort();
        }
    }
    memset(gone->start, POISON, gone->size < poison_limit_bytes ? gone->size : poison_limit_bytes);
    memory_close();
    memory.used_bytes -= gone->size;
    *at = gone->next;
    free(gone);
    return cudaSuccess;
}

void memory_info(size_t *free_bytes, size_t *total_bytes)
{
    *total_bytes = limit_bytes();
    *free_bytes = *total_bytes - memory.used_bytes;
}

bool cuda_double_is_device(const void *pointer, size_t size)
{
    const char *const p = pointer;
    for (const block *b = memory.blocks; b != NULL; b = b->next) {
        if (p >= b->start && p < b->start + b->size) {
            return size <= b->size - (size_t)(p - b->start);
        }
    }
    return false;
}

cudaError_t memory_pin(void **out, size_t size)
{
    pin *const made = malloc(sizeof *made);
    void *start = NULL;
    if (made == NULL || posix_memalign(&start, 4096, size == 0 ? 1 : size) != 0) {
        free(made);
        return cudaErrorMemoryAllocation;
    }
    *made = (pin){ .start = start, .size = size, .next = memory.pins };
    memory.pins = made;
    memset(start, POISON, size);
    *out = start;
    return cudaSuccess;
}

cudaError_t memory_unpin(void *pointer)
{
    for (pin **at = &memory.pins; *at != NULL; at = &(*at)->next) {
        if ((*at)->start == pointer) {
            pin *const gone = *at;
            *at = gone->next;
            free(gone->start);
            free(gone);
            return cudaSuccess;
        }
    }
    return pointer == NULL ? cudaSuccess : cudaErrorInvalidValue;
}

bool memory_is_pinned(const void *pointer)
{
    const char *const p = pointer;
    for (const pin *b = memory.pins; b != NULL; b = b->next) {
        if (p >= (char *)b->start && p < (char *)b->start + b->size) {
            return true;
        }
    }
    return false;
}
