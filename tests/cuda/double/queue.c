#include "queue.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "memory.h"
#include "settings.h"

enum kind { RUN, POLL, RECORD, WAIT };

typedef struct operation {
    enum kind kind;
    bool started;                      /* a POLL that has been called and is not done */
    cuda_double_run *run;
    cuda_double_poll *poll;
    void *arguments;
    cudaEvent_t event;
    long ticket;                       /* of the event: the how-manieth record */
    struct operation *next;
} operation;

struct CUstream_st {
    operation *head, **tail;
    bool destroyed;                    /* freed when it is empty */
    struct CUstream_st *next;
};

struct CUevent_st {
    cudaStream_t stream;               /* of the last record */
    long recorded, done;               /* tickets: given, and come to pass */
    int users;                         /* operations that name it, and its owner */
    bool timed;
    double at_ms;
};

/* What is waited for: an event's ticket, or (event NULL) the end of the stream. */
typedef struct {
    cudaStream_t stream;
    cudaEvent_t event;
    long ticket;
} goal;

static struct {
    pthread_mutex_t lock;
    struct CUstream_st standard, *streams;
    cudaError_t error;
    long n_run;
    enum { UNKNOWN, LATE, EARLY, RANDOM } order;
    uint32_t random;
} queues;

static void lock_queues(void)
{
    if (queues.order == UNKNOWN) {
        const char *const order = getenv("FM_DOUBLE_STREAMS");
        queues.order = order == NULL || strcmp(order, "late") == 0 ? LATE : strcmp(order, "early") == 0 ? EARLY : RANDOM;
        queues.random = 2654435761u * (uint32_t)setting("FM_DOUBLE_STREAMS", 1) + 1u;
        pthread_mutexattr_t recursive;
        pthread_mutexattr_init(&recursive);
        pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
        pthread_mutex_init(&queues.lock, &recursive);
        queues.standard.tail = &queues.standard.head;
        queues.streams = &queues.standard;
    }
    pthread_mutex_lock(&queues.lock);
}

static void unlock_queues(void)
{
    pthread_mutex_unlock(&queues.lock);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

cudaStream_t queue_of(cudaStream_t stream)
{
    return stream == NULL ? &queues.standard : stream;
}

cudaError_t queue_error(void)
{
    return queues.error;
}

static void leave_event(cudaEvent_t event)
{
    if (--event->users == 0) {
        free(event);
    }
}

/* ---- running ---- */

static void pop(cudaStream_t stream)
{
    operation *const o = stream->head;
    stream->head = o->next;
    if (stream->head == NULL) {
        stream->tail = &stream->head;
    }
    if (o->event != NULL) {
        leave_event(o->event);
    }
    free(o);
}

static void run_once(const operation *o)
{
    const int failure = setting_failure("FM_DOUBLE_FAIL", "run", &queues.n_run);
    if (failure != 0) {
        queues.error = (cudaError_t)failure;
    }
    o->run(o->arguments);
}

static bool poll_once(operation *o)
{
    if (!o->started) {
        memory_lend(1);
        o->started = true;
    }
    if (!o->poll(o->arguments)) {
        return false;
    }
    memory_lend(-1);
    return true;
}

/* The first operation of a stream, where it can be done now. */
static bool run_head(cudaStream_t stream)
{
    operation *const o = stream->head;
    if (o == NULL || (o->kind == WAIT && o->event->done < o->ticket) || (o->kind == POLL && !poll_once(o))) {
        return false;
    }
    if (o->kind == RUN) {
        run_once(o);
    } else if (o->kind == RECORD) {
        o->event->done = o->ticket;
        o->event->at_ms = now_ms();
    }
    pop(stream);
    return true;
}

static bool is_reached(const goal *g)
{
    return g->event != NULL ? g->event->done >= g->ticket : g->stream->head == NULL;
}

/* No more than the goal needs. True where something has moved. */
static bool advance(const goal *g, int depth)
{
    bool moved = false;
    while (!is_reached(g) && g->stream->head != NULL) {
        const operation *const o = g->stream->head;
        if (!run_head(g->stream)) {
            const bool waits = o->kind == WAIT && depth < 32;
            const goal before = { .stream = waits ? o->event->stream : NULL, .event = o->event, .ticket = o->ticket };
            if (!waits || !advance(&before, depth + 1)) {
                return moved;
            }
        }
        moved = true;
    }
    return moved;
}

static bool run_others(cudaStream_t but, bool all_of_each)
{
    bool moved = false;
    for (cudaStream_t s = queues.streams; s != NULL; s = s->next) {
        while (s != but && run_head(s)) {
            moved = true;
            if (!all_of_each) {
                break;
            }
        }
    }
    return moved;
}

static bool run_any(void)
{
    bool moved = false;
    for (cudaStream_t s = queues.streams; s != NULL; s = s->next) {
        queues.random = queues.random * 1664525u + 1013904223u;
        moved = (queues.random >> 24 & 1u && run_head(s)) || moved;
    }
    return moved || run_others(NULL, false);
}

static bool go_on(const goal *g)
{
    bool moved;
    switch (queues.order) {
    case EARLY: {
        const bool others = run_others(g->stream, true);
        moved = run_head(g->stream) || others;
        break;
    }
    case RANDOM: moved = run_any(); break;
    default: moved = advance(g, 0) || run_others(g->stream, false);
    }
    return moved;
}

static bool try(const goal *g)
{
    lock_queues();
    memory_open();
    while (!is_reached(g) && go_on(g)) {
    }
    const bool reached = is_reached(g);
    memory_close();
    unlock_queues();
    return reached;
}

static void finish(const goal *g)
{
    while (!try(g)) {
        const struct timespec pause = { .tv_sec = 0, .tv_nsec = 20000 };
        nanosleep(&pause, NULL);
    }
}

static goal end_of(cudaStream_t stream)
{
    return (goal){ .stream = queue_of(stream) };
}

static goal event_goal(cudaEvent_t event)
{
    return (goal){ .stream = event->stream == NULL ? &queues.standard : event->stream, .event = event, .ticket = event->recorded };
}

void queue_finish_stream(cudaStream_t stream)
{
    const goal g = end_of(stream);
    finish(&g);
}

void queue_finish_event(cudaEvent_t event)
{
    const goal g = event_goal(event);
    finish(&g);
}

void queue_finish_all(void)
{
    lock_queues();
    for (cudaStream_t s = queues.streams; s != NULL; s = s->next) {
        queue_finish_stream(s);
    }
    unlock_queues();
}

bool queue_query_stream(cudaStream_t stream)
{
    const goal g = end_of(stream);
    return try(&g);
}

bool queue_query_event(cudaEvent_t event)
{
    const goal g = event_goal(event);
    return try(&g);
}

void queue_progress(void)
{
    lock_queues();
    memory_open();
    run_others(NULL, true);
    memory_close();
    unlock_queues();
}

/* ---- queueing ---- */

static cudaError_t put(cudaStream_t stream, const operation *what)
{
    operation *const o = malloc(sizeof *o);
    if (o == NULL) {
        return cudaErrorMemoryAllocation;
    }
    *o = *what;
    lock_queues();
    stream = queue_of(stream);
    *stream->tail = o;
    stream->tail = &o->next;
    if (o->event != NULL) {
        o->event->users++;
    }
    unlock_queues();
    return cudaSuccess;
}

cudaError_t cuda_double_enqueue(cudaStream_t stream, cuda_double_run *run, void *arguments)
{
    return put(stream, &(operation){ .kind = RUN, .run = run, .arguments = arguments });
}

cudaError_t cuda_double_enqueue_poll(cudaStream_t stream, cuda_double_poll *poll, void *arguments)
{
    return put(stream, &(operation){ .kind = POLL, .poll = poll, .arguments = arguments });
}

void queue_record(cudaStream_t stream, cudaEvent_t event)
{
    event->stream = queue_of(stream);
    put(stream, &(operation){ .kind = RECORD, .event = event, .ticket = ++event->recorded });
}

void queue_wait(cudaStream_t stream, cudaEvent_t event)
{
    if (event->recorded > 0) {         /* waiting for what was never recorded is nothing */
        put(stream, &(operation){ .kind = WAIT, .event = event, .ticket = event->recorded });
    }
}

/* ---- streams and events ---- */

cudaStream_t queue_new_stream(void)
{
    const cudaStream_t stream = calloc(1, sizeof *stream);
    if (stream != NULL) {
        lock_queues();
        stream->tail = &stream->head;
        stream->next = queues.streams;
        queues.streams = stream;
        unlock_queues();
    }
    return stream;
}

/* What is queued still runs, as on a GPU, but the double does not come back to it: it runs now. */
void queue_destroy_stream(cudaStream_t stream)
{
    queue_finish_stream(stream);
    lock_queues();
    for (cudaStream_t *at = &queues.streams; *at != NULL; at = &(*at)->next) {
        if (*at == stream) {
            *at = stream->next;
            free(stream);
            break;
        }
    }
    unlock_queues();
}

cudaEvent_t queue_new_event(bool timed)
{
    const cudaEvent_t event = calloc(1, sizeof *event);
    if (event != NULL) {
        event->users = 1;
        event->timed = timed;
    }
    return event;
}

void queue_destroy_event(cudaEvent_t event)
{
    lock_queues();
    leave_event(event);
    unlock_queues();
}

bool queue_elapsed_ms(float *out, cudaEvent_t from, cudaEvent_t to)
{
    if (!from->timed || !to->timed || from->recorded == 0 || to->recorded == 0 || from->done < from->recorded ||
        to->done < to->recorded) {
        return false;
    }
    *out = (float)(to->at_ms - from->at_ms);
    return true;
}
