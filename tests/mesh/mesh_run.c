#include "mesh_run.h"

#include <mpi.h>
#include <stdio.h>

void session_say(const session *s, const char *format, ...)
{
    if (s->launch.rank == 0) {
        va_list args;
        va_start(args, format);
        vprintf(format, args);
        va_end(args);
        fflush(stdout);
    }
}

int session_write(const session *s, const char *name, const char *text, size_t size_bytes)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, s->scratch, name));
    return fm_comm_agree(s->launch.world, s->launch.rank == 0 ? fm_file_replace(path, text, size_bytes) : FM_OK);
}

void run_override(run *r, const char *format, ...)
{
    FM_ASSERT(r->n_words < MAX_WORDS);
    va_list args;
    va_start(args, format);
    vsnprintf(r->texts[r->n_words], WORD_BYTES, format, args);
    va_end(args);
    r->words[r->n_words] = r->texts[r->n_words];
    r->n_words++;
}

void run_set_job(run *r, const fm_mesh_shape *mesh)
{
    r->n_words = 0;
    run_override(r, "%s", r->s->job);
    run_override(r, "model.path=%s", r->dir);
    run_override(r, "job.output_dir=%s", r->s->scratch);
    for (int d = 0; d < FM_DIMS; d++) {
        if (mesh->size[d] > 1) {
            run_override(r, "device_mesh.%s=%d", fm_dim_name(d), mesh->size[d]);
        }
    }
    run_override(r, "batch.local_batch_size=%lld", (long long)r->local_batch_size);
    for (int k = 0; k < r->s->n_keys; k++) {
        run_override(r, "%s", r->s->keys[k]);
    }
}

int run_begin(run *r, const fm_launch *launch, trial_on_gradients *on_gradients)
{
    char name[64], index[FM_PATH_BYTES];
    if (launch == &r->s->alone) {
        snprintf(name, sizeof name, "data-of-%d.index", r->s->launch.rank);
    } else {
        snprintf(name, sizeof name, "data.index");
    }
    FM_TRY(fm_path_join(index, r->s->scratch, name));
    const trial_spec spec = {
        .launch = launch, .index = index, .n_words = r->n_words, .words = r->words, .on_gradients = on_gradients, .context = r,
    };
    return trial_begin(&r->t, &spec);
}

int run_step(run *r, int64_t step, fm_step_metrics *metrics)
{
    const int rc = fm_loop_step(r->t.loop, step, metrics);
    if (rc < 0 && rc != FM_ERR_NUMERIC) {
        printf("rank %d: %s\n", r->s->launch.rank, fm_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return rc;
}

void run_report(const run *r, bool good, const char *what)
{
    const int *const n = r->mesh.size;
    char mesh[64];
    snprintf(mesh, sizeof mesh, "%dx%dx%dx%dx%d", n[FM_PP], n[FM_DP_REPLICATE], n[FM_DP_SHARD], n[FM_CP], n[FM_TP]);
    session_say(r->s, "%-6s %-20s %-10s %3lld  %s\n", good ? "ok" : "WRONG", r->model, mesh, (long long)r->local_batch_size,
                what);
    r->s->lines++;
    r->s->failures += !good;
}
