#include "mesh/watch.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/text.h"
#include "mesh/comm_backend.h"

enum { HOST_BYTES = 64, MOST_NAMED = 8 };

enum { QUESTION_TAG, ANSWER_TAG, FAILURE_TAG, TAGS };

/* What ranks tell each other. */
typedef struct {
    fm_watch_place place;
    int64_t step;
    double waited_s;
} report;

/* A message under way: it lies here until it is sent, whatever the rank does meanwhile. */
typedef struct {
    report what;
    MPI_Request request;
} message;

struct fm_watch {
    MPI_Comm comm;                     /* of its own: the others are in the middle of something */
    int rank, n_ranks;
    double limit_s, looked_s;
    int64_t step;
    fm_watch_end *end;
    void *context;
    char (*hosts)[HOST_BYTES];         /* [n_ranks] */
    report own;                        /* what the others are told when they ask */
    message *messages;                 /* [n_ranks][TAGS]: to whom, and which */
    report *reports;                   /* [n_ranks]: of those who answered */
    bool *answered;                    /* [n_ranks] */
    bool asks;                         /* this rank is beyond the limit */
    int lowest_asking;
    int failed;                        /* the first rank whose failure is known; -1: none */
};

int fm_watch_new(fm_watch **out, double limit_s, const void *mpi_comm, fm_watch_end *end, void *context)
{
    char name[MPI_MAX_PROCESSOR_NAME] = "", host[HOST_BYTES];
    int length, n_ranks;
    fm_watch *const w = fm_alloc(sizeof *w, FM_MEMORY_HOST);
    *out = NULL;
    MPI_Comm_size(*(const MPI_Comm *)mpi_comm, &n_ranks);
    if (w != NULL) {
        w->hosts = fm_alloc_array(n_ranks, sizeof *w->hosts, FM_MEMORY_HOST);
        w->reports = fm_alloc_array(n_ranks, sizeof *w->reports, FM_MEMORY_HOST);
        w->answered = fm_alloc_array(n_ranks, sizeof *w->answered, FM_MEMORY_HOST);
        w->messages = fm_alloc_array((int64_t)n_ranks * TAGS, sizeof *w->messages, FM_MEMORY_HOST);
    }
    int good = w != NULL && w->hosts != NULL && w->reports != NULL && w->answered != NULL && w->messages != NULL;
    MPI_Allreduce(MPI_IN_PLACE, &good, 1, MPI_INT, MPI_MIN, *(const MPI_Comm *)mpi_comm);
    if (!good) {
        fm_watch_destroy(w);
        return fm_fail(FM_ERR_MEMORY, "out of memory: the watchdog over %d ranks", n_ranks);
    }
    MPI_Comm_dup(*(const MPI_Comm *)mpi_comm, &w->comm);
    MPI_Comm_rank(w->comm, &w->rank);
    w->n_ranks = w->lowest_asking = n_ranks;
    for (int m = 0; m < n_ranks * TAGS; m++) {
        w->messages[m].request = MPI_REQUEST_NULL;
    }
    w->failed = -1;
    w->limit_s = limit_s;
    w->end = end;
    w->context = context;
    MPI_Get_processor_name(name, &length);
    snprintf(host, sizeof host, "%.*s", HOST_BYTES - 1, name);
    MPI_Allgather(host, HOST_BYTES, MPI_CHAR, w->hosts, HOST_BYTES, MPI_CHAR, w->comm);
    *out = w;
    return FM_OK;
}

void fm_watch_step(fm_watch *w, int64_t step)
{
    if (w != NULL) {
        w->step = step;
    }
}

void fm_comm_set_watch(fm_comm *comm, fm_watch *watch)
{
    if (comm != NULL) {
        comm->watch = watch;
    }
}

void fm_groups_set_watch(fm_groups *groups, fm_watch *watch)
{
    for (int g = 0; groups != NULL && g < FM_GROUPS; g++) {
        fm_comm_set_watch(fm_groups_get(groups, (enum fm_group)g), watch);
    }
}

/* One message of a kind is under way to a rank at most: it says as much as the next one would. */
static void tell(fm_watch *w, int to, int tag)
{
    int sent;
    message *const m = &w->messages[to * TAGS + tag];
    MPI_Test(&m->request, &sent, MPI_STATUS_IGNORE);
    if (sent) {
        m->what = w->own;
        MPI_Isend(&m->what, sizeof m->what, MPI_BYTE, to, tag, w->comm, &m->request);
    }
}

/* Takes what has come: answers, and questions, which are answered and say as much as an answer. */
static void listen(fm_watch *w)
{
    for (;;) {
        int there;
        MPI_Status status;
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, w->comm, &there, &status);
        if (!there) {
            return;
        }
        const int from = status.MPI_SOURCE;
        MPI_Recv(&w->reports[from], sizeof w->reports[from], MPI_BYTE, from, status.MPI_TAG, w->comm, MPI_STATUS_IGNORE);
        w->answered[from] = true;
        if (status.MPI_TAG == FAILURE_TAG && w->failed < 0) {
            w->failed = from;
        } else if (status.MPI_TAG == QUESTION_TAG) {
            w->lowest_asking = from < w->lowest_asking ? from : w->lowest_asking;
            if (!w->asks) {
                tell(w, from, ANSWER_TAG);
            }
        }
    }
}

/* Whether all that this rank has told the others is sent; what is not yet has so many seconds. */
static bool finish_messages(fm_watch *w)
{
    const double patience_s = 10.0, begin_s = fm_clock_s();
    int sent = 1;
    do {
        sent = 1;
        for (int m = 0; m < w->n_ranks * TAGS && sent; m++) {
            MPI_Test(&w->messages[m].request, &sent, MPI_STATUS_IGNORE);
        }
        listen(w);                     /* the others may have messages under way to this rank */
    } while (!sent && fm_clock_s() - begin_s < patience_s);
    return sent;
}

void fm_watch_destroy(fm_watch *w)
{
    if (w == NULL) {
        return;
    }
    const bool is_sent = w->n_ranks == 0 || finish_messages(w);
    if (w->n_ranks > 0) {
        MPI_Comm_free(&w->comm);
    }
    if (is_sent) {                     /* else MPI may yet read them */
        fm_free(w->messages);
    }
    fm_free(w->hosts);
    fm_free(w->reports);
    fm_free(w->answered);
    fm_free(w);
}

void fm_watch_tell_failure(fm_watch *w)
{
    if (w == NULL || w->failed >= 0) {
        return;
    }
    w->failed = w->rank;
    for (int r = 0; r < w->n_ranks; r++) {
        if (r != w->rank) {
            tell(w, r, FAILURE_TAG);
        }
    }
}

int fm_watch_failed(const fm_watch *w)
{
    return w->failed;
}

/* "rank 2 on node7", "ranks 2 on node7 and 3 on node7"; the first few of those that did or did not answer. */
static int add_ranks(fm_text *text, const fm_watch *w, bool answered)
{
    int n = 0, named = 0;
    for (int r = 0; r < w->n_ranks; r++) {
        n += w->answered[r] == answered;
    }
    fm_text_add(text, n == 1 ? "rank" : "ranks");
    for (int r = 0; r < w->n_ranks && named < MOST_NAMED; r++) {
        if (w->answered[r] == answered) {
            fm_text_add(text, "%s %d on %s", named == 0 ? "" : named == n - 1 ? " and" : ",", r, w->hosts[r]);
            named++;
        }
    }
    if (n > named) {
        fm_text_add(text, " and %d more", n - named);
    }
    return n;
}

static void add_place(fm_text *text, const report *r)
{
    fm_text_add(text, "%s %lld of the group %s", r->place.operation, (long long)r->place.number, r->place.group);
    if (r->step > 0) {
        fm_text_add(text, ", step %lld", (long long)r->step);
    }
}

static void describe(const fm_watch *w)
{
    fm_text text = { 0 };
    int n_silent = 0;
    for (int r = 0; r < w->n_ranks; r++) {
        n_silent += !w->answered[r];
    }
    if (n_silent > 0) {
        add_ranks(&text, w, false);
        fm_text_add(&text, n_silent == 1 ? " does not come to " : " do not come to ");
        add_place(&text, &w->reports[w->rank]);
        fm_text_add(&text, ": ");
        const int waiting = add_ranks(&text, w, true);
        fm_text_add(&text, " %s waited for %.0f s", waiting == 1 ? "has" : "have", w->reports[w->rank].waited_s);
    } else {
        fm_text_add(&text, "all ranks have waited for each other for %.0f s:", w->reports[w->rank].waited_s);
        for (int r = 0; r < w->n_ranks && r < MOST_NAMED; r++) {
            fm_text_add(&text, "%s rank %d in ", r == 0 ? "" : ";", r);
            add_place(&text, &w->reports[r]);
        }
    }
    fm_text_add(&text, ". job.watchdog = %.0f s ends the run. Look at what holds it there; the same command goes on from the last complete "
                "checkpoint.", w->limit_s);
    fm_fail(FM_ERR_COMM, "%s", text.failed ? "the watchdog has no memory for its sentence" : fm_text_get(&text));
    fm_text_clear(&text);
}

/* Beyond the limit: asks, gives the others time to answer, and ends the run; the lowest of those who ask does. */
static void ask(fm_watch *w)
{
    const double patience_s = 2.0, begin_s = fm_clock_s();
    w->asks = true;
    w->reports[w->rank] = w->own;
    w->answered[w->rank] = true;
    w->lowest_asking = w->rank < w->lowest_asking ? w->rank : w->lowest_asking;
    for (int r = 0; r < w->n_ranks; r++) {
        if (r != w->rank) {
            tell(w, r, QUESTION_TAG);
        }
    }
    while (fm_clock_s() - begin_s < patience_s * (w->lowest_asking == w->rank ? 1.0 : 3.0)) {
        listen(w);
        nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
    }
    describe(w);
    w->end(w->context);
}

void fm_watch_look(fm_watch *w, double *since_s, const fm_watch_place *place)
{
    const double now = fm_clock_s(), interval_s = 0.1;
    if (*since_s == 0.0) {
        *since_s = now;
    }
    if (now - w->looked_s < interval_s) {
        return;
    }
    w->looked_s = now;
    w->own = (report){ .place = *place, .step = w->step, .waited_s = now - *since_s };
    listen(w);
    if (w->limit_s > 0.0 && w->end != NULL && now - *since_s > w->limit_s) {
        ask(w);
    }
}
