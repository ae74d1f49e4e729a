/* Pipeline tables: every schedule over many sizes is proved, compared with the known formulas, and run by a small executor that
 * knows no ticks; tables that were spoiled are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "parallel/pipeline.h"

enum { MAX_RANKS = 8, MAX_CHUNKS = 4, MAX_MICROBATCHES = 24, MAX_STAGES = MAX_RANKS * MAX_CHUNKS };

typedef void table_check(const fm_pipeline *p);

static bool is_legal(enum fm_pipeline_schedule schedule, int chunks)
{
    return chunks == 1 || schedule == FM_PIPELINE_GPIPE || schedule == FM_PIPELINE_INTERLEAVED_1F1B;
}

static void for_all_tables(table_check *check)
{
    for (int schedule = FM_PIPELINE_GPIPE; schedule <= FM_PIPELINE_ZB; schedule++) {
        for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
            for (int chunks = 1; chunks <= MAX_CHUNKS; chunks++) {
                for (int m = 1; m <= MAX_MICROBATCHES && is_legal((enum fm_pipeline_schedule)schedule, chunks); m++) {
                    fm_pipeline p;
                    assert_int_equal(fm_pipeline_emit(&p, (enum fm_pipeline_schedule)schedule, ranks, chunks, m), FM_OK);
                    check(&p);
                    fm_pipeline_clear(&p);
                }
            }
        }
    }
}

static void check_is_proved(const fm_pipeline *p)
{
    if (fm_pipeline_check(p) < 0) {
        fail_msg("schedule %d: %s", (int)p->schedule, fm_error_message());
    }
}

static void every_table_is_proved(void **state)
{
    for_all_tables(check_is_proved);
}

/* ---- an executor: each rank runs its rows in order; a message is a microbatch number in a queue of its stage and direction
 * ---- */

typedef struct {
    int sent[2][MAX_STAGES][MAX_MICROBATCHES];
    int n_sent[2][MAX_STAGES], n_received[2][MAX_STAGES];      /* forward and backward, by the stage that receives */
} mailbox;

static bool receive(mailbox *mail, int direction, int stage, int microbatch)
{
    if (mail->n_received[direction][stage] == mail->n_sent[direction][stage]) {
        return false;
    }
    assert_int_equal(mail->sent[direction][stage][mail->n_received[direction][stage]++], microbatch);
    return true;
}

static void send(mailbox *mail, int direction, int stage, int microbatch)
{
    mail->sent[direction][stage][mail->n_sent[direction][stage]++] = microbatch;
}

/* False where the row must wait for a message. held: activations of each stage and microbatch that are there. */
static bool run_row(mailbox *mail, int held[MAX_STAGES][MAX_MICROBATCHES], const fm_pipeline *p, const fm_pipeline_row *row)
{
    const int stage = row->chunk * p->ranks + row->rank, last = p->ranks * p->chunks - 1, m = row->microbatch;
    int *const parts = &held[stage][m];
    if (row->action == FM_ACTION_FORWARD) {
        if (stage > 0 && !receive(mail, 0, stage, m)) {
            return false;
        }
        assert_int_equal(*parts, 0);
        *parts = 2;
        if (stage < last) {
            send(mail, 0, stage + 1, m);
        }
        return true;
    }
    if (row->action != FM_ACTION_BACKWARD_WEIGHT) {
        if (stage < last && !receive(mail, 1, stage, m)) {
            return false;
        }
        assert_int_equal(*parts, 2);
        if (stage > 0) {
            send(mail, 1, stage - 1, m);
        }
    } else {
        assert_int_equal(*parts, 1);
    }
    *parts = row->action == FM_ACTION_BACKWARD_INPUT ? 1 : -1;
    return true;
}

static void check_runs(const fm_pipeline *p)
{
    static mailbox mail;
    static int held[MAX_STAGES][MAX_MICROBATCHES];
    memset(&mail, 0, sizeof mail);
    memset(held, 0, sizeof held);
    int next[MAX_RANKS], left = p->n_rows;
    memcpy(next, p->first, (size_t)p->ranks * sizeof *next);
    for (bool moved = true; moved;) {
        moved = false;
        for (int r = p->ranks - 1; r >= 0; r--) {
            while (next[r] < p->first[r + 1] && run_row(&mail, held, p, &p->rows[next[r]])) {
                next[r]++;
                left--;
                moved = true;
            }
        }
    }
    assert_int_equal(left, 0);
    for (int stage = 0; stage < p->ranks * p->chunks; stage++) {
        assert_int_equal(mail.n_received[0][stage], stage == 0 ? 0 : p->microbatches);
        assert_int_equal(mail.n_received[1][stage], stage == p->ranks * p->chunks - 1 ? 0 : p->microbatches);
        for (int m = 0; m < p->microbatches; m++) {
            assert_int_equal(held[stage][m], -1);
        }
    }
}

static void every_table_runs(void **state)
{
    for_all_tables(check_runs);
}

/* ---- formulas ---- */

/* ---- the same where a message is delivered only when its receiver takes it, and a slot is taken again only then ---- */

enum { MAX_SLOTS = MAX_CHUNKS * MAX_MICROBATCHES + 1 };

typedef struct {
    bool used, has_sent;               /* has_sent: since it became free nobody has taken it again */
    int microbatch, stage;
    long freed;
} slot;

typedef struct {
    const fm_pipeline *p;
    bool trains;
    bool done[2][MAX_STAGES][MAX_MICROBATCHES];                 /* forward passes and backward input parts */
    slot slots[MAX_RANKS][MAX_SLOTS];
    int at[MAX_RANKS];
    long clock;
} rendezvous;

static bool is_delivered(const rendezvous *run, const slot *s)
{
    const int last = run->p->ranks * run->p->chunks - 1;
    return !s->has_sent || ((s->stage == last || run->done[0][s->stage + 1][s->microbatch])
                            && (!run->trains || s->stage == 0 || run->done[1][s->stage - 1][s->microbatch]));
}

static slot *oldest_free_slot(rendezvous *run, int rank)
{
    slot *oldest = NULL;
    for (int i = 0; i < fm_pipeline_slots(run->p, rank); i++) {
        slot *const s = &run->slots[rank][i];
        if (!s->used && (oldest == NULL || s->freed < oldest->freed)) {
            oldest = s;
        }
    }
    assert_non_null(oldest);
    return oldest;
}

static void free_slot(rendezvous *run, slot *s)
{
    s->used = false;
    s->has_sent = true;
    s->freed = ++run->clock;
}

static bool rendezvous_forward(rendezvous *run, int rank, int stage, int microbatch)
{
    slot *const s = oldest_free_slot(run, rank);
    if (!is_delivered(run, s) || (stage > 0 && !run->done[0][stage - 1][microbatch])) {
        return false;
    }
    *s = (slot){ .used = true, .microbatch = microbatch, .stage = stage };
    run->done[0][stage][microbatch] = true;
    if (!run->trains) {
        free_slot(run, s);
    }
    return true;
}

static bool rendezvous_backward(rendezvous *run, int rank, int stage, const fm_pipeline_row *row)
{
    const int last = run->p->ranks * run->p->chunks - 1;
    if (row->action != FM_ACTION_BACKWARD_WEIGHT) {
        if (stage < last && !run->done[1][stage + 1][row->microbatch]) {
            return false;
        }
        run->done[1][stage][row->microbatch] = true;
    }
    for (int i = 0; row->action != FM_ACTION_BACKWARD_INPUT && i < MAX_SLOTS; i++) {
        slot *const s = &run->slots[rank][i];
        if (s->used && s->microbatch == row->microbatch && s->stage == stage) {
            free_slot(run, s);
        }
    }
    return true;
}

static bool rendezvous_row(rendezvous *run, int rank)
{
    const fm_pipeline_row *const row = &run->p->rows[run->at[rank]];
    const int stage = row->chunk * run->p->ranks + rank;
    if (row->action == FM_ACTION_FORWARD) {
        return rendezvous_forward(run, rank, stage, row->microbatch);
    }
    return !run->trains || rendezvous_backward(run, rank, stage, row);
}

static void check_rendezvous(const fm_pipeline *p, bool trains)
{
    static rendezvous run;
    memset(&run, 0, sizeof run);
    run.p = p;
    run.trains = trains;
    memcpy(run.at, p->first, (size_t)p->ranks * sizeof run.at[0]);
    int left = p->n_rows, before;
    do {
        before = left;
        for (int r = 0; r < p->ranks; r++) {
            while (run.at[r] < p->first[r + 1] && rendezvous_row(&run, r)) {
                run.at[r]++;
                left--;
            }
        }
    } while (left < before);
    if (left > 0) {
        fail_msg("schedule %d, %d ranks, %d chunks, %d microbatches, %s: every rank waits", (int)p->schedule, p->ranks, p->chunks,
                 p->microbatches, trains ? "training" : "validation");
    }
}

static void check_both_rendezvous(const fm_pipeline *p)
{
    check_rendezvous(p, true);
    check_rendezvous(p, false);
}

static void no_rank_waits_for_ever_when_messages_are_large(void **state)
{
    for_all_tables(check_both_rendezvous);
}

/* ---- lanes: all messages of a direction from one rank to its neighbour go through one queue (mesh/comm.h) ---- */

enum { MAX_MESSAGES = MAX_CHUNKS * MAX_MICROBATCHES };

typedef struct {
    int n;
    int stage[MAX_MESSAGES], microbatch[MAX_MESSAGES];         /* the stage that receives */
} message_list;

/* The messages that a rank sends, or receives, in the forward direction or the backward one, in the order of its rows. */
static void list_messages(message_list *list, const fm_pipeline *p, int rank, bool forward, bool sends)
{
    const int stages = p->ranks * p->chunks, step = forward == sends ? 1 : -1;
    list->n = 0;
    for (int i = p->first[rank]; i < p->first[rank + 1]; i++) {
        const fm_pipeline_row *const row = &p->rows[i];
        const int stage = row->chunk * p->ranks + rank, other = stage + step;
        const bool counts = forward ? row->action == FM_ACTION_FORWARD
                                    : row->action == FM_ACTION_BACKWARD || row->action == FM_ACTION_BACKWARD_INPUT;
        if (counts && other >= 0 && other < stages) {
            list->stage[list->n] = sends ? other : stage;
            list->microbatch[list->n++] = row->microbatch;
        }
    }
}

static void check_lanes(const fm_pipeline *p)
{
    static message_list sent, received;
    for (int rank = 0; rank < p->ranks && p->ranks > 1; rank++) {
        for (int forward = 0; forward < 2; forward++) {
            const int to = (rank + (forward ? 1 : p->ranks - 1)) % p->ranks;
            list_messages(&sent, p, rank, forward != 0, true);
            list_messages(&received, p, to, forward != 0, false);
            assert_int_equal(sent.n, received.n);
            assert_memory_equal(sent.stage, received.stage, (size_t)sent.n * sizeof sent.stage[0]);
            assert_memory_equal(sent.microbatch, received.microbatch, (size_t)sent.n * sizeof sent.microbatch[0]);
        }
    }
}

static void both_ends_of_a_lane_have_one_order(void **state)
{
    for_all_tables(check_lanes);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Microbatches of an interleaved schedule's largest group: P where that divides M. */
static int group_of(int P, int M)
{
    const int groups = M < P ? 1 : M / P;
    return (M + groups - 1) / groups;
}

static int expected_peak(const fm_pipeline *p, int rank)
{
    const int P = p->ranks, C = p->chunks, M = p->microbatches;
    if (P == 1) {
        return C;
    }
    switch (p->schedule) {
    case FM_PIPELINE_GPIPE: return C * M;
    case FM_PIPELINE_ZB: return least(M, P);
    default: return C == 1 ? least(M, P - rank) : least(C * M, 2 * (P - 1 - rank) + (C - 1) * group_of(P, M) + 1);
    }
}

/* Idle units of a rank. With fewer microbatches than ranks, the first one's way through all stages and back is what takes so
 * long. */
static int expected_idle(const fm_pipeline *p)
{
    const int P = p->ranks, C = p->chunks, M = p->microbatches, missing = M < P ? P - M : 0;
    if (P == 1) {
        return 0;
    }
    return p->schedule == FM_PIPELINE_ZB ? P - 1 + missing : 3 * (P - 1) + 3 * (C - 1) * missing;
}

static void check_formulas(const fm_pipeline *p)
{
    for (int r = 0; r < p->ranks; r++) {
        assert_int_equal(fm_pipeline_peak(p, r), expected_peak(p, r));
    }
    const double idle = expected_idle(p), busy = 3.0 * p->chunks * p->microbatches;
    const double gap = fm_pipeline_bubble(p) - idle / (busy + idle);
    if (!(gap < 1e-12 && gap > -1e-12)) {
        fail_msg("schedule %d, %d ranks, %d chunks, %d microbatches: bubble %.9g, the formula says %.9g", (int)p->schedule,
                 p->ranks, p->chunks, p->microbatches, fm_pipeline_bubble(p), idle / (busy + idle));
    }
}

static void peaks_and_bubbles_are_those_of_the_formulas(void **state)
{
    for_all_tables(check_formulas);
}

static void one_rank_goes_forward_and_backward_in_turn(void **state)
{
    for (int schedule = FM_PIPELINE_GPIPE; schedule <= FM_PIPELINE_ZB; schedule++) {
        fm_pipeline p;
        assert_int_equal(fm_pipeline_emit(&p, (enum fm_pipeline_schedule)schedule, 1, 1, 5), FM_OK);
        assert_int_equal(p.n_rows, 10);
        for (int i = 0; i < 10; i++) {
            assert_int_equal(p.rows[i].action, i % 2 == 0 ? FM_ACTION_FORWARD : FM_ACTION_BACKWARD);
            assert_int_equal(p.rows[i].microbatch, i / 2);
            assert_int_equal(p.rows[i].tick, i / 2 * 3 + i % 2);
        }
        fm_pipeline_clear(&p);
    }
}

static void chunks_that_a_schedule_cannot_have_are_refused(void **state)
{
    fm_pipeline p;
    assert_int_equal(fm_pipeline_emit(&p, FM_PIPELINE_1F1B, 2, 2, 4), FM_ERR_JOB);
    assert_non_null(strstr(fm_error_message(), "1f1b has one model chunk"));
    assert_non_null(strstr(fm_error_message(), "virtual_stages is 2"));
    assert_int_equal(fm_pipeline_emit(&p, FM_PIPELINE_ZB, 4, 3, 8), FM_ERR_JOB);
    assert_non_null(strstr(fm_error_message(), "zb"));
}

/* ---- spoiled tables ---- */

static void is_refused(const fm_pipeline *p, const char *what, int i)
{
    if (fm_pipeline_check(p) != FM_ERR_INTERNAL) {
        fail_msg("schedule %d: row %d with %s was not refused", (int)p->schedule, i, what);
    }
}

static int units(const fm_pipeline_row *row)
{
    return row->action == FM_ACTION_BACKWARD ? 2 : 1;
}

/* Each field of each row changed alone. */
static void spoil_row(fm_pipeline *p, int i)
{
    const fm_pipeline_row good = p->rows[i];
    fm_pipeline_row *const row = &p->rows[i];
    row->microbatch = (good.microbatch + 1) % p->microbatches;
    is_refused(p, "another microbatch", i);
    row->microbatch = p->microbatches;
    is_refused(p, "a microbatch that is not there", i);
    *row = good;
    row->chunk = (good.chunk + 1) % p->chunks;
    if (row->chunk != good.chunk) {
        is_refused(p, "another chunk", i);
    }
    row->chunk = -1;
    is_refused(p, "a chunk that is not there", i);
    *row = good;
    row->rank = (good.rank + 1) % p->ranks;
    is_refused(p, "another rank", i);
    *row = good;
    for (int action = -1; action <= FM_ACTION_BACKWARD_WEIGHT + 1; action++) {
        row->action = (enum fm_action)action;
        if (row->action != good.action) {
            is_refused(p, "another action", i);
        }
    }
    *row = good;
    row->tick = -1;
    is_refused(p, "a tick before the start", i);
    *row = good;
}

/* Tables are as early as can be: one tick less is too early, for the row before or for what is needed; one more is too late
 * where the next row follows at once. */
static void spoil_time(fm_pipeline *p, int i)
{
    fm_pipeline_row *const row = &p->rows[i];
    row->tick--;
    is_refused(p, "a tick less", i);
    row->tick++;
    if (i + 1 < p->n_rows && row[1].rank == row->rank && row[1].tick == row->tick + units(row)) {
        row->tick++;
        is_refused(p, "a tick more", i);
        row->tick--;
    }
}

/* Rows of one microbatch and chunk, and rows of one action and chunk, in the other order. */
static void spoil_order(fm_pipeline *p, int i)
{
    for (int j = i + 1; j < p->first[p->rows[i].rank + 1]; j++) {
        const fm_pipeline_row a = p->rows[i], b = p->rows[j];
        if (a.chunk == b.chunk && (a.microbatch == b.microbatch || a.action == b.action)) {
            p->rows[i] = (fm_pipeline_row){ a.rank, a.tick, b.action, b.microbatch, b.chunk };
            p->rows[j] = (fm_pipeline_row){ b.rank, b.tick, a.action, a.microbatch, a.chunk };
            is_refused(p, "its place changed", i);
            p->rows[i] = a;
            p->rows[j] = b;
        }
    }
}

static void spoiled_tables_are_refused(void **state)
{
    const struct {
        enum fm_pipeline_schedule schedule;
        int ranks, chunks, microbatches;
    } sizes[] = {
        { FM_PIPELINE_GPIPE, 3, 1, 4 }, { FM_PIPELINE_GPIPE, 2, 2, 3 }, { FM_PIPELINE_1F1B, 4, 1, 7 },
        { FM_PIPELINE_1F1B, 8, 1, 3 },
        { FM_PIPELINE_INTERLEAVED_1F1B, 2, 3, 4 }, { FM_PIPELINE_INTERLEAVED_1F1B, 4, 2, 9 }, { FM_PIPELINE_ZB, 2, 1, 5 },
        { FM_PIPELINE_ZB, 5, 1, 8 },
    };
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        fm_pipeline p;
        assert_int_equal(fm_pipeline_emit(&p, sizes[s].schedule, sizes[s].ranks, sizes[s].chunks, sizes[s].microbatches), FM_OK);
        assert_int_equal(fm_pipeline_check(&p), FM_OK);
        for (int i = 0; i < p.n_rows; i++) {
            spoil_row(&p, i);
            spoil_time(&p, i);
            spoil_order(&p, i);
        }
        assert_int_equal(fm_pipeline_check(&p), FM_OK);
        p.n_rows--;
        p.first[p.ranks]--;
        is_refused(&p, "its last row missing", p.n_rows);
        p.n_rows++;
        is_refused(&p, "rows of no rank", p.n_rows);
        p.first[p.ranks]++;
        fm_pipeline_clear(&p);
    }
}

/* Two ranks that wait for each other: rank 0 wants its gradient before it sends microbatch 1, rank 1 wants that first. No ticks
 * help. */
static void a_deadlock_is_refused(void **state)
{
    fm_pipeline_row rows[] = {
        { 0, 0, FM_ACTION_FORWARD, 0, 0 }, { 0, 0, FM_ACTION_BACKWARD, 0, 0 }, { 0, 0, FM_ACTION_FORWARD, 1, 0 },
        { 0, 0, FM_ACTION_BACKWARD, 1, 0 }, { 1, 0, FM_ACTION_FORWARD, 0, 0 }, { 1, 0, FM_ACTION_FORWARD, 1, 0 },
        { 1, 0, FM_ACTION_BACKWARD, 0, 0 }, { 1, 0, FM_ACTION_BACKWARD, 1, 0 },
    };
    int first[] = { 0, 4, 8 };
    const fm_pipeline p = { FM_PIPELINE_1F1B, 2, 1, 2, 8, rows, first };
    for (int late = 0; late < 40; late++) {            /* either rank later, by any amount */
        for (int i = 0, tick = late < 20 ? late : 0; i < 4; tick += units(&rows[i++])) {
            rows[i].tick = tick + 3 * i;
        }
        for (int i = 4, tick = late < 20 ? 0 : late - 20; i < 8; tick += units(&rows[i++])) {
            rows[i].tick = tick + 3 * i;
        }
        is_refused(&p, "a deadlock", late);
    }
}

/* ---- division of layers ---- */

static double stage_cost(int layers, int s, int n_stages, double first_cost, double last_cost)
{
    return layers + (s == 0 ? first_cost : 0) + (s == n_stages - 1 ? last_cost : 0);
}

/* The cheapest dearest stage among all divisions of `layers` over stages s .. n_stages - 1. */
static double best_by_trial(int layers, int s, int n_stages, int at_least, double first_cost, double last_cost)
{
    if (s == n_stages - 1) {
        return layers < at_least ? 1e9 : stage_cost(layers, s, n_stages, first_cost, last_cost);
    }
    double best = 1e9;
    for (int n = at_least; n <= layers; n++) {
        const double here = stage_cost(n, s, n_stages, first_cost, last_cost);
        const double rest = best_by_trial(layers - n, s + 1, n_stages, at_least, first_cost, last_cost);
        const double dearest = here > rest ? here : rest;
        best = dearest < best ? dearest : best;
    }
    return best;
}

static void no_division_has_a_cheaper_dearest_stage(void **state)
{
    const double costs[] = { 0, 0.3, 1, 2.5, 7 };
    for (int layers = 0; layers <= 9; layers++) {
        for (int n_stages = 1; n_stages <= 5; n_stages++) {
            for (int c = 0; c < 25; c++) {
                const double first_cost = costs[c / 5], last_cost = costs[c % 5];
                int out[6];
                fm_pipeline_divide(out, layers, n_stages, first_cost, last_cost);
                assert_int_equal(out[0], 0);
                assert_int_equal(out[n_stages], layers);
                double dearest = 0;
                for (int s = 0; s < n_stages; s++) {
                    const int n = out[s + 1] - out[s];
                    assert_true(n >= (layers >= n_stages ? 1 : 0));
                    const double cost = stage_cost(n, s, n_stages, first_cost, last_cost);
                    dearest = cost > dearest ? cost : dearest;
                }
                const double best = best_by_trial(layers, 0, n_stages, layers >= n_stages ? 1 : 0, first_cost, last_cost);
                assert_true(dearest <= best + 1e-12);
            }
        }
    }
}

static void equal_stages_differ_by_one_layer_at_most(void **state)
{
    int out[5];
    fm_pipeline_divide(out, 30, 4, 0, 0);
    const int expected[] = { 0, 7, 14, 22, 30 };       /* the later stages have more */
    assert_memory_equal(out, expected, sizeof expected);
    fm_pipeline_divide(out, 30, 4, 0, 5);              /* 35 in all: the last stage gets 5 less */
    const int with_head[] = { 0, 8, 17, 26, 30 };
    assert_memory_equal(out, with_head, sizeof with_head);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_is_proved),
        cmocka_unit_test(every_table_runs),
        cmocka_unit_test(no_rank_waits_for_ever_when_messages_are_large),
        cmocka_unit_test(both_ends_of_a_lane_have_one_order),
        cmocka_unit_test(peaks_and_bubbles_are_those_of_the_formulas),
        cmocka_unit_test(one_rank_goes_forward_and_backward_in_turn),
        cmocka_unit_test(chunks_that_a_schedule_cannot_have_are_refused),
        cmocka_unit_test(spoiled_tables_are_refused),
        cmocka_unit_test(a_deadlock_is_refused),
        cmocka_unit_test(no_division_has_a_cheaper_dearest_stage),
        cmocka_unit_test(equal_stages_differ_by_one_layer_at_most),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
