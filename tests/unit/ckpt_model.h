/* A checkpoint made up for tests: a small model with odd shapes, three dtypes and fused tensors, whose bytes follow from the
 * names. */
#ifndef TESTS_UNIT_CKPT_MODEL_H
#define TESTS_UNIT_CKPT_MODEL_H

#include "parallel/layout.h"

/* The shapes of the model: H = 9 query heads over K = 3 key/value heads of D = 2. */
enum { MODEL_V = 23, MODEL_C = 10, MODEL_F = 14, MODEL_H = 9, MODEL_K = 3, MODEL_D = 2 };

typedef struct {
    fm_tensor_spec *tensors;
    int n;
    int n_layers;
} ckpt_model;

/* Makes the list of tensors; `scale` multiplies C and F (for sizes that matter). End with ckpt_model_clear. */
void ckpt_model_make(ckpt_model *model, int n_layers, int scale);
void ckpt_model_clear(ckpt_model *model);

/* A layout of the model over a mesh, stages divided evenly; *stages (NULL where pp is 1) is freed with fm_free. */
fm_layout ckpt_model_layout(const ckpt_model *model, const fm_mesh_shape *mesh, int **stages);

/* The whole tensor, dense, in its dtype; fm_free. */
char *ckpt_model_bytes(const fm_tensor_spec *tensor);

/* Writes an HF directory of n_files safetensors files (1: no index) with config.json, tokenizer.json and chat_template.jinja. */
void ckpt_model_write(const char *dir, const ckpt_model *model, int n_files);

/* What the coordinate must hold of a tensor, cut from the whole; fm_free. NULL where it holds nothing. */
char *ckpt_model_slice(size_t *size_bytes, const fm_layout *layout, int tensor, const fm_coord *coord);

/* A fresh folder under /tmp; the caller removes it with fm_dir_remove. */
void ckpt_scratch(char *dir);

#endif
