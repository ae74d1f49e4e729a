/* The head of a data set's index, as it is and with its checksum made right; and the index as a cache that is to be adopted. */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/store.h"
#include "fuzz.h"

static char data_path[FM_PATH_BYTES], index_path[FM_PATH_BYTES];
static char train[] = "", question[] = "question", context[] = "context", answer[] = "answer";
static const fm_data_options options = { .train = train, .validation = train, .format = FM_FORMAT_TOKENS, .question_column = question,
                                         .context_column = context, .answer_column = answer, .seq_length = 8 };

void fuzz_begin(void)
{
    static const char lines[] = "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5]}\n";
    fuzz_write("data.jsonl", lines, sizeof lines - 1);
    fuzz_path(data_path, "data.jsonl");
    fuzz_path(index_path, "data.index");
}

static void read_head(void)
{
    fm_store_head head;
    const int fd = open(index_path, O_RDONLY | O_CLOEXEC);
    if (fuzz_result(fm_store_head_read(&head, fd, index_path)) == FM_OK) {
        FUZZ_CHECK(head.n_files > 0 && head.n_parts > 0);
        for (int64_t f = 0; f < head.n_files; f++) {
            FUZZ_CHECK(strlen(fm_store_head_path(&head, f)) < head.blob_bytes);
        }
        fuzz_result(fm_store_verify(fd, index_path, &head, 0, 1 << 20));
        fm_store_head_free(&head);
    }
    close(fd);
}

/* Another's index, or a damaged one, is made anew. */
static void adopt(void)
{
    const fm_dataset_spec spec = { .files = data_path, .options = &options, .vocab_size = 10, .eos_token = -1, .cache_path = index_path };
    fm_dataset *dataset;
    int32_t ids[8], labels[8];
    FUZZ_CHECK(fuzz_result(fm_dataset_open(&dataset, &spec, NULL)) == FM_OK);
    FUZZ_CHECK(fm_dataset_samples(dataset) == 2 && fm_dataset_read(ids, labels, dataset, 1) == FM_OK && ids[1] == 5);
    fm_dataset_close(dataset);
}

void fuzz_one(const char *data, size_t size_bytes)
{
    enum { CRC_AT = 12, LEAST_BYTES = 64 };
    fuzz_write("data.index", data, size_bytes);
    read_head();
    adopt();
    if (size_bytes >= LEAST_BYTES) {
        int64_t blob_bytes;
        const uint32_t none = 0;
        char *const copy = fuzz_copy((fuzz_part){ data, size_bytes });
        memcpy(&blob_bytes, copy + 16, sizeof blob_bytes);
        const size_t covered = blob_bytes > 0 && (size_t)blob_bytes < size_bytes ? (size_t)blob_bytes : size_bytes;
        memcpy(copy + CRC_AT, &none, sizeof none);
        const uint32_t crc = fm_crc32(0, copy, covered);
        memcpy(copy + CRC_AT, &crc, sizeof crc);
        fuzz_write("data.index", copy, size_bytes);
        fm_free(copy);
        read_head();
    }
}
