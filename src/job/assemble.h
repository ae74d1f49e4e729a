/* From a job to a model on its mesh: what run, eval, export and load have in common. Every step is one function; a failure on one
 * rank is a failure on all, with one message. */
#ifndef FM_JOB_ASSEMBLE_H
#define FM_JOB_ASSEMBLE_H

#include "ckpt/source.h"
#include "job/job.h"
#include "mesh/watch.h"
#include "model/model.h"
#include "model/tp_plan.h"
#include "ops/cuda_module.h"
#include "parallel/pipeline.h"

/* How the program was started. mpi_comm points to an MPI_Comm, NULL: one rank and no communicator is made. */
typedef struct {
    const void *mpi_comm;
    fm_comm *world;                    /* NULL: one rank */
    int rank, n_ranks;
    fm_watch_end *end;                 /* ends all ranks, with end_context; NULL: nobody may, and nobody who is late is given up */
    void *end_context;
} fm_launch;

/* What opening and using the device says: nothing (the library), what does not work as it could (on stderr), or that and on stdout who
 * computes and communicates. */
enum fm_tell { FM_TELL_NOTHING, FM_TELL_TROUBLE, FM_TELL_ALL };

/* Everything that stands between the job and its steps. Zeros at first; fm_assembly_clear frees what is there. */
typedef struct {
    const fm_launch *launch;           /* borrowed */
    fm_job job;
    fm_watch *watch;                   /* of job.watchdog; NULL: one rank */
    fm_mesh_shape mesh;
    fm_groups *groups;
    fm_device *device;
    fm_compute *compute;
    fm_tp_plan tp_plan;                /* of use_hf_tp_plan; else zeros */
    fm_config config;                  /* until the model takes it over */
    fm_tensor_spec *tensors;           /* likewise */
    int n_tensors;
    int *stage_of_layer;               /* likewise */
    fm_chunk *chunks;                  /* of this rank */
    int n_chunks;
    bool without_states;               /* of an optimizer: set by who updates the weights otherwise */
    enum fm_tell tells;                /* set by a command */
    int ranks_of_node, rank_of_node;   /* ranks of this run on this machine, and which of them this is */
    int ranks_of_device;               /* that share the memory of this rank's device */
    const fm_cuda_module *cuda;        /* NULL: the device is the CPU, or the module was not wanted */
    fm_nccl *nccl;                     /* NULL: MPI carries all */
    fm_model *model;
} fm_assembly;

/* Fills in rank and size and makes the world's communicator. Collective on mpi_comm. */
int fm_launch_begin(fm_launch *launch, const void *mpi_comm);
void fm_launch_end(fm_launch *launch);

/* The job file (argv[0], read by rank 0) and overrides (the rest), all errors reported at once. `trains`: what a training run demands must
 * be there too. Collective on the world. */
int fm_assemble_job(fm_assembly *a, const fm_launch *launch, int argc, char **argv, bool trains);

/* The same from a text that every rank has; `name` stands for the file. Collective on the world. */
int fm_assemble_text(fm_assembly *a, const fm_launch *launch, const char *text, const char *name, const char *const *overrides,
                     int n_overrides, bool trains);

/* The mesh of the job; `imagined`: where the ranks there are do not make it, the one that the job's sizes describe. Local. */
int fm_assemble_shape(fm_assembly *a, bool imagined);

/* config.json of the job's model, or of the directory DIR (read by rank 0), and whether the model fits the mesh. Nothing is allocated
 * yet. Collective. */
int fm_assemble_config(fm_assembly *a);
int fm_assemble_config_of(fm_assembly *a, const char *dir);

/* The layout of the model on the mesh; borrows from the assembly, until fm_assemble_model. Local. */
fm_layout fm_assembly_layout(const fm_assembly *a);

/* Groups, device, and which layers are whose. Collective. */
int fm_assemble_mesh(fm_assembly *a);

/* The shards of the model's checkpoint in OUTPUT_DIR/shards: made, or used again while the source is unchanged; opened as *source.
 * Collective. */
int fm_assemble_shards(fm_assembly *a, fm_source **source);

/* The model on the mesh, planned. The tensors' dtypes are taken from `source` where there is one. Collective. */
int fm_assemble_model(fm_assembly *a, const fm_source *source, bool trains);

/* Says what the model will take on the largest rank and stops where that does not fit; then allocates. Collective. */
int fm_assemble_memory(fm_assembly *a, const fm_model_reserve_spec *needs);

/* The trained model (masters where there are some) as the HF directory DIR. Collective. */
int fm_assembly_export(const fm_assembly *a, const char *dir);

/* Weights from a source of tensors (HF directory, shards), or from the seed where the job says init = random. Collective. */
int fm_assemble_weights(fm_assembly *a, fm_source *source);

void fm_assembly_clear(fm_assembly *a);

/* The compute dtype of a job: auto is float32 on a CPU. Local. */
enum fm_dtype fm_assembly_dtype(const fm_assembly *a);

#endif
