#include "ckpt_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/memory.h"
#include "ckpt/safetensors.h"

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, fm_error_message()); \
            exit(99); \
        } \
    } while (0)

static void add(ckpt_model *model, const char *name, int layer, enum fm_dtype dtype, int64_t rows, int64_t columns, int cut_axis)
{
    fm_tensor_spec *const spec = &model->tensors[model->n++];
    *spec = (fm_tensor_spec){
        .dtype = dtype, .ndim = columns > 0 ? 2 : 1, .shape = { rows, columns }, .cut_axis = cut_axis, .n_pieces = cut_axis >= 0,
        .place = FM_PLACE_LAYER, .layer = layer,
    };
    if (layer >= 0) {
        snprintf(spec->name, sizeof spec->name, "model.layers.%d.%s", layer, name);
    } else {
        snprintf(spec->name, sizeof spec->name, "%s", name);
    }
    if (cut_axis >= 0) {
        spec->pieces[0] = (fm_piece){ 0, spec->shape[cut_axis], FM_SPLIT_EVEN };
    }
}

/* The last tensor's cut axis as pieces one after another. */
static void set_pieces(ckpt_model *model, int n, const int64_t *counts, const enum fm_split *splits)
{
    fm_tensor_spec *const spec = &model->tensors[model->n - 1];
    int64_t at = 0;
    spec->n_pieces = n;
    for (int p = 0; p < n; p++) {
        spec->pieces[p] = (fm_piece){ at, counts[p], splits[p] };
        at += counts[p];
    }
}

void ckpt_model_make(ckpt_model *model, int n_layers, int scale)
{
    const int64_t C = MODEL_C * scale, F = MODEL_F * scale, HD = MODEL_H * MODEL_D, KD = MODEL_K * MODEL_D;
    *model = (ckpt_model){ .n_layers = n_layers };
    model->tensors = fm_alloc_array(12 * n_layers + 3, sizeof *model->tensors, FM_MEMORY_HOST);
    REQUIRE(model->tensors != NULL);
    add(model, "model.embed_tokens.weight", -1, FM_BF16, MODEL_V, C, 0);
    model->tensors[0].place = FM_PLACE_EMBEDDING;
    for (int l = 0; l < n_layers; l++) {
        add(model, "input_layernorm.weight", l, FM_F32, C, 0, -1);
        add(model, "self_attn.qkv_proj.weight", l, FM_BF16, HD + 2 * KD, C, 0);
        set_pieces(model, 3, (int64_t[]){ HD, KD, KD }, (enum fm_split[]){ FM_SPLIT_QUERY, FM_SPLIT_KV, FM_SPLIT_KV });
        add(model, "self_attn.q_proj.bias", l, FM_F16, HD, 0, 0);
        set_pieces(model, 1, (int64_t[]){ HD }, (enum fm_split[]){ FM_SPLIT_QUERY });
        add(model, "self_attn.o_proj.weight", l, FM_BF16, C, HD, 1);
        set_pieces(model, 1, (int64_t[]){ HD }, (enum fm_split[]){ FM_SPLIT_QUERY });
        add(model, "mlp.gate_up_proj.weight", l, FM_F32, 2 * F, C, 0);
        set_pieces(model, 2, (int64_t[]){ F, F }, (enum fm_split[]){ FM_SPLIT_EVEN, FM_SPLIT_EVEN });
        add(model, "mlp.down_proj.weight", l, FM_BF16, C, F, 1);
        add(model, "mlp.two_down_proj.weight", l, FM_F16, C, 2 * F, 1);
        set_pieces(model, 2, (int64_t[]){ F, F }, (enum fm_split[]){ FM_SPLIT_EVEN, FM_SPLIT_EVEN });
    }
    add(model, "model.norm.weight", -1, FM_F32, C, 0, -1);
    add(model, "lm_head.weight", -1, FM_BF16, MODEL_V, C, 0);
    model->tensors[model->n - 1].place = model->tensors[model->n - 2].place = FM_PLACE_HEAD;
}

void ckpt_model_clear(ckpt_model *model)
{
    fm_free(model->tensors);
    model->tensors = NULL;
}

fm_layout ckpt_model_layout(const ckpt_model *model, const fm_mesh_shape *mesh, int **stages)
{
    *stages = NULL;
    if (mesh->size[FM_PP] > 1) {
        *stages = fm_alloc_array(model->n_layers, sizeof **stages, FM_MEMORY_HOST);
        REQUIRE(*stages != NULL);
        for (int l = 0; l < model->n_layers; l++) {
            (*stages)[l] = l * mesh->size[FM_PP] / model->n_layers;
        }
    }
    return (fm_layout){
        .mesh = *mesh, .heads = { MODEL_H, MODEL_K, MODEL_D }, .n_layers = model->n_layers, .n_tensors = model->n,
        .tensors = model->tensors, .stage_of_layer = *stages,
    };
}

char *ckpt_model_bytes(const fm_tensor_spec *tensor)
{
    const size_t size_bytes = (size_t)fm_tensor_elements(tensor) * fm_dtype_bytes(tensor->dtype);
    char *const out = fm_alloc(size_bytes, FM_MEMORY_HOST);
    REQUIRE(out != NULL);
    uint64_t seed = fm_crc32(0, tensor->name, strlen(tensor->name));
    for (size_t i = 0; i < size_bytes; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        out[i] = (char)(seed >> 56);
    }
    return out;
}

static void write_file(const char *dir, const char *name, const void *data, size_t size_bytes)
{
    char path[FM_PATH_BYTES];
    REQUIRE(fm_path_join(path, dir, name) == FM_OK);
    REQUIRE(fm_file_replace(path, data, size_bytes) == FM_OK);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    write_file(dir, name, text, strlen(text));
}

/* Tensors part, part + n_parts, ... in one file. */
static void write_part(const char *dir, const char *name, const ckpt_model *model, int part, int n_parts)
{
    fm_safetensors_entry *const entries = fm_alloc_array(model->n, sizeof *entries, FM_MEMORY_HOST);
    int64_t *const offsets = fm_alloc_array(model->n, sizeof *offsets, FM_MEMORY_HOST), file_bytes = 0;
    char *header;
    size_t header_bytes;
    int n = 0;
    for (int t = part; t < model->n; t += n_parts) {
        const fm_tensor_spec *const spec = &model->tensors[t];
        entries[n++] = (fm_safetensors_entry){ spec->name, spec->dtype, spec->ndim, spec->shape };
    }
    REQUIRE(fm_safetensors_header(&header, &header_bytes, offsets, &file_bytes, entries, n) == FM_OK);
    char *const file = fm_alloc((size_t)file_bytes, FM_MEMORY_HOST);
    memcpy(file, header, header_bytes);
    for (int i = 0; i < n; i++) {
        const fm_tensor_spec *const spec = &model->tensors[part + i * n_parts];
        char *const bytes = ckpt_model_bytes(spec);
        memcpy(file + offsets[i], bytes, (size_t)fm_tensor_elements(spec) * fm_dtype_bytes(spec->dtype));
        fm_free(bytes);
    }
    write_file(dir, name, file, (size_t)file_bytes);
    fm_free(file);
    fm_free(header);
    fm_free(entries);
    fm_free(offsets);
}

void ckpt_model_write(const char *dir, const ckpt_model *model, int n_files)
{
    REQUIRE(fm_dir_make(dir) == FM_OK);
    write_text(dir, "config.json",
               "{\n  \"model_type\": \"made_up\",\n  \"rms_norm_eps\": 1e-05,\n  \"transformers_version\": \"5.0.0\",\n"
                                   "  \"big\": 0.1\n}\n");
    write_text(dir, "tokenizer.json", "{\"not\": \"read here\"}\n");
    write_text(dir, "chat_template.jinja", "{{ messages }}\n");
    if (n_files == 1) {
        write_part(dir, "model.safetensors", model, 0, 1);
        return;
    }
    char *const text = fm_alloc((size_t)model->n * (FM_NAME_BYTES + 64) + 64, FM_MEMORY_HOST);
    char *end = text + sprintf(text, "{\"metadata\": {}, \"weight_map\": {");
    for (int t = 0; t < model->n; t++) {
        end += sprintf(end, "%s\"%s\": \"model-%05d-of-%05d.safetensors\"", t == 0 ? "" : ",\n", model->tensors[t].name,
                       t % n_files + 1,
                       n_files);
    }
    sprintf(end, "}}\n");
    write_text(dir, "model.safetensors.index.json", text);
    fm_free(text);
    for (int f = 0; f < n_files; f++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", f + 1, n_files);
        write_part(dir, name, model, f, n_files);
    }
}

char *ckpt_model_slice(size_t *size_bytes, const fm_layout *layout, int tensor, const fm_coord *coord)
{
    const fm_tensor_spec *const spec = &layout->tensors[tensor];
    const size_t element_bytes = fm_dtype_bytes(spec->dtype);
    fm_slice slice;
    *size_bytes = 0;
    fm_layout_slice(&slice, layout, tensor, coord);
    if (!slice.held || slice.n_slabs == 0) {
        return NULL;
    }
    const int64_t columns = spec->ndim == 2 ? spec->shape[1] : 1, width = spec->ndim == 2 ? slice.local_shape[1] : 1;
    *size_bytes = (size_t)(slice.local_shape[0] * width) * element_bytes;
    char *const whole = ckpt_model_bytes(spec), *const out = fm_alloc(*size_bytes, FM_MEMORY_HOST);
    REQUIRE(out != NULL);
    for (int s = 0; s < slice.n_slabs; s++) {
        const fm_slab *const slab = &slice.slabs[s];
        const int64_t first = spec->ndim == 2 ? slab->start[1] : 0, count = spec->ndim == 2 ? slab->count[1] : 1;
        const int64_t local = spec->ndim == 2 ? slab->local_start[1] : 0;
        for (int64_t r = 0; r < slab->count[0]; r++) {
            memcpy(out + (size_t)((slab->local_start[0] + r) * width + local) * element_bytes,
                   whole + (size_t)((slab->start[0] + r) * columns + first) * element_bytes, (size_t)count * element_bytes);
        }
    }
    fm_free(whole);
    return out;
}

void ckpt_scratch(char *dir)
{
    strcpy(dir, "/tmp/fm-ckpt-XXXXXX");
    REQUIRE(mkdtemp(dir) != NULL);
}
