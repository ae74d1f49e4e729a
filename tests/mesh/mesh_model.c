/* Law 1 and law 2 in one program: models on meshes of the ranks that it was started with, against what transformers computed,
 * and against one rank.
 *
 *     mesh_model CHECK JOB DATA SCRATCH MODELS [mesh=PP,R,S,CP,TP] [most=PP,R,S,CP,TP] [local=N] [section.key=value ...]
 *
 * JOB is mesh_model.ini, DATA a directory of models (tests/oracle/data), SCRATCH an empty directory, MODELS a list with commas
 * or `all`. Without mesh=, every legal mesh of the ranks is tried, as far as most= allows. local= is the microbatch's rows
 * where dp leaves so many. Keys go to the job. The checks are those of checks.h. A line of the table for each model and mesh;
 * errors are relative. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "checks.h"

typedef struct {
    const char *name;
    int (*run)(run *r);
    int64_t global_batch_size;
    bool has_reference;
    const char *header;
} check;

static const check checks[] = {
    { "gradients", check_gradients, ROWS, true, "loss      norm      logits   gradient, worst against its tolerance" },
    { "curve", check_curve, 4, true, "step 1    worst to 20, to the end" },
    { "empty", check_empty, ROWS, true, "loss and change without labels, then loss with, change / lr" },
    { "alone", check_alone, ROWS, false, "loss      norm      tensors that differ in a bit, gradient" },
    { "recompute", check_recompute, ROWS, false, "bits" },
};

/* Whether model and batch fit on the mesh. */
static bool is_legal(const run *r, const fm_mesh_shape *mesh, int64_t global_batch_size)
{
    for (int d = 0; d < FM_DIMS; d++) {
        if (mesh->size[d] > r->s->most.size[d] || (r->s->only.size[d] > 0 && mesh->size[d] != r->s->only.size[d])) {
            return false;
        }
    }
    const int stages = mesh->size[FM_PP] > 1 ? mesh->size[FM_PP] * r->s->virtual_stages : 1;
    return stages <= r->L && mesh->size[FM_TP] <= r->H && global_batch_size % fm_mesh_dp_size(mesh) == 0;
}

/* The next way to write `ranks` as a product of extents; false after the last. Starts from all zeros. */
static bool next_mesh(fm_mesh_shape *mesh, int ranks)
{
    do {
        int d = FM_DIMS - 1;
        if (mesh->size[0] == 0) {
            *mesh = (fm_mesh_shape){ { 1, 1, 1, 1, 0 } };
        }
        while (d >= 0 && ++mesh->size[d] > ranks) {
            mesh->size[d--] = 1;
        }
        if (d < 0) {
            return false;
        }
    } while (fm_mesh_ranks(mesh) != ranks);
    return true;
}

static int read_sizes(run *r)
{
    char path[FM_PATH_BYTES];
    json_t *config = NULL;
    FM_TRY(fm_path_join(path, r->dir, "config.json"));
    FM_TRY(fm_json_read(&config, path, CONFIG_LIMIT_BYTES));
    int rc = fm_json_get_int(&r->L, config, "num_hidden_layers", 1, 1 << 20, path);
    rc = rc < 0 ? rc : fm_json_get_int(&r->H, config, "num_attention_heads", 1, 1 << 20, path);
    rc = rc < 0 ? rc : fm_json_get_int(&r->V, config, "vocab_size", 1, 1 << 20, path);
    json_decref(config);
    return rc;
}

static int open_model(run *r, const check *c)
{
    session *const s = r->s;
    char scratch[FM_PATH_BYTES];
    FM_TRY(fm_path_join(r->dir, s->data, r->model));
    FM_TRY(fm_path_join(scratch, s->scratch, r->model));
    FM_TRY(fm_comm_agree(s->launch.world, s->launch.rank == 0 ? fm_dir_make(scratch) : FM_OK));
    FM_TRY(read_sizes(r));
    return c->has_reference ? reference_open(&r->ref, r->dir, scratch, s->launch.world) : FM_OK;
}

/* A failure that the ranks agreed on is a line of the table. */
static void try_mesh(run *r, const check *c, const fm_mesh_shape *mesh)
{
    const int64_t rows = c->global_batch_size / fm_mesh_dp_size(mesh);
    r->mesh = *mesh;
    r->local_batch_size = r->s->local_batch_size < rows ? r->s->local_batch_size : rows;
    r->compared = false;
    run_set_job(r, mesh);
    const int rc = c->run(r);
    trial_end(&r->t);
    if (rc < 0) {
        run_report(r, false, fm_error_message());
    }
}

static int try_model(session *s, const check *c, const char *model)
{
    run *const r = fm_alloc(sizeof *r, FM_MEMORY_HOST);
    FM_ASSERT(r != NULL);
    r->s = s;
    r->model = model;
    const int rc = open_model(r, c);
    for (fm_mesh_shape mesh = { { 0 } }; rc == FM_OK && next_mesh(&mesh, s->launch.n_ranks); ) {
        if (is_legal(r, &mesh, c->global_batch_size)) {
            try_mesh(r, c, &mesh);
        }
    }
    reference_close(&r->ref);
    reference_close(&r->alone);
    fm_free(r);
    return rc;
}

static bool read_mesh(fm_mesh_shape *out, const char *text)
{
    int *const n = out->size;
    return sscanf(text, "%d,%d,%d,%d,%d", &n[0], &n[1], &n[2], &n[3], &n[4]) == FM_DIMS;
}

/* mesh=, most=, local=, and keys of the job. */
static bool read_argument(session *s, const char *word)
{
    if (strncmp(word, "mesh=", 5) == 0) {
        return read_mesh(&s->only, word + 5);
    }
    if (strncmp(word, "most=", 5) == 0) {
        return read_mesh(&s->most, word + 5);
    }
    if (strncmp(word, "local=", 6) == 0) {
        s->local_batch_size = atoi(word + 6);
        return s->local_batch_size > 0;
    }
    sscanf(word, "pipeline.virtual_stages=%d", &s->virtual_stages);
    s->keys[s->n_keys++] = word;
    return s->n_keys < MAX_WORDS / 2;
}

static const char all_models[] = "llama,llama_bias,llama_dynamic,llama_large_weights,llama_linear,llama_llama3,llama_pad,"
                                 "llama_tied,llama_yarn,mistral,qwen2,qwen2_window,qwen3,qwen3_deep";

static int try_models(session *s, const check *c, const char *list)
{
    char models[1024];
    snprintf(models, sizeof models, "%s", strcmp(list, "all") == 0 ? all_models : list);
    session_say(s, "# %-4s %-20s %-10s %3s  %s\n", "", "model", "mesh", "b", c->header);
    char *rest = models;
    for (char *model; (model = strsep(&rest, ",")) != NULL; ) {
        FM_TRY(try_model(s, c, model));
    }
    return s->lines > 0 ? FM_OK : fm_fail(FM_ERR_JOB, "no mesh of %d ranks is legal", s->launch.n_ranks);
}

static int run_session(session *s, const char *name, const char *models)
{
    MPI_Comm world = MPI_COMM_WORLD;
    int ranks;
    MPI_Comm_size(world, &ranks);
    FM_TRY(fm_launch_begin(&s->alone, NULL));
    FM_TRY(fm_launch_begin(&s->launch, ranks > 1 ? &world : NULL));
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        if (strcmp(checks[i].name, name) == 0) {
            return try_models(s, &checks[i], models);
        }
    }
    return fm_fail(FM_ERR_JOB, "%s is no check", name);
}

int main(int argc, char **argv)
{
    if (argc < 6 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    session s = {
        .job = argv[2], .data = argv[3], .scratch = argv[4], .most = { { 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20 } },
        .local_batch_size = 2, .virtual_stages = 1,
    };
    bool good = true;
    for (int i = 6; i < argc && good; i++) {
        good = read_argument(&s, argv[i]);
    }
    const int rc = good ? run_session(&s, argv[1], argv[5]) : fm_fail(FM_ERR_JOB, "the arguments are not understood");
    if (rc < 0) {
        printf("rank %d: %s\n", s.launch.rank, fm_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    fm_launch_end(&s.launch);
    MPI_Finalize();
    return s.failures > 0;
}
