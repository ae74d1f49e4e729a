/* A Hugging Face causal language model on a mesh of MPI ranks: load it as AutoModel's users do, run it forward and backward, look at
 * its parameters, save it as an HF directory. doc/examples/load_model.c shows all of it.
 *
 * The handle is fm_hf_model, a model as Hugging Face's users know it: by directory, by tensor names. (fm_model, without "hf", is the
 * library's own struct of one rank's part, which is not public.)
 *
 * MPI stays the caller's: `mpi_comm` points to an MPI_Comm whose ranks become the mesh; it is copied, and must live only as long as
 * the call. NULL, or a communicator of one rank: one rank, no communicator is made, and MPI need not have been started.
 *
 * "Collective" means: over all ranks of the mesh, in the same order everywhere. A failure that is told with FM_ERR_JOB, FM_ERR_IO or
 * FM_ERR_FORMAT by a collective function is agreed upon: every rank returns it with the same sentence (fm_error_message). After any
 * other failure of a collective function ranks may be waiting for each other, and the program has to end all of them (MPI_Abort). */
#ifndef FINEMESH_MODEL_H
#define FINEMESH_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "finemesh/dtype.h"
#include "finemesh/error.h"
#include "finemesh/mesh.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_hf_model fm_hf_model;

/* Where a model is to be put, and how it is to be held. A struct of zeros is a choice too: fp32, and data parallelism over all ranks. */
typedef struct {
    int tp_size, cp_size, pp_size;     /* 0 counts as 1 */
    int dp_size;                       /* 0: what is left of the ranks */
    int dp_replicate_size;             /* copies of the sharded model within dp_size; 0 counts as 1 */
    enum fm_dtype dtype;               /* of weights and arithmetic: FM_F32, FM_BF16, FM_F16 */
    bool sequence_parallel;            /* tp ranks share the tokens between blocks */
    bool without_gradients;            /* a third of the memory; fm_hf_model_backward is refused */
    int64_t microbatch_rows;           /* rows of a batch that are worked on at once; 0: all, and 1 under pp */
    int threads;                       /* OpenMP threads a rank; 0: cores / ranks of the machine */
    const char *const *keys;           /* anything else that a job file can say, "section.key=value"; `finemesh run --help-keys` */
    int n_keys;
} fm_distributed;

/* Reads the HF directory `path` onto the mesh that the sizes describe; every rank reads only what it keeps. `distributed` NULL: zeros.
 * Collective on mpi_comm. Free with fm_hf_model_destroy.
 * Errors: FM_ERR_JOB (sizes that do not make the ranks, with the nearest that do; a model that cannot be cut so), FM_ERR_UNSUPPORTED
 * (model_type), FM_ERR_IO, FM_ERR_FORMAT, FM_ERR_MEMORY; *out is NULL then. */
int fm_model_from_pretrained(fm_hf_model **out, const char *path, const fm_distributed *distributed, const void *mpi_comm);

/* The same with the mesh written out; the sizes in `options` stay 0 (NULL: zeros). Collective on mpi_comm. */
int fm_model_from_pretrained_on_mesh(fm_hf_model **out, const char *path, const fm_mesh_shape *mesh, const fm_distributed *options,
                                     const void *mpi_comm);

/* Frees all of it; views of it are void. NULL is ignored. Collective. */
void fm_hf_model_destroy(fm_hf_model *model);

/* What the model is, and where this rank stands. */
typedef struct {
    const char *model_type;            /* "llama", ...; valid while the model lives */
    int64_t parameters;                /* of the whole model, a tied one once */
    int64_t local_parameters;          /* elements that this rank keeps */
    int64_t vocabulary;                /* V */
    int layers;                        /* L */
    int tensors;                       /* of the whole model: fm_hf_model_tensor_name */
    enum fm_dtype dtype;
    fm_mesh_shape mesh;
    fm_coord coord;
    int rank, ranks;
} fm_hf_model_info;

/* Local. */
void fm_hf_model_describe(fm_hf_model_info *out, const fm_hf_model *model);

/* This rank's part of the logits: the words and tokens that it holds. On one rank: all of both. */
typedef struct {
    const float *data;                 /* [B, tokens, words]; NULL on ranks of other stages than the last. Valid until the next pass */
    int64_t B, tokens, words;
    int64_t first_word;                /* words are first_word .. first_word + words - 1 of the vocabulary */
    const int64_t *place;              /* [tokens] place in the row of each token, ascending; -1: padding, whose logits mean nothing */
} fm_logits;

/* Runs rows ids [B, T] forward. Each dp rank may have rows of its own (the other ranks of its dp coordinate the same); B and T are the
 * same everywhere. Collective. Error FM_ERR_JOB: an id outside 0 .. V-1. */
int fm_hf_model_forward(fm_logits *out, fm_hf_model *model, const int32_t *ids, int64_t B, int64_t T);

/* *loss = mean cross entropy over the label tokens of all dp ranks, the same number on every rank. labels [B, T] stand beside ids and
 * are shifted inside: place t predicts label t + 1; -100 is ignored; NULL: the ids. 0 where there is no label token. Rows as for
 * fm_hf_model_forward, B a multiple of microbatch_rows. Collective. */
int fm_hf_model_loss(double *loss, fm_hf_model *model, const int32_t *ids, const int32_t *labels, int64_t B, int64_t T);

/* The same, and the gradient of that mean by every parameter: complete on return (fm_hf_param.gradient), instead of those of the call
 * before. Collective. */
int fm_hf_model_backward(double *loss, fm_hf_model *model, const int32_t *ids, const int32_t *labels, int64_t B, int64_t T);

/* A hyperslab of the whole tensor, and where its first element lies in this rank's array. */
typedef struct {
    int64_t start[2], count[2], local_start[2];
} fm_hf_slab;

/* A parameter as this rank holds it. Arrays are row-major [local_shape] and the model's own: what is written to `data` is what the next
 * pass computes with. Ranks that hold the same slice must write the same. */
typedef struct {
    bool held;                         /* false: on other pipeline stages; all below but the shape is 0 */
    bool owner;                        /* of the ranks that hold this slice, the first: one that counts or writes each element once */
    int ndim;
    int64_t shape[2];                  /* of the whole tensor; [out, in] for a linear layer */
    int64_t local_shape[2];            /* may have 0 rows */
    int n_slabs;                       /* the local array is their union */
    fm_hf_slab slabs[4];
    enum fm_dtype dtype;
    void *data;
    float *gradient;                   /* NULL before the first backward pass, and without gradients */
    int64_t elements;                  /* of local_shape */
} fm_hf_param;

/* The tensors by index, 0 .. info.tensors - 1, in the order of the model; NULL past the end. Local. */
const char *fm_hf_model_tensor_name(const fm_hf_model *model, int index);

/* A parameter by its HF name. Local. Error FM_ERR_JOB: the model has no such tensor (a tied head is the embedding). */
int fm_hf_model_param(fm_hf_param *out, const fm_hf_model *model, const char *name);

/* Writes the model as an HF directory: each tensor's name, shape and dtype as in the source, and its other files. Collective. */
int fm_hf_model_save(const fm_hf_model *model, const char *dir);

#ifdef __cplusplus
}
#endif
#endif
