/* finemesh: argv -> subcommand. The only file of the program that starts and ends MPI and that exits. */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "job/cmd_run.h"

enum { EXIT_DONE = 0, EXIT_JOB = 1, EXIT_FAILED = 2, EXIT_STOPPED = 3 };

/* A subcommand. `started`: set when its work had begun, so that a failure is the run's and not the job's. */
typedef int command_fn(const fm_launch *launch, int argc, char **argv, bool *started);

typedef struct {
    const char *name, *arguments;
    command_fn *run;
} command;

static const command commands[] = {
    { "run", "JOB.ini [section.key=value ...]", fm_cmd_run },
};

static int exit_code(int rc, bool started)
{
    return rc >= 0 ? EXIT_DONE : rc == FM_ERR_STOPPED ? EXIT_STOPPED : started ? EXIT_FAILED : EXIT_JOB;
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    const MPI_Comm world = MPI_COMM_WORLD;
    int n_ranks;
    MPI_Comm_size(world, &n_ranks);
    fm_launch launch;
    bool started = false;
    int rc = fm_launch_begin(&launch, n_ranks > 1 ? &world : NULL);
    const char *const name = argc > 1 ? argv[1] : "";
    const command *found = NULL;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            found = &commands[i];
        }
    }
    if (rc == FM_OK && (found == NULL || argc < 3)) {
        rc = fm_fail(FM_ERR_JOB, "usage: finemesh run JOB.ini");
    } else if (rc == FM_OK) {
        rc = found->run(&launch, argc - 2, argv + 2, &started);
    }
    if (rc < 0 && rc != FM_ERR_STOPPED) {
        fm_log_error("%s", fm_error_message());
    }
    if (rc < 0 && started && rc != FM_ERR_NUMERIC && rc != FM_ERR_STOPPED) {
        MPI_Abort(world, EXIT_FAILED);
    }
    fm_launch_end(&launch);
    MPI_Finalize();
    return exit_code(rc, started);
}
