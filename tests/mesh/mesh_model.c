/* Law 1 and law 2 in one program: small models on meshes of the ranks that it was started with, against what transformers computed.
 *
 *     mesh_model CHECK DATA SCRATCH MODELS [mesh=PP,R,S,CP,TP] [most=PP,R,S,CP,TP] [local=N] [section.key=value ...]
 *
 * DATA is tests/oracle/data, SCRATCH an empty directory, MODELS a list with commas or `all`. Without mesh=, every legal mesh of the
 * ranks is tried, as far as most= allows. local= is the microbatch's rows where dp leaves so many. Keys go to the job (mesh_model.ini).
 * CHECK is one of
 *     gradients   one step over rows.jsonl: loss, every gradient, their norm, the first row's logits
 *     curve       the steps of loss_curve.json
 *     empty       a batch without label tokens before rows.jsonl: nothing is learnt from it
 * A line of the table for each model and mesh; errors are relative. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "reference.h"
#include "trial.h"

enum { MAX_MODELS = 32, MAX_OVERRIDES = 48, OVERRIDE_BYTES = 2 * FM_PATH_BYTES, ROWS = 8, CONFIG_LIMIT_BYTES = 1 << 20 };

/* What is asked of a compute dtype, in relative errors. A gradient may also be as far off as torch is: twice its distance in fp32; in
 * bf16 that distance times the ratio of the roundings, 2^16 (torch's own bf16 gradients of these models take half of it). */
typedef struct {
    double loss, gradient, torchs, norm, logits;
} tolerances;

static const tolerances tolerances_of[FM_DTYPES] = {
    [FM_F32] = { 1e-6, 1e-5, 2.0, 1e-6, 1e-5 },
    [FM_BF16] = { 1e-3, 2e-2, 65536.0, 5e-3, 2e-2 },
};

/* The arguments, and what is the same for all models and meshes. */
typedef struct {
    fm_launch launch;
    const char *data, *scratch;
    char job[FM_PATH_BYTES];
    fm_mesh_shape most, only;          /* only: zeros where every mesh is to be tried */
    int64_t local_batch_size;
    const char *keys[MAX_OVERRIDES];
    int n_keys;
    int failures, lines;
} session;

/* A model on a mesh: one line of the table. */
typedef struct {
    session *s;
    const char *model;
    char dir[FM_PATH_BYTES];
    reference ref;
    fm_mesh_shape mesh;
    int64_t local_batch_size;
    trial t;
    tensor_error gradient;
    bool compared;                     /* gradients were */
    char words[MAX_OVERRIDES][OVERRIDE_BYTES];
    const char *overrides[MAX_OVERRIDES];
    int n_overrides;
} run;

static void say(const session *s, const char *format, ...) FM_PRINTF(2, 3);
static void say(const session *s, const char *format, ...)
{
    if (s->launch.rank == 0) {
        va_list args;
        va_start(args, format);
        vprintf(format, args);
        va_end(args);
        fflush(stdout);
    }
}

static void override(run *r, const char *format, ...) FM_PRINTF(2, 3);
static void override(run *r, const char *format, ...)
{
    FM_ASSERT(r->n_overrides < MAX_OVERRIDES);
    va_list args;
    va_start(args, format);
    vsnprintf(r->words[r->n_overrides], OVERRIDE_BYTES, format, args);
    va_end(args);
    r->overrides[r->n_overrides] = r->words[r->n_overrides];
    r->n_overrides++;
}

static void override_common(run *r)
{
    r->n_overrides = 0;
    override(r, "model.path=%s", r->dir);
    override(r, "job.output_dir=%s", r->s->scratch);
    for (int d = 0; d < FM_DIMS; d++) {
        if (r->mesh.size[d] > 1) {
            override(r, "device_mesh.%s=%d", fm_dim_name(d), r->mesh.size[d]);
        }
    }
    override(r, "batch.local_batch_size=%lld", (long long)r->local_batch_size);
    for (int k = 0; k < r->s->n_keys; k++) {
        override(r, "%s", r->s->keys[k]);
    }
}

static int begin(run *r, trial_on_gradients *on_gradients)
{
    char index[FM_PATH_BYTES];
    FM_TRY(fm_path_join(index, r->s->scratch, "data.index"));
    const trial_spec spec = {
        .launch = &r->s->launch, .job = r->s->job, .index = index, .overrides = r->overrides, .n_overrides = r->n_overrides,
        .on_gradients = on_gradients, .context = r,
    };
    return trial_begin(&r->t, &spec);
}

static void print_line(const run *r, bool good, const char *what)
{
    const int *const n = r->mesh.size;
    char mesh[64];
    snprintf(mesh, sizeof mesh, "%dx%dx%dx%dx%d", n[FM_PP], n[FM_DP_REPLICATE], n[FM_DP_SHARD], n[FM_CP], n[FM_TP]);
    say(r->s, "%-6s %-20s %-10s %3lld  %s\n", good ? "ok" : "WRONG", r->model, mesh, (long long)r->local_batch_size, what);
    r->s->lines++;
    r->s->failures += !good;
}

/* A step. An error that is this rank's own takes all ranks out: others wait for it. */
static int step_or_leave(run *r, int64_t step, fm_step_metrics *m)
{
    const int rc = fm_loop_step(r->t.loop, step, m);
    if (rc < 0 && rc != FM_ERR_NUMERIC) {
        printf("rank %d: %s\n", r->s->launch.rank, fm_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return rc;
}

static const tolerances *tolerances_for(const run *r)
{
    return &tolerances_of[fm_assembly_dtype(&r->t.a)];
}

static int compare_gradients(void *context, fm_model *model, int64_t step)
{
    (void)step;
    run *const r = context;
    r->compared = true;
    return reference_compare_gradients(&r->gradient, &r->ref, model, tolerances_for(r)->gradient,
                                       tolerances_for(r)->torchs);
}

/* Judges a step over rows.jsonl. Not a number is no number that is small enough. */
static void report_step(run *r, const fm_step_metrics *m, double logits)
{
    const tolerances *const allowed = tolerances_for(r);
    const double loss = m->loss / r->ref.loss - 1.0, norm = m->grad_norm / r->ref.grad_norm - 1.0;
    const bool counted = m->label_tokens == r->ref.label_tokens && m->tokens == r->ref.tokens;
    const bool good = counted && r->compared && fabs(loss) <= allowed->loss && fabs(norm) <= allowed->norm && logits <= allowed->logits
                      && r->gradient.error <= r->gradient.tolerance && r->gradient.complaint[0] == '\0';
    char what[640];
    snprintf(what, sizeof what, "%+9.1e %+9.1e %8.1e %8.1e  %s%s%s%s", loss, norm, logits, r->gradient.error, r->gradient.name,
             counted ? "" : "; label tokens or tokens are miscounted", r->gradient.complaint[0] == '\0' ? "" : "; ",
             r->gradient.complaint);
    print_line(r, good, what);
}

static int check_gradients(run *r)
{
    override(r, "data.train=%s/rows.jsonl", r->dir);
    FM_TRY(begin(r, compare_gradients));
    double logits;
    FM_TRY(reference_compare_logits(&logits, &r->ref, r->t.a.model, r->t.data, r->local_batch_size));
    fm_step_metrics metrics;
    FM_TRY(step_or_leave(r, 1, &metrics));
    report_step(r, &metrics, logits);
    return FM_OK;
}

static const char gradients_header[] = "loss      norm      logits   gradient, worst against its tolerance";

/* ---- curve ---- */

static const char curve_header[] = "step 1    worst to 20, to the end";

/* The settings of loss_curve.json as keys of a job; *losses is borrowed from *curve. */
static int read_curve(json_t **curve, const json_t **losses, run *r)
{
    static const char *const keys[][2] = {
        { "optimizer.lr", "lr" }, { "optimizer.beta1", "beta1" }, { "optimizer.beta2", "beta2" }, { "optimizer.eps", "eps" },
        { "optimizer.weight_decay", "weight_decay" }, { "optimizer.clip_grad_norm", "clip_grad_norm" },
        { "batch.global_batch_size", "global_batch_size" }, { "train.steps", "steps" },
    };
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, r->dir, "loss_curve.json"));
    FM_TRY(fm_json_read(curve, path, CONFIG_LIMIT_BYTES));
    for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) {
        override(r, "%s=%.17g", keys[k][0], json_number_value(json_object_get(*curve, keys[k][1])));
    }
    *losses = json_object_get(*curve, "loss_fp64");
    return json_array_size(*losses) > 0 ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s has no losses", path);
}

static int run_curve(run *r, const json_t *losses)
{
    override(r, "data.train=%s/curve.jsonl", r->s->data);
    FM_TRY(begin(r, NULL));
    double first = 0.0, early = 0.0, worst = 0.0;
    const int64_t steps = fm_loop_steps(r->t.loop);
    for (int64_t step = 1; step <= steps; step++) {
        fm_step_metrics m;
        FM_TRY(step_or_leave(r, step, &m));
        const double error = fabs(m.loss / json_number_value(json_array_get(losses, (size_t)step - 1)) - 1.0);
        first = step == 1 ? error : first;
        early = step <= 20 && !(error <= early) ? error : early;
        worst = error <= worst ? worst : error;
    }
    char name[FM_NAME_BYTES], what[512];
    FM_TRY(reference_check_replicas(name, r->t.a.model, false));
    snprintf(what, sizeof what, "%9.1e %9.1e %9.1e  %s%s", first, early, worst, name[0] == '\0' ? "" : "replicas drifted apart: ", name);
    print_line(r, steps == (int64_t)json_array_size(losses) && first <= 1e-6 && early <= 1e-5 && worst <= 1e-4 && name[0] == '\0', what);
    return FM_OK;
}

static int check_curve(run *r)
{
    json_t *curve = NULL;
    const json_t *losses;
    int rc = read_curve(&curve, &losses, r);
    if (rc == FM_OK) {
        rc = run_curve(r, losses);
    }
    json_decref(curve);
    return rc;
}

/* ---- empty ---- */

/* Eight rows of 1 to 8 tokens without a label. Rank 0 writes. */
static int write_empty_rows(const run *r)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, r->s->scratch, "empty.jsonl"));
    char text[1024] = "";
    for (int row = 0; row < ROWS; row++) {
        strcat(text, "{\"input_ids\": [1");
        for (int i = 0; i < row; i++) {
            strcat(text, ", 2");
        }
        strcat(text, "], \"labels\": [-100");
        for (int i = 0; i < row; i++) {
            strcat(text, ", -100");
        }
        strcat(text, "]}\n");
    }
    return fm_file_replace(path, text, strlen(text));
}

/* The largest change of a weight of this rank since `before` (its first call: NULL). The caller frees *weights. */
static int largest_change(double *change, float **weights, const fm_model *m, const float *before)
{
    int64_t n = 0, at = 0;
    for (int u = 0; u < m->n_units; u++) {
        n += m->units[u].shard_elements;
    }
    *weights = fm_alloc_array(n, sizeof **weights, FM_MEMORY_HOST);
    if (*weights == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int u = 0; u < m->n_units; u++) {
        const int64_t elements = m->units[u].shard_elements;
        FM_TRY(fm_device_copy_out(m->compute->device, *weights + at, m->units[u].weight, (size_t)elements * sizeof **weights));
        at += elements;
    }
    *change = 0.0;
    for (int64_t i = 0; before != NULL && i < n; i++) {
        const double difference = fabs((double)(*weights)[i] - (double)before[i]);
        *change = difference <= *change ? *change : difference;
    }
    return fm_comm_all_reduce(fm_groups_get(m->groups, FM_GROUP_WORLD), change, 1, FM_F64, FM_MAX);
}

/* Step 1 without label tokens, step 2 over rows.jsonl: the weights are still the first ones, and AdamW's first step moves the most
 * moved weight by the learning rate (its second, after gradients of 0, by 0.74 of it). */
static int check_empty(run *r)
{
    FM_TRY(fm_comm_agree(r->s->launch.world, r->s->launch.rank == 0 ? write_empty_rows(r) : FM_OK));
    override(r, "data.train=%s/empty.jsonl,%s/rows.jsonl", r->s->scratch, r->dir);
    override(r, "train.steps=2");
    override(r, "optimizer.weight_decay=0");
    override(r, "optimizer.clip_grad_norm=0");
    FM_TRY(begin(r, NULL));
    float *start = NULL, *after_empty = NULL, *after_full = NULL;
    double none, change_empty, change_full;
    fm_step_metrics empty, full;
    const fm_model *const m = r->t.a.model;
    int rc;
    FM_TRY_TO(done, rc, largest_change(&none, &start, m, NULL));
    FM_TRY_TO(done, rc, step_or_leave(r, 1, &empty));
    FM_TRY_TO(done, rc, largest_change(&change_empty, &after_empty, m, start));
    FM_TRY_TO(done, rc, step_or_leave(r, 2, &full));
    FM_TRY_TO(done, rc, largest_change(&change_full, &after_full, m, start));
    const double lr = r->t.a.job.optimizer.lr, loss = full.loss / r->ref.loss - 1.0;
    char what[256];
    snprintf(what, sizeof what, "%8.1e %8.1e %+9.1e %8.5f", empty.loss, change_empty, loss, change_full / lr);
    print_line(r, empty.loss == 0.0 && empty.grad_norm == 0.0 && empty.label_tokens == 0 && empty.tokens == 36 && change_empty == 0.0
               && fabs(loss) <= tolerances_for(r)->loss && fabs(change_full / lr - 1.0) < 0.01, what);
done:
    fm_free(start);
    fm_free(after_empty);
    fm_free(after_full);
    return rc;
}

static const char empty_header[] = "loss and change without labels, then loss with, change / lr";

/* ---- models, meshes ---- */

typedef struct {
    const char *name;
    int (*run)(run *r);
    int64_t global_batch_size;
    const char *header;
} check;

static const check checks[] = {
    { "gradients", check_gradients, ROWS, gradients_header },
    { "curve", check_curve, 4, curve_header },
    { "empty", check_empty, ROWS, empty_header },
};

/* Whether model and batch fit on the mesh. */
static bool is_legal(const run *r, const fm_mesh_shape *mesh, int64_t n_layers, int64_t n_heads, int64_t global_batch_size)
{
    for (int d = 0; d < FM_DIMS; d++) {
        if (mesh->size[d] > r->s->most.size[d] || (r->s->only.size[d] > 0 && mesh->size[d] != r->s->only.size[d])) {
            return false;
        }
    }
    return mesh->size[FM_PP] <= n_layers && mesh->size[FM_TP] <= n_heads && global_batch_size % fm_mesh_dp_size(mesh) == 0;
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

static int read_sizes(int64_t *n_layers, int64_t *n_heads, const char *dir)
{
    char path[FM_PATH_BYTES];
    json_t *config = NULL;
    FM_TRY(fm_path_join(path, dir, "config.json"));
    FM_TRY(fm_json_read(&config, path, CONFIG_LIMIT_BYTES));
    int rc = fm_json_get_int(n_layers, config, "num_hidden_layers", 1, 1 << 20, path);
    rc = rc < 0 ? rc : fm_json_get_int(n_heads, config, "num_attention_heads", 1, 1 << 20, path);
    json_decref(config);
    return rc;
}

/* A failure that the ranks agreed on is a line of the table; any other leaves ranks waiting. */
static void try_mesh(run *r, const check *c)
{
    const int64_t rows = c->global_batch_size / fm_mesh_dp_size(&r->mesh);
    r->local_batch_size = r->s->local_batch_size < rows ? r->s->local_batch_size : rows;
    r->compared = false;
    override_common(r);
    const int rc = c->run(r);
    trial_end(&r->t);
    if (rc < 0) {
        print_line(r, false, fm_error_message());
    }
}

static int try_model(session *s, const check *c, const char *model)
{
    run *const r = fm_alloc(sizeof *r, FM_MEMORY_HOST);
    FM_ASSERT(r != NULL);
    r->s = s;
    r->model = model;
    int64_t n_layers, n_heads;
    char scratch[FM_PATH_BYTES];
    int rc;
    FM_TRY_TO(done, rc, fm_path_join(r->dir, s->data, model));
    FM_TRY_TO(done, rc, fm_path_join(scratch, s->scratch, model));
    FM_TRY_TO(done, rc, fm_comm_agree(s->launch.world, s->launch.rank == 0 ? fm_dir_make(scratch) : FM_OK));
    FM_TRY_TO(done, rc, reference_open(&r->ref, r->dir, scratch, s->launch.world));
    FM_TRY_TO(done, rc, read_sizes(&n_layers, &n_heads, r->dir));
    for (fm_mesh_shape mesh = { { 0 } }; next_mesh(&mesh, s->launch.n_ranks); ) {
        if (is_legal(r, &mesh, n_layers, n_heads, c->global_batch_size)) {
            r->mesh = mesh;
            try_mesh(r, c);
        }
    }
done:
    reference_close(&r->ref);
    fm_free(r);
    return rc;
}

static bool read_mesh(fm_mesh_shape *out, const char *text)
{
    int *const n = out->size;
    return sscanf(text, "%d,%d,%d,%d,%d", &n[0], &n[1], &n[2], &n[3], &n[4]) == FM_DIMS;
}

static bool read_arguments(session *s, int argc, char **argv)
{
    s->most = (fm_mesh_shape){ { 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20 } };
    s->local_batch_size = 2;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "mesh=", 5) == 0 ? !read_mesh(&s->only, argv[i] + 5)
            : strncmp(argv[i], "most=", 5) == 0 ? !read_mesh(&s->most, argv[i] + 5)
            : strncmp(argv[i], "local=", 6) == 0 ? (s->local_batch_size = atoi(argv[i] + 6)) < 1 : false) {
            return false;
        }
        if (strchr(argv[i], '.') != NULL && s->n_keys < MAX_OVERRIDES / 2) {
            s->keys[s->n_keys++] = argv[i];
        }
    }
    return true;
}

static const char all_models[] = "llama,llama_bias,llama_dynamic,llama_large_weights,llama_linear,llama_llama3,llama_pad,llama_tied,"
                                 "llama_yarn,mistral,qwen2,qwen2_window,qwen3";

static int try_models(session *s, const check *c, const char *list)
{
    char models[1024];
    snprintf(models, sizeof models, "%s", strcmp(list, "all") == 0 ? all_models : list);
    say(s, "# %-4s %-20s %-10s %3s  %s\n", "", "model", "mesh", "b", c->header);
    char *rest = models;
    for (char *model; (model = strsep(&rest, ",")) != NULL; ) {
        FM_TRY(try_model(s, c, model));
    }
    return s->lines > 0 ? FM_OK : fm_fail(FM_ERR_JOB, "no mesh of %d ranks is legal", s->launch.n_ranks);
}

int main(int argc, char **argv)
{
    MPI_Comm world = MPI_COMM_WORLD;
    int ranks;
    session s = { .failures = 0 };
    if (argc < 5 || MPI_Init(&argc, &argv) != MPI_SUCCESS || !read_arguments(&s, argc - 5, argv + 5)) {
        return 99;
    }
    const check *c = NULL;
    for (size_t i = 0; i < sizeof checks / sizeof checks[0]; i++) {
        c = strcmp(checks[i].name, argv[1]) == 0 ? &checks[i] : c;
    }
    MPI_Comm_size(world, &ranks);
    s.data = argv[2];
    s.scratch = argv[3];
    int rc = c == NULL ? fm_fail(FM_ERR_JOB, "%s is no check", argv[1]) : fm_launch_begin(&s.launch, ranks > 1 ? &world : NULL);
    rc = rc < 0 ? rc : fm_path_join(s.job, s.data, "../../mesh/mesh_model.ini");
    rc = rc < 0 ? rc : try_models(&s, c, argv[4]);
    if (rc < 0) {
        printf("rank %d: %s\n", s.launch.rank, fm_error_message());
        MPI_Abort(world, 1);
    }
    fm_launch_end(&s.launch);
    MPI_Finalize();
    return s.failures > 0;
}
