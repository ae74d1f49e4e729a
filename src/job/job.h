/* The job: everything that a person can set, in the option structs that the lower layers define. One table (keys.h) says which
 * keys there are; this module reads a file and overrides into the struct and writes the struct back as a file. All functions are
 * local: rank 0 reads the file, every rank parses the text that it broadcasts. */
#ifndef FM_JOB_JOB_H
#define FM_JOB_JOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/complaints.h"
#include "ckpt/options.h"
#include "data/options.h"
#include "model/options.h"
#include "parallel/options.h"
#include "tensor/options.h"
#include "train/options.h"

/* Where a value came from. */
enum fm_origin { FM_FROM_DEFAULT, FM_FROM_FILE, FM_FROM_OVERRIDE };

/* What is known of a key beside its value. */
typedef struct {
    enum fm_origin origin;             /* FM_FROM_DEFAULT also where the value was left empty */
    int line;                          /* of the file */
    bool faulty;                       /* a complaint about it was made: nothing more is concluded from its value */
    char *notes;                       /* lines for comments of the effective job; NULL: none */
} fm_key_state;

/* Owns its strings and states; make it with fm_job_parse, free it with fm_job_clear. */
typedef struct {
    char *name;
    char *output_dir;                  /* absolute */
    int64_t seed;
    bool deterministic;
    bool overwrite;
    int64_t watchdog;                  /* seconds; 0: none */
    char *max_time;                    /* "" where none was given; fm_time_parse */
    fm_model_options model;
    fm_distributed_options distributed;
    fm_pipeline_options pipeline;
    fm_data_options data;
    fm_batch_options batch;
    fm_train_options train;
    fm_optimizer_options optimizer;
    fm_schedule_options schedule;
    fm_peft_options peft;
    fm_validation_options validation;
    fm_checkpoint_options checkpoint;
    fm_log_options log;
    fm_device_options device;
    char *file_name;                   /* as the person gave it, for messages */
    fm_key_state *states;              /* [fm_key_count()], in table order */
} fm_job;

/* Parses the text of a job file and the overrides ("section.key=value", the last of a key wins). Defaults are filled in, relative
 * paths are made absolute from the current directory. FM_ERR_JOB with every error found, one a line: where, section, key, found,
 * expected. On error *out is empty. */
int fm_job_parse(fm_job *out, const char *text, size_t size_bytes, const char *file_name, const char *const *overrides,
                 int n_overrides);

/* What a training run demands beyond single keys, for n_ranks ranks (0: not known yet, nothing that depends on it is checked):
 * required keys, steps or epochs, mesh against ranks, batch sizes, schedule. FM_ERR_JOB with every contradiction found. */
int fm_job_validate(const fm_job *job, int n_ranks);

/* Both at once, all errors in one message: what `run` calls. */
int fm_job_load(fm_job *out, const char *text, size_t size_bytes, const char *file_name, const char *const *overrides,
                int n_overrides, int n_ranks);

void fm_job_clear(fm_job *job);

/* The mesh of the job for n_ranks: [device_mesh] if it was written, else the sizes. FM_ERR_JOB where it does not fit. */
int fm_job_mesh(fm_mesh_shape *out, const fm_job *job, int n_ranks);

#endif
