#include "job/cmd_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "job/bench_report.h"
#include "job/check.h"
#include "job/device.h"
#include "job/slurm.h"

enum { MOST_STEPS = 1000000 };

typedef struct {
    fm_bench_options steps;
    bool own_attention;
    const char *json;                  /* NULL: bench.json in the output directory */
    int argc;                          /* what is left: JOB.ini and overrides */
    char **argv;                       /* [argc]; the words are borrowed */
} arguments;

typedef struct {
    fm_assembly a;
    arguments arguments;
    fm_source *source;
    fm_loop *loop;
    int32_t *ids;
    fm_rows rows;                      /* of this dp rank */
    fm_batch_options batch;
    fm_train_options train;
    fm_schedule_options schedule;
    int64_t estimate_bytes;
    double startup_s;
    fm_bench_result result;
} bench;

/* Seconds since exec: the kernel keeps when a process began, in ticks since boot. */
static double since_exec_s(void)
{
    enum { FIELDS_BEFORE = 19 };       /* between the name's parenthesis and starttime, proc(5) */
    char text[2048] = "";
    FILE *const file = fopen("/proc/self/stat", "r");
    if (file != NULL) {
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
    }
    const char *at = strrchr(text, ')');
    for (int i = 0; at != NULL && i <= FIELDS_BEFORE; i++) {
        at = strchr(at + 1, ' ');
    }
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return at == NULL ? 0.0 : (double)now.tv_sec + 1e-9 * (double)now.tv_nsec - strtod(at, NULL) / (double)sysconf(_SC_CLK_TCK);
}

static int parse_count(int64_t *out, int64_t least, const char *option, const char *value)
{
    char *end = NULL;
    const long long n = value == NULL ? -1 : strtoll(value, &end, 10);
    if (end == NULL || end == value || *end != '\0' || n < least || n > MOST_STEPS) {
        return fm_fail(FM_ERR_JOB, "%s %s: a number of steps from %lld to %d was expected", option, value == NULL ? "" : value,
                       (long long)least, MOST_STEPS);
    }
    *out = n;
    return FM_OK;
}

static int parse_arguments(arguments *out, int argc, char **argv)
{
    *out = (arguments){ .steps = { .warmup = 3, .steps = 10, .split_steps = 3 } };
    out->argv = fm_alloc_array(argc, sizeof *out->argv, FM_MEMORY_HOST);
    if (out->argv == NULL) {
        return FM_ERR_MEMORY;
    }
    const struct {
        const char *option;
        int64_t *place, least;
    } counts[] = { { "--steps", &out->steps.steps, 1 }, { "--warmup", &out->steps.warmup, 0 }, { "--split", &out->steps.split_steps, 0 } };
    for (int i = 0; i < argc; i++) {
        const char *const value = i + 1 < argc ? argv[i + 1] : NULL;
        bool known = false;
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
            if (strcmp(argv[i], counts[c].option) == 0) {
                FM_TRY(parse_count(counts[c].place, counts[c].least, argv[i++], value));
                known = true;
                break;
            }
        }
        if (known) {
            continue;
        }
        if (strcmp(argv[i], "--json") == 0 && value != NULL) {
            out->json = value;
            i++;
        } else if (strcmp(argv[i], "--own-attention") == 0) {
            out->own_attention = true;
        } else if (strncmp(argv[i], "--", 2) == 0) {
            return fm_fail(FM_ERR_JOB, "finemesh bench: %s; the options are --steps N, --warmup N, --split N, --own-attention and "
                           "--json FILE", argv[i]);
        } else {
            out->argv[out->argc++] = argv[i];
        }
    }
    return out->argc > 0 ? FM_OK : fm_fail(FM_ERR_JOB, "finemesh bench JOB.ini [section.key=value ...]: the job is missing");
}

static int check(const bench *b)
{
    fm_complaints complaints = { 0 };
    fm_job_check_steps(&complaints, &b->a.job, b->a.launch->n_ranks);
    return fm_complaints_end(&complaints, FM_ERR_JOB, b->a.job.file_name);
}

/* The rows of this dp rank, the same rows on every mesh: id t of row r is a function of the seed. */
static int make_rows(bench *b)
{
    const fm_mesh_shape *const mesh = &b->a.mesh;
    const fm_coord coord = fm_mesh_coord(mesh, b->a.launch->rank);
    const int64_t T = b->a.job.data.seq_length, dp = fm_mesh_dp_size(mesh), B = b->a.job.batch.global_batch_size / dp;
    const int64_t first = B * fm_mesh_dp_index(mesh, &coord);
    b->ids = fm_alloc_array(B * T, sizeof *b->ids, FM_MEMORY_HOST);
    if (b->ids == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int64_t i = 0; i < B * T; i++) {
        uint32_t bits[4];
        fm_random_bits(bits, (uint64_t)b->a.job.seed, fm_random_stream("bench"), (uint64_t)(first * T + i));
        b->ids[i] = (int32_t)(bits[0] % (uint64_t)b->a.config.V);
    }
    b->rows = (fm_rows){ b->ids, b->ids, B, T };
    return FM_OK;
}

static int open_loop(bench *b)
{
    const fm_job *const job = &b->a.job;
    const fm_bench_options *const n = &b->arguments.steps;
    b->batch = job->batch;
    b->train = (fm_train_options){ .steps = n->warmup + n->steps + n->split_steps };
    b->schedule = (fm_schedule_options){ .name = FM_SCHEDULE_CONSTANT };   /* the job's may be longer than these steps */
    const fm_loop_spec spec = {
        .model = b->a.model, .rows = &b->rows, .seed = (uint64_t)job->seed, .data = &job->data, .batch = &b->batch,
        .train_options = &b->train, .optimizer = &job->optimizer, .schedule = &b->schedule, .validate = &job->validation,
        .pipeline = &job->pipeline,
    };
    return fm_comm_agree(b->a.launch->world, fm_loop_new(&b->loop, &spec));
}

/* What the largest rank was said to take, as the tables have it. */
static int note_estimate(bench *b, const fm_model_reserve_spec *needs)
{
    size_t bytes[FM_MEMORY_KINDS];
    fm_model_estimate(bytes, b->a.model, needs);
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        b->estimate_bytes += (int64_t)bytes[k];
    }
    return fm_comm_all_reduce(b->a.launch->world, &b->estimate_bytes, 1, FM_I64, FM_MAX);
}

static int prepare(bench *b, const fm_launch *launch, int argc, char **argv)
{
    fm_assembly *const a = &b->a;
    FM_TRY(fm_slurm_check_ranks(launch->n_ranks, true));
    FM_TRY(parse_arguments(&b->arguments, argc, argv));
    FM_TRY(fm_assemble_job(a, launch, b->arguments.argc, b->arguments.argv, false));
    a->job.device.own_attention = b->arguments.own_attention;
    FM_TRY(fm_comm_agree(launch->world, check(b)));
    FM_TRY(fm_assemble_shape(a, false));
    FM_TRY(fm_assemble_config(a));
    FM_TRY(fm_comm_agree(launch->world, launch->rank == 0 ? fm_dir_make(a->job.output_dir) : FM_OK));
    FM_TRY(fm_assemble_mesh(a));
    a->tells = FM_TELL_ALL;
    FM_TRY(fm_assemble_device(a));
    FM_TRY(fm_comm_agree(launch->world, make_rows(b)));
    if (a->job.model.init == FM_INIT_PRETRAINED) {
        FM_TRY(fm_assemble_shards(a, &b->source));
    }
    FM_TRY(fm_assemble_model(a, b->source, true));
    FM_TRY(open_loop(b));
    const fm_model_reserve_spec needs = fm_loop_needs(b->loop);
    FM_TRY(note_estimate(b, &needs));
    FM_TRY(fm_assemble_memory(a, &needs));
    FM_TRY(fm_assemble_weights(a, b->source));
    fm_source_close(b->source);
    b->source = NULL;
    b->startup_s = since_exec_s();
    return fm_comm_all_reduce(launch->world, &b->startup_s, 1, FM_F64, FM_MAX);
}

static fm_bench_report make_report(const bench *b)
{
    const fm_assembly *const a = &b->a;
    const fm_model *const m = a->model;
    fm_bench_report report = {
        .job = &a->job, .result = &b->result, .mesh = a->mesh, .ranks = a->launch->n_ranks, .threads = a->device->threads,
        .device = a->device->table->name, .dtype = m->setup.dtype, .master_dtype = m->setup.master_dtype,
        .state_dtype = m->setup.state_dtype, .parameters = fm_config_parameters(&m->config),
        .flops_per_token = fm_loop_flops_per_token(&m->config, a->job.data.seq_length), .startup_s = b->startup_s,
        .estimate_bytes = b->estimate_bytes,
    };
    snprintf(report.model_type, sizeof report.model_type, "%s", m->config.model_type);
    return report;
}

static void introduce(const bench *b)
{
    char mesh[128];
    fm_mesh_print(mesh, sizeof mesh, &b->a.mesh);
    fm_log_print("# %s, %lld parameters, %s, masters %s; %lld rows of %lld tokens a step, %lld at a time; mesh %s, %d threads a rank\n",
                 b->a.model->config.model_type, (long long)fm_config_parameters(&b->a.model->config),
                 fm_dtype_name(b->a.model->setup.dtype), fm_dtype_name(b->a.model->setup.master_dtype),
                 (long long)b->batch.global_batch_size, (long long)b->a.job.data.seq_length, (long long)b->batch.local_batch_size, mesh,
                 b->a.device->threads);
}

/* The steps, then the rates: the model is gone by then, so that large products find room. */
static int measure(bench *b)
{
    fm_comm *const world = b->a.launch->world;
    FM_TRY(fm_bench_steps(&b->result, b->loop, b->a.model, &b->arguments.steps));
    fm_bench_report report = make_report(b);
    fm_loop_destroy(b->loop);
    b->loop = NULL;
    fm_model_destroy(b->a.model);
    b->a.model = NULL;
    FM_TRY(fm_bench_rates(&b->result, b->a.compute, report.dtype, world));
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, b->arguments.json != NULL ? "" : b->a.job.output_dir, b->arguments.json != NULL ? b->arguments.json
                                                                                                              : "bench.json"));
    fm_bench_report_print(&report);
    FM_TRY(fm_comm_agree(world, b->a.launch->rank == 0 ? fm_bench_report_write(&report, path) : FM_OK));
    fm_log_print("# %s\n", path);
    return FM_OK;
}

int fm_cmd_bench(const fm_launch *launch, int argc, char **argv, bool *started)
{
    bench *const b = fm_alloc(sizeof *b, FM_MEMORY_HOST);
    if (b == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc = prepare(b, launch, argc, argv);
    if (rc == FM_OK) {
        *started = true;
        introduce(b);
        rc = measure(b);
    }
    fm_loop_destroy(b->loop);
    fm_source_close(b->source);
    fm_free(b->ids);
    fm_free(b->arguments.argv);
    fm_assembly_clear(&b->a);
    fm_free(b);
    return rc;
}
