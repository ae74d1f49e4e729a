#include "job/inputs.h"

#include <stdio.h>

#include "base/crc.h"
#include "base/file.h"

static int send_texts(fm_tokenizer_texts *texts, fm_comm *world)
{
    for (int f = 0; f < FM_TOKENIZER_FILES; f++) {
        int64_t there = texts->text[f] != NULL;
        FM_TRY(fm_comm_broadcast(world, &there, 1, FM_I64, 0));
        if (there) {
            FM_TRY(fm_comm_broadcast_text(world, &texts->text[f], &texts->size_bytes[f], 0));
        }
    }
    return FM_OK;
}

int fm_inputs_begin(fm_inputs *inputs, const fm_assembly *a)
{
    fm_comm *const world = a->launch->world;
    char path[FM_PATH_BYTES];
    fm_tokenizer_texts texts = { .text = { NULL } };
    int rc = fm_path_join(path, a->job.model.path, "tokenizer.json");
    int64_t there = rc == FM_OK && a->launch->rank == 0 && fm_path_exists(path);
    FM_TRY(fm_comm_broadcast(world, &there, 1, FM_I64, 0));
    if (!there) {
        return rc;
    }
    if (a->launch->rank == 0) {
        rc = fm_tokenizer_texts_read(&texts, a->job.model.path);
    }
    rc = fm_comm_agree(world, rc);
    if (rc == FM_OK) {
        rc = send_texts(&texts, world);
    }
    if (rc == FM_OK) {
        uint32_t crc = 0;
        for (int f = 0; f < FM_TOKENIZER_FILES; f++) {
            crc = texts.text[f] == NULL ? crc : fm_crc32(crc, texts.text[f], texts.size_bytes[f]);
        }
        snprintf(inputs->identity, sizeof inputs->identity, "%08x", crc);
        rc = fm_tokenizer_new(&inputs->tokenizer, &texts, a->job.model.path);
    }
    fm_tokenizer_texts_free(&texts);
    return fm_comm_agree(world, rc);
}

void fm_inputs_end(fm_inputs *inputs)
{
    fm_tokenizer_destroy(inputs->tokenizer);
    *inputs = (fm_inputs){ .tokenizer = NULL };
}

int fm_inputs_open(fm_dataset **out, const fm_inputs *inputs, const fm_assembly *a, const char *files, const char *index_name)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, a->job.output_dir, index_name));
    FM_TRY(fm_comm_agree(a->launch->world, a->launch->rank == 0 ? fm_dir_make(a->job.output_dir) : FM_OK));
    const fm_dataset_spec spec = {
        .files = files, .options = &a->job.data, .vocab_size = a->config.V, .tokenizer = inputs->tokenizer,
        .tokenizer_identity = inputs->identity, .eos_token = a->config.eos_token, .cache_path = path,
    };
    return fm_dataset_open(out, &spec, a->launch->world);
}
