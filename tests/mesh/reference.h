/* What transformers computed of a model (tests/oracle/README.md), and how far a model on a mesh is from it. */
#ifndef TESTS_MESH_REFERENCE_H
#define TESTS_MESH_REFERENCE_H

#include <jansson.h>

#include "ckpt/source.h"
#include "data/dataset.h"
#include "model/model.h"

typedef struct {
    json_t *numbers;                   /* reference.json */
    fm_source *tensors;                /* reference.safetensors */
    int n_gradients;                   /* instead of it: whole gradients, by the layout's tensors */
    float **gradients;
    double loss, grad_norm;            /* in fp64 */
    int64_t label_tokens, tokens;
} reference;

/* Opens DIR/reference.*; `scratch` is an empty directory. Collective on the world. */
int reference_open(reference *out, const char *dir, const char *scratch, fm_comm *world);
void reference_close(reference *ref);

/* An error and the tensor that it was found in: the one that is worst against its tolerance. */
typedef struct {
    double error;                      /* relative L2 */
    double tolerance;
    int different;                     /* tensors that differ in a bit, tied ones not counted */
    char name[FM_NAME_BYTES];
    char complaint[256];               /* what else is wrong; "" where nothing is */
} tensor_error;

/* Takes the gradients of a model that one rank holds, as a reference for others. Local. */
int reference_take_gradients(reference *out, const fm_model *model);

/* Gradients, finished, against the reference: of each tensor the owned slabs together, and each rank's slice alone; every
 * element is owned once; ranks that hold the same slice have the same bits. The tolerance of a tensor is the greater of
 * `tolerance` and `times` torch's own distance in fp32. Collective on the world. */
int reference_compare_gradients(tensor_error *out, const reference *ref, const fm_model *model, double tolerance, double times);

/* Logits of the first row: a forward pass of the first rows of the data, without gradients. error -1: this model's stages do not
 * allow it. Collective on the world. */
int reference_compare_logits(double *error, const reference *ref, fm_model *model, const fm_dataset *data,
                             int64_t local_batch_size);

/* Whether ranks that hold the same slice of a weight (gradient, with of_gradients) have the same bits: *name "" or the first
 * tensor that differs. Collective on the world. */
int reference_check_replicas(char name[FM_NAME_BYTES], const fm_model *model, bool of_gradients);

#endif
