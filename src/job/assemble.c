#include "job/assemble.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "ckpt/convert.h"
#include "ckpt/export.h"
#include "ckpt/load.h"
#include "ckpt/match.h"
#include "job/device.h"
#include "job/effective.h"
#include "job/memory.h"

enum { JOB_LIMIT_BYTES = 1 << 20, CONFIG_LIMIT_BYTES = 16 << 20 };

int fm_launch_begin(fm_launch *launch, const void *mpi_comm)
{
    *launch = (fm_launch){ .mpi_comm = mpi_comm, .n_ranks = 1 };
    if (mpi_comm != NULL) {
        FM_TRY(fm_comm_new_world(&launch->world, mpi_comm));
        launch->rank = fm_comm_rank(launch->world);
        launch->n_ranks = fm_comm_size(launch->world);
    }
    fm_log_set_speaker(launch->rank == 0);
    return FM_OK;
}

void fm_launch_end(fm_launch *launch)
{
    fm_comm_destroy(launch->world);
    launch->world = NULL;
}

/* A small file that rank 0 reads for all. */
static int read_for_all(char **text, size_t *size_bytes, const char *path, size_t limit_bytes, fm_comm *world)
{
    *text = NULL;
    *size_bytes = 0;
    int rc = fm_comm_rank(world) == 0 ? fm_file_read(text, size_bytes, path, limit_bytes) : FM_OK;
    FM_TRY(fm_comm_agree(world, rc));
    return fm_comm_broadcast_text(world, text, size_bytes, 0);
}

int fm_assemble_text(fm_assembly *a, const fm_launch *launch, const char *text, const char *name, const char *const *overrides,
                     int n_overrides, bool trains)
{
    a->launch = launch;
    const int rc = trains ? fm_job_load(&a->job, text, strlen(text), name, overrides, n_overrides, launch->n_ranks)
                          : fm_job_parse(&a->job, text, strlen(text), name, overrides, n_overrides);
    FM_TRY(fm_comm_agree(launch->world, rc));
    if (launch->world != NULL) {
        FM_TRY(fm_watch_new(&a->watch, (double)a->job.watchdog, launch->mpi_comm, launch->end, launch->end_context));
        fm_comm_set_watch(launch->world, a->watch);
    }
    return FM_OK;
}

int fm_assemble_job(fm_assembly *a, const fm_launch *launch, int argc, char **argv, bool trains)
{
    char *text;
    size_t size_bytes;
    FM_TRY(read_for_all(&text, &size_bytes, argv[0], JOB_LIMIT_BYTES, launch->world));
    const int rc = strlen(text) != size_bytes
        ? fm_fail(FM_ERR_JOB, "%s: byte %zu is 0: not a text file", argv[0], strlen(text))
        : fm_assemble_text(a, launch, text, argv[0], (const char *const *)argv + 1, argc - 1, trains);
    fm_free(text);
    return rc;
}

/* Ranks that the sizes of a job describe, with dp_size 0 as 1. */
static int described_ranks(const fm_distributed_options *d)
{
    const fm_mesh_sizes *const s = &d->sizes;
    const int dp = s->dp_size > 0 ? s->dp_size : s->dp_replicate_size;
    const int extents[FM_DIMS] = { s->pp_size, s->cp_size, s->tp_size, dp, 1 };
    int64_t ranks = 1;
    for (int i = 0; i < FM_DIMS && ranks <= INT32_MAX; i++) {
        const int extent = d->has_mesh ? d->explicit_mesh.size[i] : extents[i];
        ranks *= extent > 0 ? extent : 1;
    }
    return ranks > INT32_MAX ? INT32_MAX : (int)ranks;
}

int fm_assemble_shape(fm_assembly *a, bool imagined)
{
    const int rc = fm_job_mesh(&a->mesh, &a->job, a->launch->n_ranks);
    return rc < 0 && imagined ? fm_job_mesh(&a->mesh, &a->job, described_ranks(&a->job.distributed)) : rc;
}

static int parse_config(fm_assembly *a, const char *path)
{
    char *text;
    size_t size_bytes;
    FM_TRY(read_for_all(&text, &size_bytes, path, CONFIG_LIMIT_BYTES, a->launch->world));
    json_t *object = NULL;
    int rc = fm_json_parse(&object, text, size_bytes, path);
    if (rc == FM_OK) {
        rc = fm_config_parse(&a->config, object, path);
    }
    if (rc == FM_OK && a->job.distributed.use_hf_tp_plan) {
        rc = fm_tp_plan_resolve(&a->tp_plan, &a->config, object, path);
    }
    json_decref(object);
    fm_free(text);
    return fm_comm_agree(a->launch->world, rc);
}

/* The head's cost in units of a layer, by parameters: what the division of layers over stages weighs. */
static double head_cost(const fm_config *c)
{
    const double layer = (double)c->C * (double)(c->H + c->K) * c->D * 2.0 + 3.0 * (double)c->C * (double)c->F;
    return (double)c->V * (double)c->C / layer;
}

static int divide_layers(fm_assembly *a)
{
    const int pp = a->mesh.size[FM_PP], L = a->config.L;
    const int stages = pp * (pp > 1 ? a->job.pipeline.virtual_stages : 1);
    const fm_coord coord = fm_mesh_coord(&a->mesh, a->launch->rank % fm_mesh_ranks(&a->mesh));   /* a mesh may be imagined */
    if (stages > L) {
        return fm_fail(FM_ERR_JOB, "%d pipeline stages for a model of %d layers: every stage needs a layer. Choose pp_size x "
                       "virtual_stages <= %d.", stages, L, L);
    }
    int *const first = fm_alloc_array(stages + 1, sizeof *first, FM_MEMORY_HOST);
    a->stage_of_layer = fm_alloc_array(L, sizeof *a->stage_of_layer, FM_MEMORY_HOST);
    a->n_chunks = stages / pp;
    a->chunks = fm_alloc_array(a->n_chunks, sizeof *a->chunks, FM_MEMORY_HOST);
    if (first == NULL || a->stage_of_layer == NULL || a->chunks == NULL) {
        fm_free(first);
        return FM_ERR_MEMORY;
    }
    if (stages == 1) {
        first[0] = 0;
        first[1] = L;
    } else {
        fm_pipeline_divide(first, L, stages, 0.0, head_cost(&a->config));
    }
    for (int s = 0; s < stages; s++) {
        for (int l = first[s]; l < first[s + 1]; l++) {
            a->stage_of_layer[l] = s % pp;
        }
        if (s % pp == coord.at[FM_PP]) {
            a->chunks[s / pp] = (fm_chunk){ first[s], first[s + 1] - first[s], s == 0, s == stages - 1 };
        }
    }
    fm_free(first);
    return FM_OK;
}

fm_layout fm_assembly_layout(const fm_assembly *a)
{
    return (fm_layout){
        .mesh = a->mesh, .heads = { a->config.H, a->config.K, a->config.D }, .n_layers = a->config.L, .n_tensors = a->n_tensors,
        .tensors = a->tensors, .stage_of_layer = a->stage_of_layer,
    };
}

int fm_assemble_config(fm_assembly *a)
{
    return fm_assemble_config_of(a, a->job.model.path);
}

int fm_assemble_config_of(fm_assembly *a, const char *dir)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, dir, "config.json"));
    const bool is_file = a->launch->rank == 0 && fm_path_exists(dir) && !fm_path_is_dir(dir);
    FM_TRY(fm_comm_agree(a->launch->world, is_file ? fm_fail(FM_ERR_JOB, "%s: it is a file; the directory that holds config.json and the "
                                                             "weights was expected", dir) : FM_OK));
    FM_TRY(parse_config(a, path));
    int rc = fm_config_tensors(&a->tensors, &a->n_tensors, &a->config);
    if (rc == FM_OK) {
        fm_tp_plan_apply(a->tensors, a->n_tensors, &a->tp_plan);
        rc = divide_layers(a);
    }
    if (rc == FM_OK) {
        const fm_layout layout = fm_assembly_layout(a);
        rc = fm_layout_check(&layout);
    }
    return fm_comm_agree(a->launch->world, rc);
}

int fm_assemble_mesh(fm_assembly *a)
{
    const int tp = a->mesh.size[FM_TP];
    const fm_head_counts heads = { a->config.H, a->config.K, a->config.D };
    int *const run = fm_alloc_array(tp, sizeof *run, FM_MEMORY_HOST);
    FM_TRY(fm_comm_agree(a->launch->world, run == NULL ? FM_ERR_MEMORY : FM_OK));
    for (int t = 0; t < tp; t++) {
        run[t] = (int)fm_kv_replicas(&heads, tp, t).start;
    }
    a->ranks_of_node = 1;
    a->rank_of_node = 0;
    int rc = a->launch->mpi_comm == NULL ? FM_OK : fm_comm_ranks_of_node(&a->ranks_of_node, &a->rank_of_node, a->launch->mpi_comm);
    if (rc == FM_OK) {
        rc = fm_groups_new(&a->groups, &a->mesh, tp > a->config.K ? run : NULL, a->launch->n_ranks > 1 ? a->launch->mpi_comm : NULL);
    }
    fm_free(run);
    fm_groups_set_watch(a->groups, a->watch);
    return fm_comm_agree(a->launch->world, rc);
}

enum fm_dtype fm_assembly_dtype(const fm_assembly *a)
{
    const enum fm_dtype natural = a->device->table->is_host ? FM_F32 : a->model == NULL ? a->config.dtype : a->model->config.dtype;
    return a->job.model.dtype == FM_DTYPE_AUTO ? natural : (enum fm_dtype)a->job.model.dtype;
}

static enum fm_keep keep_of(enum fm_recompute recompute)
{
    return recompute == FM_RECOMPUTE_FULL ? FM_KEEP_INPUT : recompute == FM_RECOMPUTE_SELECTIVE ? FM_KEEP_ATTENTION : FM_KEEP_ALL;
}

int fm_assemble_shards(fm_assembly *a, fm_source **source)
{
    char dir[FM_PATH_BYTES];
    fm_comm *const world = a->launch->world;
    const fm_layout layout = fm_assembly_layout(a);
    fm_convert_report report;
    FM_TRY(fm_path_join(dir, a->job.output_dir, "shards"));
    fm_comm *const tp = a->groups == NULL ? NULL : fm_groups_get(a->groups, FM_GROUP_TP);
    FM_TRY(fm_convert(&report, dir, a->job.model.path, &layout, a->tensors, true, world, tp));
    if (report.reused) {
        char mesh[128];
        fm_mesh_print(mesh, sizeof mesh, &report.mesh);
        const bool same = memcmp(&report.mesh, &a->mesh, sizeof a->mesh) == 0;
        fm_log_print("# shards: %s is up to date, made for the mesh %s%s\n", dir, mesh, same ? "" : "; any mesh reads it");
    } else {
        fm_log_print("# shards: %s written, %.1f MiB read in %lld requests\n", dir, (double)report.bytes_read / (1 << 20),
                     (long long)report.requests);
    }
    return fm_source_open_shards(source, dir, world);
}

/* The estimate against what this machine, or this rank's GPU, has left. */
static int check_room(const size_t bytes[FM_MEMORY_KINDS], const fm_assembly *a)
{
    const size_t of_device = a->device->table->free_bytes(a->device);
    const fm_memory_room room = {
        .bytes = of_device > 0 ? (int64_t)of_device : fm_memory_available_bytes(), .ranks = a->ranks_of_device,
        .place = of_device > 0 ? "GPU" : "machine",
    };
    return fm_memory_check(bytes, &room);
}

int fm_assemble_memory(fm_assembly *a, const fm_model_reserve_spec *needs)
{
    size_t bytes[FM_MEMORY_KINDS];
    int64_t all[FM_MEMORY_KINDS + 1] = { 0 }, own = 0;
    fm_model_estimate(bytes, a->model, needs);
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        own += (int64_t)bytes[k];
    }
    /* the table shows the rank with the largest sum */
    all[FM_MEMORY_KINDS] = own;
    FM_TRY(fm_comm_all_reduce(a->launch->world, &all[FM_MEMORY_KINDS], 1, FM_I64, FM_MAX));
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        all[k] = own == all[FM_MEMORY_KINDS] ? (int64_t)bytes[k] : 0;
    }
    FM_TRY(fm_comm_all_reduce(a->launch->world, all, FM_MEMORY_KINDS, FM_I64, FM_MAX));
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        bytes[k] = (size_t)all[k];
    }
    int rc = check_room(bytes, a);
    FM_TRY(fm_comm_agree(a->launch->world, rc));
    rc = fm_model_allocate(a->model);
    if (rc == FM_OK) {
        rc = fm_model_reserve(a->model, needs);
    }
    return fm_comm_agree(a->launch->world, rc);
}

int fm_assemble_model(fm_assembly *a, const fm_source *source, bool trains)
{
    const enum fm_dtype dtype = fm_assembly_dtype(a);
    const fm_optimizer_options *const o = &a->job.optimizer;
    const fm_model_setup setup = {
        .dtype = dtype, .trains = trains, .without_states = a->without_states,
        .master_dtype = o->master_dtype == FM_DTYPE_SAME ? dtype : (enum fm_dtype)o->master_dtype,
        .state_dtype = o->state_dtype == FM_DTYPE_SAME ? dtype : (enum fm_dtype)o->state_dtype,
        .reduce_dtype = (enum fm_dtype)a->job.distributed.reduce_dtype,
        .sequence_parallel = a->job.distributed.sequence_parallel || a->tp_plan.sequence_parallel,
        .keep = keep_of(a->job.distributed.activation_checkpointing),
    };
    int *const unused = fm_alloc_array(a->n_tensors, sizeof *unused, FM_MEMORY_HOST);
    int rc = unused == NULL ? FM_ERR_MEMORY : FM_OK;
    if (rc == FM_OK && source != NULL) {
        rc = fm_match_tensors(unused, a->tensors, a->n_tensors, source, a->job.model.path);
    }
    fm_free(unused);
    if (rc == FM_OK) {
        rc = fm_model_new(&a->model, &a->config, a->tensors, a->n_tensors, a->stage_of_layer, a->chunks, a->n_chunks, a->groups,
                          a->compute, &setup);
        a->tensors = NULL;
        a->stage_of_layer = NULL;
    }
    return fm_comm_agree(a->launch->world, rc);
}

int fm_assembly_export(const fm_assembly *a, const char *dir)
{
    const fm_model *const m = a->model;
    const void **const data = fm_alloc_array(m->n_tensors, sizeof *data, FM_MEMORY_HOST);
    enum fm_dtype *const dtypes = fm_alloc_array(m->n_tensors, sizeof *dtypes, FM_MEMORY_HOST);
    int rc = data == NULL || dtypes == NULL ? FM_ERR_MEMORY : FM_OK;
    for (int p = 0; p < m->n_params && rc == FM_OK; p++) {
        const fm_param_view view = fm_model_param(m, p);
        data[m->params[p].tensor] = view.master != NULL ? view.master : view.weight;
        dtypes[m->params[p].tensor] = view.master != NULL ? m->setup.master_dtype : m->setup.dtype;
    }
    rc = fm_comm_agree(a->launch->world, rc);
    if (rc == FM_OK) {
        fm_array_feed arrays = { .layout = &m->layout, .coord = m->coord, .data = data, .dtypes = dtypes, .device = a->device };
        const fm_tensor_feed feed = fm_feed_arrays(&arrays);
        const fm_export_options options = { .source_dir = a->job.model.path };
        rc = fm_export(dir, &m->layout, &feed, &options, a->launch->world, fm_groups_get(a->groups, FM_GROUP_TP));
    }
    fm_free(data);
    fm_free(dtypes);
    return rc;
}

int fm_assemble_weights(fm_assembly *a, fm_source *source)
{
    const int rc = source == NULL ? fm_load_random(a->model, (uint64_t)a->job.seed) : fm_load_model(a->model, source);
    return fm_comm_agree(a->launch->world, rc);
}

void fm_assembly_clear(fm_assembly *a)
{
    fm_model_destroy(a->model);
    fm_assembly_close_device(a);
    fm_comm_set_watch(a->launch == NULL ? NULL : a->launch->world, NULL);
    fm_watch_destroy(a->watch);
    fm_config_clear(&a->config);
    fm_free(a->tensors);
    fm_free(a->stage_of_layer);
    fm_free(a->chunks);
    fm_job_clear(&a->job);
    *a = (fm_assembly){ .launch = NULL };
}
