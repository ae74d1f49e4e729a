/* Options of [distributed], [device_mesh] and [pipeline]. Filled in by the job. */
#ifndef FM_PARALLEL_OPTIONS_H
#define FM_PARALLEL_OPTIONS_H

#include <stdbool.h>

#include "finemesh/mesh.h"
#include "tensor/options.h"

enum fm_backend { FM_BACKEND_AUTO, FM_BACKEND_MPI, FM_BACKEND_NCCL };
enum fm_recompute { FM_RECOMPUTE_NO, FM_RECOMPUTE_FULL, FM_RECOMPUTE_SELECTIVE };

/* [distributed] and [device_mesh] */
typedef struct {
    fm_mesh_sizes sizes;               /* unused where has_mesh */
    bool has_mesh;                     /* the person wrote [device_mesh] */
    fm_mesh_shape explicit_mesh;       /* 0 where no extent was given: counts as 1; see fm_job_mesh */
    enum fm_backend backend;
    bool use_hf_tp_plan;
    enum fm_dtype_choice reduce_dtype; /* of gradient sums between ranks; a type */
    bool sequence_parallel;
    enum fm_recompute activation_checkpointing;
} fm_distributed_options;

enum fm_pipeline_schedule { FM_PIPELINE_GPIPE, FM_PIPELINE_1F1B, FM_PIPELINE_INTERLEAVED_1F1B, FM_PIPELINE_ZB };

/* [pipeline] */
typedef struct {
    enum fm_pipeline_schedule schedule;
    int virtual_stages;                /* model chunks a rank */
} fm_pipeline_options;

#endif
