/* The public model (finemesh/model.h) on every legal mesh of the ranks, against the same model that each rank loads for itself:
 *
 *     test_hf_model MODEL [sp] [section.key=value ...]
 *
 * weights by slice exactly; loss, logits by place and word, gradients by slice to 1e-5; each element has one owner. `sp`: with
 * sequence parallelism. Only the installed headers are used. */
#include <finemesh/finemesh.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 4, TOKENS = 13, LAYERS = 4, MAX_KEYS = 4 };

typedef struct {
    fm_hf_model *alone;
    double loss;
    float *logits;                     /* [ROWS, TOKENS, V] */
    int64_t V;
    int32_t ids[ROWS * TOKENS], labels[ROWS * TOKENS];
    int rank, ranks, failures;
    bool sequence_parallel;
    const char *keys[MAX_KEYS];
    int n_keys;
    int most_stages;
} session;

static void must(int rc)
{
    if (rc < 0) {
        printf("%s\n", fm_error_message());
        fflush(stdout);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* The worst of all ranks. */
static double worst(double x)
{
    double most;
    const double own = x == x ? x : INFINITY;
    MPI_Allreduce(&own, &most, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return most;
}

static void open_alone(session *s, const char *path)
{
    must(fm_model_from_pretrained(&s->alone, path, NULL, NULL));
    fm_hf_model_info info;
    fm_hf_model_describe(&info, s->alone);
    s->V = info.vocabulary;
    for (int i = 0; i < ROWS * TOKENS; i++) {
        s->ids[i] = (int32_t)((31 * i * i + 7 * i) % s->V);
        s->labels[i] = i % 5 == 0 ? -100 : s->ids[i];
    }
    fm_logits l;
    must(fm_hf_model_forward(&l, s->alone, s->ids, ROWS, TOKENS));
    const size_t bytes = (size_t)(ROWS * TOKENS * s->V) * sizeof(float);
    s->logits = malloc(bytes);
    memcpy(s->logits, l.data, bytes);
    must(fm_hf_model_backward(&s->loss, s->alone, s->ids, s->labels, ROWS, TOKENS));
}

/* Relative L2 distance of this rank's logits, rows first_row .. of the whole batch. */
static double compare_logits(const session *s, const fm_logits *l, int64_t first_row)
{
    double distance = 0.0, norm = 0.0;
    for (int64_t b = 0; l->data != NULL && b < l->B; b++) {
        for (int64_t t = 0; t < l->tokens; t++) {
            for (int64_t w = 0; l->place[t] >= 0 && w < l->words; w++) {
                const double expected = s->logits[((first_row + b) * TOKENS + l->place[t]) * s->V + l->first_word + w];
                const double d = l->data[(b * l->tokens + t) * l->words + w] - expected;
                distance += d * d;
                norm += expected * expected;
            }
        }
    }
    return norm > 0.0 ? sqrt(distance / norm) : 0.0;
}

/* Distance of a local array from the same slice of the whole one, as a part of the whole one's norm. */
static double compare_slice(const fm_hf_param *p, const float *local, const float *whole, int64_t n)
{
    double distance = 0.0, norm = 0.0;
    const bool is_matrix = p->ndim == 2;
    const int64_t columns = is_matrix ? p->shape[1] : 1, local_columns = is_matrix ? p->local_shape[1] : 1;
    for (int64_t i = 0; i < n; i++) {
        norm += (double)whole[i] * whole[i];
    }
    for (int i = 0; i < p->n_slabs; i++) {
        const fm_hf_slab *const slab = &p->slabs[i];
        const int64_t width = is_matrix ? slab->count[1] : 1, from = is_matrix ? slab->start[1] : 0, to = is_matrix ? slab->local_start[1] : 0;
        for (int64_t r = 0; r < slab->count[0]; r++) {
            for (int64_t c = 0; c < width; c++) {
                const double d = (double)local[(slab->local_start[0] + r) * local_columns + to + c]
                               - whole[(slab->start[0] + r) * columns + from + c];
                distance += d * d;
            }
        }
    }
    return norm > 0.0 ? sqrt(distance / norm) : sqrt(distance);
}

/* The worst tensor: weights, gradients, and elements that have no owner or several. */
static void compare_params(double *weight, double *gradient, int64_t *unowned, const session *s, const fm_hf_model *model)
{
    const char *name;
    *weight = *gradient = 0.0;
    *unowned = 0;
    for (int i = 0; (name = fm_hf_model_tensor_name(model, i)) != NULL; i++) {
        fm_hf_param p, whole;
        must(fm_hf_model_param(&p, model, name));
        must(fm_hf_model_param(&whole, s->alone, name));
        if (p.held && p.elements > 0) {
            *weight = fmax(*weight, compare_slice(&p, p.data, whole.data, whole.elements));
            *gradient = fmax(*gradient, compare_slice(&p, p.gradient, whole.gradient, whole.elements));
        }
        int64_t owned = p.owner ? p.elements : 0, all;
        MPI_Allreduce(&owned, &all, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
        *unowned += llabs(all - whole.elements);
    }
}

static void try_mesh(session *s, const char *path, const fm_mesh_shape *mesh)
{
    const MPI_Comm world = MPI_COMM_WORLD;
    const int dp = fm_mesh_dp_size(mesh);
    const fm_coord coord = fm_mesh_coord(mesh, s->rank);
    const int64_t B = ROWS / dp, first = fm_mesh_dp_index(mesh, &coord) * B;
    const fm_distributed options = { .sequence_parallel = s->sequence_parallel, .threads = 1, .keys = s->keys, .n_keys = s->n_keys };
    fm_hf_model *model;
    must(fm_model_from_pretrained_on_mesh(&model, path, mesh, &options, &world));
    fm_logits l;
    double loss, again, weight, gradient;
    int64_t unowned;
    must(fm_hf_model_forward(&l, model, s->ids + first * TOKENS, B, TOKENS));
    const double logits = worst(compare_logits(s, &l, first));
    must(fm_hf_model_backward(&loss, model, s->ids + first * TOKENS, s->labels + first * TOKENS, B, TOKENS));
    must(fm_hf_model_loss(&again, model, s->ids + first * TOKENS, s->labels + first * TOKENS, B, TOKENS));
    compare_params(&weight, &gradient, &unowned, s, model);
    weight = worst(weight);
    gradient = worst(gradient);
    const double error = worst(fmax(fabs(loss / s->loss - 1.0), fabs(again / s->loss - 1.0)));
    const bool good = weight == 0.0 && gradient <= 1e-5 && error <= 1e-6 && logits <= 1e-5 && unowned == 0;
    if (s->rank == 0) {
        char text[160];
        fm_mesh_print(text, sizeof text, mesh);
        printf("%-5s %s  loss %.1e logits %.1e gradient %.1e weight %.1e, %lld elements without one owner\n", good ? "ok" : "WRONG", text,
               error, logits, gradient, weight, (long long)unowned);
    }
    s->failures += !good;
    fm_hf_model_destroy(model);
}

/* The next mesh of so many ranks; false after the last. Starts from zeros. */
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

int main(int argc, char **argv)
{
    session s = { .most_stages = LAYERS };
    if (argc < 2 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &s.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &s.ranks);
    for (int i = 2; i < argc; i++) {
        s.sequence_parallel = s.sequence_parallel || strcmp(argv[i], "sp") == 0;
        if (strchr(argv[i], '=') != NULL && s.n_keys < MAX_KEYS) {
            s.keys[s.n_keys++] = argv[i];
        }
        s.most_stages = strcmp(argv[i], "pipeline.virtual_stages=2") == 0 ? LAYERS / 2 : s.most_stages;
    }
    open_alone(&s, argv[1]);
    for (fm_mesh_shape mesh = { { 0 } }; next_mesh(&mesh, s.ranks); ) {
        if (ROWS % fm_mesh_dp_size(&mesh) == 0 && mesh.size[FM_PP] <= s.most_stages) {
            try_mesh(&s, argv[1], &mesh);
        }
    }
    fm_hf_model_destroy(s.alone);
    free(s.logits);
    MPI_Finalize();
    return s.failures > 0;
}
