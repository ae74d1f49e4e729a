#include "data/indexer.h"

#include "base/crc.h"
#include "base/memory.h"

typedef struct {
    const fm_store_head *head;
    fm_sample_parser *parser;
    fm_store_writer writer;
    fm_indexer_found *found;
    fm_store_record *records;
    int64_t capacity;
} indexer;

static int add_sample(indexer *to, const fm_sample *sample, int64_t file, int64_t line_at)
{
    fm_store_part *totals = &to->found->totals;
    if (totals->samples == to->capacity) {
        const int64_t capacity = to->capacity > 0 ? 2 * to->capacity : 1024;
        fm_store_record *records = fm_grow(to->records, (size_t)capacity * sizeof *records, FM_MEMORY_HOST);
        if (records == NULL) {
            return FM_ERR_MEMORY;
        }
        to->records = records;
        to->capacity = capacity;
    }
    const size_t ids_bytes = (size_t)sample->tokens * sizeof *sample->ids;
    const size_t labels_bytes = sample->labels != NULL ? ids_bytes : 0;
    to->records[totals->samples] = (fm_store_record){
        .payload_at = to->writer.stream_bytes, .line_at = line_at, .file = (int32_t)file, .tokens = (int32_t)sample->tokens,
        .label_tokens = (int32_t)sample->label_tokens, .masked = (int32_t)sample->masked, .has_labels = sample->labels != NULL,
        .crc = fm_crc32(fm_crc32(0, sample->ids, ids_bytes), sample->labels, labels_bytes),
    };
    FM_TRY(fm_store_append(&to->writer, sample->ids, ids_bytes));
    FM_TRY(fm_store_append(&to->writer, sample->labels, labels_bytes));
    totals->payload_crc = fm_crc32((uint32_t)totals->payload_crc, sample->ids, ids_bytes);
    totals->payload_crc = fm_crc32((uint32_t)totals->payload_crc, sample->labels, labels_bytes);
    totals->samples++;
    totals->tokens += sample->tokens;
    totals->label_tokens += sample->label_tokens;
    totals->cut_samples += sample->whole_tokens > sample->tokens;
    totals->longest = sample->tokens > totals->longest ? sample->tokens : totals->longest;
    return FM_OK;
}

/* Line numbers are not known in the middle of a file. They are counted once a line is found to be wrong, and the line is
 * read again for a message that says where it is. */
static int parse_again(indexer *to, const char *line, size_t size_bytes, const char *path, int64_t at)
{
    int64_t number;
    FM_TRY(fm_lines_number(&number, path, at));
    char name[FM_PATH_BYTES + 32];
    snprintf(name, sizeof name, "%s:%lld", path, (long long)number);
    fm_sample sample;
    return fm_sample_parse(&sample, to->parser, line, size_bytes, name);
}

/* The lines of `file` that start in [begin, end). */
static int index_stretch(indexer *to, int64_t file, int64_t begin, int64_t end)
{
    const char *path = fm_store_head_path(to->head, file);
    const fm_file_identity identity = { to->head->files[file].size_bytes, to->head->files[file].mtime_ns };
    fm_lines *lines;
    FM_TRY(fm_lines_open(&lines, path, &identity, begin, end));
    const char *line;
    size_t size_bytes;
    int64_t at;
    int rc;
    while ((rc = fm_lines_next(lines, &line, &size_bytes, &at)) > 0) {
        fm_sample sample;
        rc = fm_sample_parse(&sample, to->parser, line, size_bytes, path);
        if (rc == FM_ERR_FORMAT) {
            rc = parse_again(to, line, size_bytes, path, at);
        }
        rc = rc < 0 ? rc : add_sample(to, &sample, file, at);
        if (rc < 0) {
            break;
        }
    }
    uint32_t crc;
    fm_lines_crc(lines, &to->found->stretches[2 * file], &crc);
    to->found->stretches[2 * file + 1] = crc;
    fm_lines_close(lines);
    return rc;
}

/* All lines of the part, then their records. */
static int index_part(indexer *to, int64_t begin, int64_t end)
{
    int64_t file_at = 0;
    for (int64_t file = 0; file < to->head->n_files; file++) {
        const int64_t size_bytes = to->head->files[file].size_bytes;
        const int64_t from = begin > file_at ? begin - file_at : 0;
        const int64_t until = end - file_at < size_bytes ? end - file_at : size_bytes;
        if (from < until) {
            FM_TRY(index_stretch(to, file, from, until));
        }
        file_at += size_bytes;
    }
    fm_store_part *totals = &to->found->totals;
    const size_t records_bytes = (size_t)totals->samples * sizeof *to->records;
    totals->payload_bytes = to->writer.stream_bytes;
    totals->records_crc = fm_crc32(0, to->records, records_bytes);
    FM_TRY(fm_store_append(&to->writer, to->records, records_bytes));
    return fm_store_flush(&to->writer);
}

int fm_indexer_run(fm_indexer_found *found, int fd, const char *path, const fm_store_head *head, int64_t part,
                   fm_sample_parser *parser)
{
    indexer to = { .head = head, .parser = parser, .found = found };
    const int64_t total = fm_store_head_source_bytes(head), share = total / head->n_parts;
    int rc = fm_store_writer_begin(&to.writer, fd, path, head, part);
    if (rc == FM_OK) {
        rc = index_part(&to, share * part, part + 1 == head->n_parts ? total : share * (part + 1));
    }
    fm_store_writer_end(&to.writer);
    fm_free(to.records);
    return rc;
}
