#include "job/cmd_inspect.h"

#include "ckpt/inspect.h"

int fm_cmd_inspect(const fm_launch *launch, int argc, char **argv, bool *started)
{
    int rc = FM_OK;
    for (int i = 0; launch->rank == 0 && rc == FM_OK && i < argc; i++) {
        rc = fm_inspect(argv[i]);
    }
    return fm_comm_agree(launch->world, rc);
}
