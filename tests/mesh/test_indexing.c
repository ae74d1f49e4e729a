/* Ranks index a dataset together: `test_indexing DIR` compares what they find, sample by sample, with what one rank finds, and
 * with what was written; then a damaged index, a wrong line far from where anybody began to read, and an index that cannot be. */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/memory.h"
#include "data/dataset.h"

enum { FILES = 3, LINES = 4000, SEQ_LENGTH = 200, VOCABULARY = 5000, FILE_BYTES = 8 << 20 };

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("line %d: %s; last error: %s\n", __LINE__, #condition, fm_error_message()); \
            MPI_Abort(MPI_COMM_WORLD, 1); \
        } \
    } while (0)

static char none[] = "";
static const fm_data_options options = { .format = FM_FORMAT_TOKENS, .question_column = none, .context_column = none,
                                         .answer_column = none, .seq_length = SEQ_LENGTH };

/* Tokens of a line before the cut: most are short, one is longer than the part of a rank. */
static int64_t length_of(int file, int line)
{
    return file == 1 && line == 1234 ? 200000 : 1 + (line * 7919 + file * 104729) % 250;
}

static int32_t token_of(int file, int line, int64_t t)
{
    return (int32_t)((file * 31 + line * 17 + t * 13) % VOCABULARY);
}

static bool has_labels(int file, int line)
{
    return (file + line) % 5 == 0;
}

/* `wrong` in place of the last token of a line; none for line -1. */
static void write_file(const char *dir, int file, int wrong_line, const char *wrong)
{
    char *text = fm_alloc(FILE_BYTES, FM_MEMORY_HOST), *end = text;
    CHECK(text != NULL);
    for (int line = 0; line < LINES; line++) {
        const int64_t n = length_of(file, line);
        end = stpcpy(end, line % 11 == 3 ? "\n{\"input_ids\": [" : "{\"input_ids\": [");
        for (int64_t t = 0; t < n; t++) {
            end += sprintf(end, t + 1 < n ? "%d, " : "%d", token_of(file, line, t));
        }
        if (line == wrong_line) {
            end += sprintf(end, ", %s", wrong);
        }
        for (int64_t t = 0; has_labels(file, line) && t < n; t++) {
            end += sprintf(end, "%s%d", t == 0 ? "], \"labels\": [" : ",", t % 3 == 0 ? -100 : token_of(file, line, t));
        }
        end = stpcpy(end, line + 1 < LINES ? "]}\n" : "]}");
        CHECK(end - text < FILE_BYTES - (1 << 15));
    }
    char name[32], path[FM_PATH_BYTES];
    snprintf(name, sizeof name, "data-%d.jsonl", file);
    CHECK(fm_path_join(path, dir, name) == FM_OK);
    CHECK(fm_file_replace(path, text, (size_t)(end - text)) == FM_OK);
    fm_free(text);
}

static void write_files(const char *dir, fm_comm *comm, int wrong_file, int wrong_line, const char *wrong)
{
    for (int file = 0; file < FILES && fm_comm_rank(comm) == 0; file++) {
        write_file(dir, file, file == wrong_file ? wrong_line : -1, wrong);
    }
    CHECK(fm_comm_barrier(comm) == FM_OK);
}

static int open_dataset(fm_dataset **out, const char *dir, fm_comm *comm, bool in_memory)
{
    char files[FM_PATH_BYTES], index[FM_PATH_BYTES];
    CHECK(fm_path_join(files, dir, "data-*.jsonl") == FM_OK && fm_path_join(index, dir, "index") == FM_OK);
    const fm_dataset_spec spec = { .files = files, .options = &options, .vocab_size = VOCABULARY,
                                   .cache_path = in_memory ? NULL : index };
    return fm_dataset_open(out, &spec, comm);
}

static void check_samples(const fm_dataset *dataset)
{
    static int32_t ids[SEQ_LENGTH], labels[SEQ_LENGTH];
    CHECK(fm_dataset_samples(dataset) == FILES * LINES);
    for (int i = 0; i < FILES * LINES; i++) {
        const int file = i / LINES, line = i % LINES;
        const int64_t whole = length_of(file, line), n = whole < SEQ_LENGTH ? whole : SEQ_LENGTH;
        fm_sample_info info;
        CHECK(fm_dataset_info(&info, dataset, i) == FM_OK && info.tokens == n && info.file == file);
        CHECK(fm_dataset_read(ids, labels, dataset, i) == FM_OK);
        int64_t label_tokens = 0;
        for (int64_t t = 0; t < n; t++) {
            CHECK(ids[t] == token_of(file, line, t));
            CHECK(labels[t] == (has_labels(file, line) && t % 3 == 0 ? -100 : ids[t]));
            label_tokens += t > 0 && labels[t] != -100;
        }
        CHECK(info.label_tokens == label_tokens);
    }
}

/* What the summary and the files' CRCs say does not depend on how many ranks looked. */
static void check_summary(const fm_dataset *together, const fm_dataset *alone)
{
    fm_dataset_summary a, b;
    fm_dataset_summarize(&a, together);
    fm_dataset_summarize(&b, alone);
    CHECK(a.samples == b.samples && a.cut_samples == b.cut_samples && a.tokens == b.tokens && a.label_tokens == b.label_tokens);
    CHECK(a.longest == b.longest && a.source_bytes == b.source_bytes && a.cut_samples > 0 && a.longest == SEQ_LENGTH);
    for (int64_t file = 0; file < FILES; file++) {
        int64_t size_bytes, mtime_ns;
        uint32_t crc_a, crc_b;
        char *text;
        size_t text_bytes;
        const char *path = fm_dataset_file(&size_bytes, &mtime_ns, &crc_a, together, file);
        fm_dataset_file(&size_bytes, &mtime_ns, &crc_b, alone, file);
        CHECK(fm_file_read(&text, &text_bytes, path, FILE_BYTES) == FM_OK);
        CHECK(crc_a == crc_b && crc_a == fm_crc32(0, text, text_bytes));
        fm_free(text);
    }
}

/* Opens, checks everything, closes; returns whether the index on disk served. */
static bool check_open(const char *dir, fm_comm *comm, const fm_dataset *alone)
{
    fm_dataset *dataset;
    fm_dataset_summary summary;
    CHECK(open_dataset(&dataset, dir, comm, false) == FM_OK);
    fm_dataset_summarize(&summary, dataset);
    check_samples(dataset);
    check_summary(dataset, alone);
    fm_dataset_close(dataset);
    return summary.from_cache;
}

/* Flips a bit of the byte at `share` of the index, on one rank. */
static void damage_index(const char *dir, fm_comm *comm, double share)
{
    if (fm_comm_rank(comm) == 0) {
        char path[FM_PATH_BYTES];
        char *bytes;
        size_t size_bytes;
        CHECK(fm_path_join(path, dir, "index") == FM_OK && fm_file_read(&bytes, &size_bytes, path, 1 << 28) == FM_OK);
        bytes[(size_t)(share * (double)(size_bytes - 1))] ^= 1;
        CHECK(fm_file_replace(path, bytes, size_bytes) == FM_OK);
        fm_free(bytes);
    }
    CHECK(fm_comm_barrier(comm) == FM_OK);
}

static void check_error(const char *dir, fm_comm *comm, int code, const char *expected)
{
    fm_dataset *dataset;
    CHECK(open_dataset(&dataset, dir, comm, false) == code);
    CHECK(dataset == NULL && strstr(fm_error_message(), expected) != NULL);
    CHECK(fm_comm_barrier(comm) == FM_OK);
}

/* The number of a line of the file, from 1, blank ones counted. */
static int line_number(int line)
{
    return line + 1 + (line + 8) / 11;
}

int main(int argc, char **argv)
{
    MPI_Comm world = MPI_COMM_WORLD;
    if (argc != 2 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    fm_comm *comm;
    fm_dataset *alone;
    const char *dir = argv[1];
    CHECK(fm_comm_new_world(&comm, &world) == FM_OK);
    write_files(dir, comm, -1, -1, "");
    CHECK(open_dataset(&alone, dir, NULL, true) == FM_OK);
    check_samples(alone);
    CHECK(!check_open(dir, comm, alone));
    CHECK(check_open(dir, comm, alone));
    for (int i = 0; i < 3; i++) {
        damage_index(dir, comm, i == 0 ? 0.0 : i == 1 ? 0.6 : 1.0);
        CHECK(!check_open(dir, comm, alone));
        CHECK(check_open(dir, comm, alone));
    }
    fm_dataset_close(alone);
    char expected[64];
    for (int line = 100; line < LINES; line += 1300) { /* each time the files are new ones: the index does not serve */
        snprintf(expected, sizeof expected, "data-2.jsonl:%d: \"input_ids\"[%d] is 5000", line_number(line),
                 (int)length_of(2, line));
        write_files(dir, comm, 2, line, "5000");
        check_error(dir, comm, FM_ERR_FORMAT, expected);
    }
    write_files(dir, comm, -1, -1, "");
    char index[FM_PATH_BYTES];
    CHECK(fm_path_join(index, dir, "index") == FM_OK);
    if (fm_comm_rank(comm) == 0) {
        CHECK(fm_dir_remove(index) == FM_OK && fm_dir_make(index) == FM_OK);
    }
    CHECK(fm_comm_barrier(comm) == FM_OK);
    check_error(dir, comm, FM_ERR_IO, "cannot rename");
    fm_comm_destroy(comm);
    MPI_Finalize();
    return 0;
}
