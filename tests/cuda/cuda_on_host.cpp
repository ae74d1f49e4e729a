#include "cuda_on_host.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
/* fibers have stacks that the sanitizer does not know: its own stacks of returned functions would mix them up. Leaks are the libraries'. */
extern "C" __attribute__((weak)) const char *__asan_default_options(void)
{
    return "detect_stack_use_after_return=0:detect_leaks=0";
}
#else
#define ASAN_POISON_MEMORY_REGION(at, size_bytes) ((void)(at), (void)(size_bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, size_bytes) ((void)(at), (void)(size_bytes))
#endif

fm_host_thread *fm_host_now;
uint3 fm_host_block;
dim3 fm_host_block_dim, fm_host_grid_dim;

/* ---- stacks and switches ---- */

enum { MOST_THREADS = 1024, WARPS = MOST_THREADS / 32, STACK_BYTES = 256 << 10, GUARD_BYTES = 4096 };

#ifdef __x86_64__
/* Saves the registers that a called function must keep and the stack, and takes up the other ones. Some 15 times faster than
 * swapcontext, which calls the kernel for the signal mask. */
extern "C" void fm_host_switch(void **from, void *to);
__asm__(".text\n.p2align 4\n.globl fm_host_switch\n.hidden fm_host_switch\n.type fm_host_switch, @function\nfm_host_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size fm_host_switch, . - fm_host_switch\n");
typedef void *stack_state;
static void switch_stacks(stack_state *from, stack_state *to) { fm_host_switch(from, *to); }

static void prepare_stack(stack_state *state, char *stack, size_t size_bytes, void (*entry)(void))
{
    void **const top = (void **)(stack + size_bytes) - 8;   /* six registers, the entry, and its missing return address */
    memset(top, 0, 8 * sizeof *top);
    top[6] = (void *)entry;            /* entered at rsp % 16 == 8, as after a call */
    *state = top;
}
#else
typedef ucontext_t stack_state;
static void switch_stacks(stack_state *from, stack_state *to) { swapcontext(from, to); }

static void prepare_stack(stack_state *state, char *stack, size_t size_bytes, void (*entry)(void))
{
    getcontext(state);
    state->uc_stack.ss_sp = stack;
    state->uc_stack.ss_size = size_bytes;
    state->uc_link = NULL;
    makecontext(state, entry, 0);
}
#endif

/* ---- the state of the launch that runs ---- */

enum state { READY, AT_BARRIER, AT_MEETING, ENDED };

static fm_host_thread threads[MOST_THREADS];
static stack_state stacks[MOST_THREADS], scheduler;
static char *stack_memory;
static int turns[MOST_THREADS];        /* thread numbers in the order in which they run */
static int n_threads, ended;
static int barrier_line, barrier_arrived;
static fm_host_record records[WARPS][32];   /* a lane is in one meeting at most; all zero when a block has ended */
static unsigned records_used[WARPS];

static struct {
    const char *what;
    void (*body)(void *);
    void *context;
    size_t shared_bytes;
} launch;

static enum fm_host_order thread_order = FM_HOST_UP;
static uint64_t random_state = 1;
static int64_t launches;
static pthread_mutex_t one_launch = PTHREAD_MUTEX_INITIALIZER;

void fm_host_set_order(enum fm_host_order order, uint64_t seed)
{
    thread_order = order;
    random_state = seed * 2 + 1;
}

int64_t fm_host_launches(void)
{
    return launches;
}

void fm_host_fail(const char *format, ...)
{
    fprintf(stderr, "cuda_on_host: kernel \"%s\", block (%u, %u, %u) of (%u, %u, %u)", launch.what, fm_host_block.x, fm_host_block.y,
            fm_host_block.z, fm_host_grid_dim.x, fm_host_grid_dim.y, fm_host_grid_dim.z);
    if (fm_host_now != NULL) {
        fprintf(stderr, ", thread %d of %d", fm_host_now->linear, n_threads);
    }
    fprintf(stderr, ": ");
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    abort();
}

static void wait_as(enum state state)
{
    fm_host_now->state = state;
    switch_stacks(&stacks[fm_host_now->linear], &scheduler);
}

static void thread_entry(void)
{
    launch.body(launch.context);
    wait_as(ENDED);
}

/* ---- shared memory ----
 * One area for the block: static arrays from the front as threads first ask for them, the dynamic one behind a red zone of its own. */

enum { SHARED_MOST = 227 << 10, STATIC_MOST = 48 << 10, RED_BYTES = 64, PLACES = 32, AREA_BYTES = 512 << 10 };

static struct {
    const void *place;
    char *at;
} places[PLACES];
static int n_places;
alignas(128) static char area[AREA_BYTES];
static size_t area_used, static_bytes;
static void *dynamic_shared;

/* NaN as a float, bf16 or fp16, -1 as a number. */
static char *carve_area(size_t size_bytes)
{
    char *const at = area + area_used;
    const size_t padded = (size_bytes + 127) / 128 * 128 + 128;
    if (area_used + padded > AREA_BYTES) {
        fm_host_fail("asks for more shared memory than there is anywhere");
    }
    area_used += padded;
    ASAN_UNPOISON_MEMORY_REGION(at, size_bytes);
    memset(at, 0xff, size_bytes);
    return at;
}

static void open_shared(void)
{
    ASAN_POISON_MEMORY_REGION(area, AREA_BYTES);
    area_used = RED_BYTES * 2;
    static_bytes = 0;
    n_places = 0;
    dynamic_shared = carve_area(launch.shared_bytes);
}

void *fm_host_shared(const void *place, size_t size_bytes)
{
    for (int i = 0; i < n_places; i++) {
        if (places[i].place == place) {
            return places[i].at;
        }
    }
    static_bytes += size_bytes;
    if (n_places == PLACES || static_bytes > STATIC_MOST || static_bytes + launch.shared_bytes > SHARED_MOST) {
        fm_host_fail("has %zu bytes of static shared memory (of 49152) beside %zu of dynamic", static_bytes, launch.shared_bytes);
    }
    places[n_places].place = place;
    places[n_places].at = carve_area(size_bytes);
    return places[n_places++].at;
}

void *fm_host_shared_dynamic(void)
{
    return dynamic_shared;
}

/* ---- barriers and meetings ---- */

void fm_host_barrier(int line)
{
    if (barrier_arrived > 0 && barrier_line != line) {
        fm_host_fail("waits at the barrier in line %d while others wait at that in line %d", line, barrier_line);
    }
    barrier_line = line;
    if (++barrier_arrived < n_threads) {
        wait_as(AT_BARRIER);
        return;
    }
    barrier_arrived = 0;               /* the last one goes on at once: whoever overtakes the readers is seen */
    for (int i = 0; i < n_threads; i++) {
        threads[i].state = READY;
    }
}

/* The open meeting of these lanes, or a new one. */
static fm_host_record *find_record(unsigned mask, unsigned mine)
{
    const int warp = fm_host_now->warp;
    for (unsigned used = records_used[warp]; used != 0; used &= used - 1) {
        fm_host_record *const r = &records[warp][__builtin_ctz(used)];
        if (r->mask == mask && r->arrived != mask && (r->arrived & mine) == 0) {
            return r;
        }
    }
    if (records_used[warp] == 0xffffffffu) {
        fm_host_fail("has more than 32 exchanges under way in a warp");
    }
    const int i = __builtin_ctz(~records_used[warp]);
    records_used[warp] |= 1u << i;
    return &records[warp][i];
}

fm_host_record *fm_host_meet(unsigned mask, const void *mine, size_t size_bytes, int kind)
{
    const unsigned me = 1u << fm_host_now->lane;
    if ((mask & me) == 0) {
        fm_host_fail("lane %d takes part in an exchange of mask %#x", fm_host_now->lane, mask);
    }
    fm_host_record *const r = find_record(mask, me);
    if (r->mask == 0) {
        r->mask = mask;
        r->kind = kind;
        r->size_bytes = size_bytes;
    } else if (r->kind != kind || r->size_bytes != size_bytes) {
        fm_host_fail("lane %d meets others of mask %#x in another operation than theirs (kind %d of %zu bytes, not %d of %zu)",
                     fm_host_now->lane, mask, kind, size_bytes, r->kind, r->size_bytes);
    }
    memcpy(r->value[fm_host_now->lane], mine, size_bytes);
    r->arrived |= me;
    if (r->arrived != mask) {
        wait_as(AT_MEETING);
        return r;
    }
    const int first = fm_host_now->warp * 32;
    for (int lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1u) {
            threads[first + lane].state = READY;
        }
    }
    return r;
}

void fm_host_leave(fm_host_record *record)
{
    record->left |= 1u << fm_host_now->lane;
    if (record->left == record->mask) {
        record->mask = record->arrived = record->left = 0;
        records_used[fm_host_now->warp] &= ~(1u << (record - records[fm_host_now->warp]));
    }
}

/* ---- the scheduler ---- */

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void make_turns(void)
{
    for (int i = 0; i < n_threads; i++) {
        turns[i] = thread_order == FM_HOST_DOWN ? n_threads - 1 - i : i;
    }
    for (int i = n_threads - 1; thread_order == FM_HOST_SEEDED && i > 0; i--) {
        const int other = (int)(next_random() % (uint64_t)(i + 1)), kept = turns[i];
        turns[i] = turns[other];
        turns[other] = kept;
    }
}

/* No thread can go on: says where they stand. */
static void report_deadlock(void)
{
    int count[ENDED + 1] = { 0 };
    fm_host_now = NULL;
    for (int i = 0; i < n_threads; i++) {
        count[threads[i].state]++;
    }
    fm_host_fail("waits for ever: %d threads at the barrier in line %d, %d in an exchange within their warp, %d have ended",
                 count[AT_BARRIER], barrier_line, count[AT_MEETING], count[ENDED]);
}

/* Up and down, a warp runs as far as it can before the next has a turn: one that overtakes the others shows. Shuffled, all threads take
 * turns: lanes that rely on running together show. */
static int end_of_group(int from)
{
    int to = from + 1;
    while (to < n_threads && (thread_order == FM_HOST_SEEDED || threads[turns[to]].warp == threads[turns[from]].warp)) {
        to++;
    }
    return to;
}

/* Gives each thread of a group that can go on a turn; how many there were. */
static int run_group(int from, int to)
{
    int ran = 0;
    for (int i = from; i < to; i++) {
        fm_host_thread *const t = &threads[turns[i]];
        if (t->state == READY) {
            fm_host_now = t;
            switch_stacks(&scheduler, &stacks[t->linear]);
            ended += t->state == ENDED;
            ran++;
        }
    }
    return ran;
}

static void run_block(void)
{
    open_shared();
    make_turns();
    barrier_arrived = 0;
    for (int i = 0; i < n_threads; i++) {
        /* stacks that begin at the same place of a page would all want the same lines of the cache */
        prepare_stack(&stacks[i], stack_memory + (size_t)i * STACK_BYTES + GUARD_BYTES,
                      STACK_BYTES - GUARD_BYTES - (size_t)(i % 64) * 192, thread_entry);
        threads[i].state = READY;
    }
    for (ended = 0; ended < n_threads;) {
        bool moved = false;
        for (int from = 0, to; from < n_threads; from = to) {
            to = end_of_group(from);
            while (run_group(from, to) > 0) {
                moved = true;
            }
        }
        if (!moved) {
            report_deadlock();
        }
    }
    fm_host_now = NULL;
}

static void make_stacks(void)
{
    void *const at = mmap(NULL, (size_t)MOST_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) {
        perror("cuda_on_host: stacks");
        abort();
    }
    stack_memory = (char *)at;
    for (int i = 0; i < MOST_THREADS; i++) {
        mprotect(stack_memory + (size_t)i * STACK_BYTES, GUARD_BYTES, PROT_NONE);
    }
}

static void name_threads(dim3 block)
{
    n_threads = 0;
    for (unsigned z = 0; z < block.z; z++) {
        for (unsigned y = 0; y < block.y; y++) {
            for (unsigned x = 0; x < block.x; x++) {
                threads[n_threads].index = uint3{ x, y, z };
                threads[n_threads].linear = n_threads;
                threads[n_threads].lane = n_threads % 32;
                threads[n_threads].warp = n_threads / 32;
                n_threads++;
            }
        }
    }
}

static void run_grid(dim3 grid)
{
    const uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z, offset = thread_order == FM_HOST_SEEDED ? next_random() % blocks : 0;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t b = thread_order == FM_HOST_DOWN ? blocks - 1 - i : (i + offset) % blocks;
        fm_host_block = uint3{ (unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y) };
        run_block();
    }
}

cudaError_t fm_host_launch(const char *what, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void *), void *context)
{
    const uint64_t size = (uint64_t)block.x * block.y * block.z;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535 || size == 0 ||
        size > MOST_THREADS || block.z > 64) {
        return cudaErrorInvalidConfiguration;
    }
    if (shared_bytes > SHARED_MOST) {
        return cudaErrorInvalidValue;
    }
    pthread_mutex_lock(&one_launch);
    if (stack_memory == NULL) {
        make_stacks();
    }
    launches++;
    launch.what = what;
    launch.body = body;
    launch.context = context;
    launch.shared_bytes = shared_bytes;
    fm_host_grid_dim = grid;
    fm_host_block_dim = block;
    name_threads(block);
    run_grid(grid);
    pthread_mutex_unlock(&one_launch);
    return cudaSuccess;
}
