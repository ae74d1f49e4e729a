/* The library in one program: loads an HF directory on a mesh of MPI ranks, runs it forward and backward, looks at a parameter, takes a
 * step of plain gradient descent, and saves the result.
 *
 *     mpicc load_model.c $(pkg-config --cflags --libs finemesh) -lm -o load_model
 *     mpiexec -n 2 ./load_model MODEL TP_SIZE [SAVE_DIR]
 *
 * dp_size stays 0: what TP_SIZE leaves of the ranks is data-parallel. The numbers that it prints do not depend on the mesh. */
#include <finemesh/finemesh.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 4, TOKENS = 16 };

/* The library never prints and never exits: that is up to the program. A failure is agreed upon by all ranks or not; MPI_Abort is right
 * for both. */
static void must(int rc, int rank)
{
    if (rc < 0) {
        fprintf(stderr, "load_model: rank %d: %s\n", rank, fm_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* The sum over all ranks of a number. */
static double sum_over_ranks(double x)
{
    double sum;
    MPI_Allreduce(&x, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return sum;
}

/* Every logit lies on exactly one rank of a dp coordinate: their sum of squares, over the rows of this dp rank. */
static double squares_of_logits(const fm_logits *l)
{
    double sum = 0.0;
    for (int64_t b = 0; l->data != NULL && b < l->B; b++) {
        for (int64_t t = 0; t < l->tokens; t++) {
            for (int64_t w = 0; l->place[t] >= 0 && w < l->words; w++) {
                const double x = l->data[(b * l->tokens + t) * l->words + w];
                sum += x * x;
            }
        }
    }
    return sum;
}

/* The norm of a gradient: ranks that hold the same slice count it once. */
static double gradient_norm(const fm_hf_param *p)
{
    double sum = 0.0;
    for (int64_t i = 0; p->owner && i < p->elements; i++) {
        sum += (double)p->gradient[i] * p->gradient[i];
    }
    return sqrt(sum_over_ranks(sum));
}

/* w -= rate * gradient, for all parameters that this rank holds: ranks with the same slice have the same gradient, and do the same. */
static void descend(const fm_hf_model *model, float rate, int rank)
{
    const char *name;
    for (int i = 0; (name = fm_hf_model_tensor_name(model, i)) != NULL; i++) {
        fm_hf_param p;
        must(fm_hf_model_param(&p, model, name), rank);
        float *const w = p.data;       /* the model was loaded in fp32 */
        for (int64_t e = 0; e < p.elements; e++) {
            w[e] -= rate * p.gradient[e];
        }
    }
}

/* Row r of the whole batch; dp rank d of D takes rows d, d + D, ... */
static void make_rows(int32_t *ids, const fm_hf_model_info *info)
{
    const int dp = fm_mesh_dp_size(&info->mesh), index = fm_mesh_dp_index(&info->mesh, &info->coord);
    for (int r = 0; r < ROWS / dp; r++) {
        for (int t = 0; t < TOKENS; t++) {
            ids[r * TOKENS + t] = (int32_t)((17 * (r * dp + index) + 7 * t * t + t) % info->vocabulary);
        }
    }
}

static void show_parameter(const fm_hf_param *p, const char *name, const fm_hf_model_info *info)
{
    for (int r = 0; r < info->ranks; r++) {
        MPI_Barrier(MPI_COMM_WORLD);
        for (int s = 0; r == info->rank && s < p->n_slabs; s++) {
            const fm_hf_slab *const slab = &p->slabs[s];
            printf("rank %d holds of %s [%lld, %lld]: rows %lld to %lld, columns %lld to %lld\n", r, name, (long long)p->shape[0],
                   (long long)p->shape[1], (long long)slab->start[0], (long long)(slab->start[0] + slab->count[0] - 1),
                   (long long)slab->start[1], (long long)(slab->start[1] + slab->count[1] - 1));
            fflush(stdout);
        }
    }
}

int main(int argc, char **argv)
{
    static const char name[] = "model.layers.0.mlp.down_proj.weight";
    MPI_Comm world = MPI_COMM_WORLD;
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(world, &rank);
    if (argc < 3) {
        fprintf(stderr, "usage: load_model MODEL TP_SIZE [SAVE_DIR]\n");
        MPI_Abort(world, 1);
    }

    fm_hf_model *model;
    must(fm_model_from_pretrained(&model, argv[1], &(fm_distributed){ .tp_size = atoi(argv[2]) }, &world), rank);
    fm_hf_model_info info;
    fm_hf_model_describe(&info, model);
    const int dp = fm_mesh_dp_size(&info.mesh);
    const int64_t B = ROWS / dp;
    if (ROWS % dp != 0) {
        fprintf(stderr, "load_model: %d rows cannot be shared by %d data-parallel ranks\n", ROWS, dp);
        MPI_Abort(world, 1);
    }

    int32_t ids[ROWS * TOKENS];
    make_rows(ids, &info);
    fm_logits logits;
    must(fm_hf_model_forward(&logits, model, ids, B, TOKENS), rank);
    const double norm = sqrt(sum_over_ranks(squares_of_logits(&logits)));

    double loss, after;
    must(fm_hf_model_backward(&loss, model, ids, NULL, B, TOKENS), rank);
    fm_hf_param p;
    must(fm_hf_model_param(&p, model, name), rank);
    show_parameter(&p, name, &info);
    const double slope = gradient_norm(&p);
    descend(model, 0.05f, rank);
    must(fm_hf_model_loss(&after, model, ids, NULL, B, TOKENS), rank);
    if (rank == 0) {
        printf("%s, %lld parameters\nlogits %.6g\nloss %.6f\ngradient %.6g\nloss after a step %.6f\n", info.model_type,
               (long long)info.parameters, norm, loss, slope, after);
    }
    if (argc > 3) {
        must(fm_hf_model_save(model, argv[3]), rank);
    }
    fm_hf_model_destroy(model);
    MPI_Finalize();
    return 0;
}
