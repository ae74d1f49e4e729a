/* finemesh: argv -> subcommand. The only file of the program that starts and ends MPI and that exits. */
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "job/cmd_bench.h"
#include "job/cmd_convert.h"
#include "job/cmd_eval.h"
#include "job/cmd_export.h"
#include "job/cmd_generate.h"
#include "job/cmd_inspect.h"
#include "job/cmd_load.h"
#include "job/cmd_reshard.h"
#include "job/cmd_run.h"
#include "job/cmd_tokenize.h"
#include "job/cmd_verify.h"
#include "job/keys.h"
#include "job/stop.h"
#include "job/slurm.h"
#include "job/version.h"

/* Exit status: a part of the interface. */
enum { EXIT_DONE = 0, EXIT_JOB = 1, EXIT_FAILED = 2, EXIT_STOPPED = 3 };

/* A subcommand works on the arguments after its name. With ranks: collective; `started` is set when its work had begun, so that a failure
 * is the run's and not the job's. Without: one process, no MPI. */
typedef int ranks_fn(const fm_launch *launch, int argc, char **argv, bool *started);
typedef int alone_fn(int argc, char **argv);

typedef struct {
    const char *name, *arguments, *help;
    int least_arguments;
    ranks_fn *with_ranks;
    alone_fn *alone;
} command;

static const command commands[] = {
    { "run", "JOB.ini [section.key=value ...]", "convert if needed, train or resume, validate, checkpoint, export", 1, fm_cmd_run, NULL },
    { "load", "[MODEL] [--tp-size N --dp-size N ...]", "load a model on a mesh, say who holds what, run it forward", 0, fm_cmd_load, NULL },
    { "convert", "JOB.ini [section.key=value ...]", "HF directory -> shards", 1, fm_cmd_convert, NULL },
    { "reshard", "SET [--tp-size N --dp-size N ...] -o DIR", "shard set or checkpoint of one mesh -> another", 1, fm_cmd_reshard,
      NULL },
    { "export", "JOB.ini | CHECKPOINT [-o DIR]", "newest checkpoint (or shards) or that one -> HF directory", 1, fm_cmd_export, NULL },
    { "eval", "JOB.ini [section.key=value ...]", "loss and perplexity of a model over data", 1, fm_cmd_eval, NULL },
    { "bench", "JOB.ini [--steps N] [section.key=value]", "what a training step costs, and where its time goes", 1, fm_cmd_bench, NULL },
    { "generate", "MODEL PROMPT [--max-new-tokens N]", "the likeliest continuation of a prompt", 2, fm_cmd_generate, NULL },
    { "inspect", "PATH ... | --diff A B", "tensors of an HF directory, a shard set or one file; what differs", 1, fm_cmd_inspect, NULL },
    { "verify", "DIR ...", "whether shard sets and checkpoints are as they were written", 1, fm_cmd_verify, NULL },
    { "tokenize", "MODEL [--decode]", "JSON lines of text to ids, or back", 1, NULL, fm_cmd_tokenize },
};

enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *out)
{
    fputs("usage: finemesh COMMAND ARGUMENTS, under mpiexec -n RANKS or srun for more than one rank\n\n", out);
    for (int i = 0; i < N_COMMANDS; i++) {
        fprintf(out, "  %-9s %-40s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    }
    fputs("\n  finemesh run --help-keys    every key of a job file\n  finemesh --version          what is built in and usable here\n", out);
}

static const command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

static int exit_code(int rc, bool started)
{
    return rc >= 0 ? EXIT_DONE : rc == FM_ERR_STOPPED ? EXIT_STOPPED : started ? EXIT_FAILED : EXIT_JOB;
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L }, NULL);
}

/* The end of a rank. A communicator of its own: one that fails alone may have left the others in the middle of anything. */
typedef struct {
    MPI_Comm comm;
    int rank, n_ranks;
    int rc, exit_code;
    int turn;                          /* among ranks that failed the least tells it: see turn_of */
} parting;

enum { FAILED_TAG = 1, PATIENCE_MS = 2000, LAUNCHER_MS = 300, POLL_MS = 2 };

/* What all ranks tell each other: the worst exit status, whose turn it is to tell, and whether one did not fail. */
typedef struct {
    int severity, minus_turn, one_is_well;
} ends;

/* Whose own failure it is comes before those who only noticed that they lost somebody. */
static int turn_of(const parting *p)
{
    return p->rank + (p->rc == FM_ERR_COMM ? p->n_ranks : 0);
}

static const int by_severity[] = { EXIT_DONE, EXIT_STOPPED, EXIT_JOB, EXIT_FAILED };

/* False: a rank does not come, since it waits for this one, which failed alone. */
static bool meet(ends *all, const parting *p)
{
    MPI_Request request;
    int done = 0, severity = 0;
    while (by_severity[severity] != p->exit_code) {
        severity++;
    }
    *all = (ends){ severity, p->rc < 0 ? -p->turn : -2 * p->n_ranks, p->rc >= 0 };
    MPI_Iallreduce(MPI_IN_PLACE, all, 3, MPI_INT, MPI_MAX, p->comm, &request);
    if (p->rc >= 0) {
        MPI_Wait(&request, MPI_STATUS_IGNORE);
        return true;
    }
    for (int waited_ms = 0; !done && waited_ms < PATIENCE_MS; waited_ms += POLL_MS) {
        pause_ms(POLL_MS);
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    }
    return done;
}

/* Whether no other rank that has failed as well (several write on one full disk) comes before this one: each tells all others. */
static bool tells(const parting *p)
{
    bool first = true;
    for (int other = 0; other < p->n_ranks; other++) {
        MPI_Request request;
        if (other != p->rank) {
            MPI_Isend(&p->turn, 1, MPI_INT, other, FAILED_TAG, p->comm, &request);
            MPI_Request_free(&request);
        }
    }
    for (int waited_ms = 0; waited_ms < LAUNCHER_MS; waited_ms += POLL_MS) {
        int there;
        MPI_Status status;
        pause_ms(POLL_MS);
        for (MPI_Iprobe(MPI_ANY_SOURCE, FAILED_TAG, p->comm, &there, &status); there;
             MPI_Iprobe(MPI_ANY_SOURCE, FAILED_TAG, p->comm, &there, &status)) {
            int others;
            MPI_Recv(&others, 1, MPI_INT, status.MPI_SOURCE, FAILED_TAG, p->comm, MPI_STATUS_IGNORE);
            first = first && p->turn < others;
        }
    }
    return first;
}

static void speak_and_abort(const char *who, const parting *p)
{
    fm_log_set_speaker(true);
    fm_log_error("%s%s", who, fm_error_message());
    pause_ms(LAUNCHER_MS);
    MPI_Abort(MPI_COMM_WORLD, p->exit_code);
}

/* The watchdog's way out. */
static void end_now(void *context)
{
    parting *const p = context;
    p->exit_code = EXIT_FAILED;
    speak_and_abort("", p);
}

/* Ends a run whose ranks did not agree on the failure: others wait for ever. One speaks; those who failed beside it give it time to end
 * them. Launchers drop what was written just before an abort. */
static void end_all_ranks(const parting *p)
{
    if (!tells(p)) {
        pause_ms(PATIENCE_MS);
    }
    char who[32];
    snprintf(who, sizeof who, "rank %d: ", p->rank);
    speak_and_abort(who, p);
}

/* One message and one exit status for all. */
static int part(const parting *p)
{
    ends all;
    if (!meet(&all, p)) {
        end_all_ranks(p);
    }
    fm_log_set_speaker(p->turn == -all.minus_turn);
    if (p->rc < 0 && p->rc != FM_ERR_STOPPED) {
        if (all.one_is_well) {
            fm_log_error("rank %d: %s", p->rank, fm_error_message());
        } else {
            fm_log_error("%s", fm_error_message());
        }
    }
    return by_severity[all.severity];
}

static int run_with_ranks(const command *c, int argc, char **argv)
{
    const MPI_Comm world = MPI_COMM_WORLD;
    fm_launch launch;
    parting end;
    bool started = false;
    fm_stop_hold();                    /* a signal that comes now is a request to the run that begins */
    MPI_Init(NULL, NULL);
    if (c->with_ranks != fm_cmd_run) {
        fm_stop_release();
    }
    MPI_Comm_dup(world, &end.comm);
    MPI_Comm_size(world, &end.n_ranks);
    MPI_Comm_rank(world, &end.rank);
    end.rc = fm_launch_begin(&launch, end.n_ranks > 1 ? &world : NULL);
    launch.end = end_now;
    launch.end_context = &end;
    if (end.rc == FM_OK) {
        end.rc = fm_slurm_check_ranks(end.n_ranks, false);
    }
    if (end.rc == FM_OK) {
        end.rc = c->with_ranks(&launch, argc, argv, &started);
    }
    end.exit_code = exit_code(end.rc, started);
    end.turn = turn_of(&end);
    const int status = part(&end);
    fm_launch_end(&launch);
    MPI_Comm_free(&end.comm);
    MPI_Finalize();
    return status;
}

static int run_alone(const command *c, int argc, char **argv)
{
    const int rc = c->alone(argc, argv);
    if (rc < 0) {
        fm_log_error("%s", fm_error_message());
    }
    return exit_code(rc, false);
}

int main(int argc, char **argv)
{
    const char *const name = argc > 1 ? argv[1] : "";
    signal(SIGXFSZ, SIG_IGN);          /* a file beyond `ulimit -f` is then a failed write with a message, not a death */
    if (strcmp(name, "--version") == 0) {
        fm_print_version();
        return EXIT_DONE;
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_usage(stdout);
        return EXIT_DONE;
    }
    if (strcmp(name, "run") == 0 && argc > 2 && strcmp(argv[2], "--help-keys") == 0) {
        fm_keys_print_help();
        return EXIT_DONE;
    }
    const command *const c = find_command(name);
    if (c == NULL || argc - 2 < c->least_arguments) {
        fm_log_error(name[0] == '\0' ? "a command was expected%s" : c == NULL ? "no command is called \"%s\""
                                      : "finemesh %s: arguments are missing", name);
        print_usage(stderr);
        return EXIT_JOB;
    }
    return c->with_ranks != NULL ? run_with_ranks(c, argc - 2, argv + 2) : run_alone(c, argc - 2, argv + 2);
}
