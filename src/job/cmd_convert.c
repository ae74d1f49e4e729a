#include "job/cmd_convert.h"

#include "base/file.h"

static int convert(fm_assembly *a, fm_source **source, const fm_launch *launch, int argc, char **argv)
{
    FM_TRY(fm_assemble_job(a, launch, argc, argv, false));
    FM_TRY(fm_assemble_shape(a, true));
    FM_TRY(fm_assemble_config(a));
    FM_TRY(fm_comm_agree(launch->world, launch->rank == 0 ? fm_dir_make(a->job.output_dir) : FM_OK));
    if (fm_mesh_ranks(&a->mesh) == launch->n_ranks) {
        FM_TRY(fm_assemble_mesh(a));
    }
    return fm_assemble_shards(a, source);
}

int fm_cmd_convert(const fm_launch *launch, int argc, char **argv, bool *started)
{
    (void)started;
    fm_assembly a = { .launch = NULL };
    fm_source *source = NULL;
    const int rc = convert(&a, &source, launch, argc, argv);
    fm_source_close(source);
    fm_assembly_clear(&a);
    return rc;
}
