#include "job/cmd_inspect.h"

#include <string.h>

#include "ckpt/compare.h"
#include "ckpt/inspect.h"

int fm_cmd_inspect(const fm_launch *launch, int argc, char **argv, bool *started)
{
    int rc = FM_OK;
    (void)started;
    const bool compares = strcmp(argv[0], "--diff") == 0;
    if (compares && argc != 3) {
        rc = fm_fail(FM_ERR_JOB, "finemesh inspect --diff A B: two directories were expected, %d arguments were found", argc - 1);
    } else if (compares && launch->rank == 0) {
        rc = fm_compare(argv[1], argv[2]);
    }
    for (int i = 0; launch->rank == 0 && !compares && rc == FM_OK && i < argc; i++) {
        rc = fm_inspect(argv[i]);
    }
    return fm_comm_agree(launch->world, rc);
}
