#include "data/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "base/memory.h"
#include "data/files.h"
#include "data/sample.h"
#include "data/store.h"

/* A rank is given at least so much to read: below, starting another costs more than it saves. */
static const int64_t least_part_bytes = 1 << 18;

/* A rank checks so much payload of an index found on disk; what lies beyond is checked sample by sample when it is read. */
static const int64_t verify_limit_bytes = 1 << 30;

struct fm_dataset {
    fm_store_head head;
    int64_t *first_sample;        /* [n_parts + 1], of each part; the last is their number */
    char *path;                   /* of the index, for errors and for opening */
    int fd;
    bool in_memory;
    bool from_cache;
};

/* What one rank needs while it indexes its part. */
typedef struct {
    const fm_store_head *head;
    fm_sample_parser *parser;
    fm_store_writer writer;
    fm_store_part totals;
    fm_store_record *records;
    int64_t capacity;
    int64_t *stretches;           /* [n_files][2]: bytes and CRC of what this rank read of each file */
} indexer;

static const char *path_or_memory(const fm_dataset *dataset)
{
    return dataset->in_memory ? "the index in memory" : dataset->path;
}

/* ---- the plan: files, format and options, made by one rank */

static int no_samples(const char *files)
{
    return fm_fail(FM_ERR_FORMAT, "%s: no samples: every line is blank", files);
}

static int resolve_format(enum fm_data_format *out, const fm_dataset_spec *spec, const fm_files *files)
{
    *out = spec->options->format;
    for (int64_t i = 0; i < files->n_files && *out == FM_FORMAT_AUTO; i++) {
        fm_lines *lines;
        FM_TRY(fm_lines_open(&lines, files->path[i], &files->identity[i], 0, files->identity[i].size_bytes));
        const char *line;
        size_t size_bytes;
        int64_t at;
        int rc = fm_lines_next(lines, &line, &size_bytes, &at);
        if (rc > 0) {
            int64_t number;
            char name[FM_PATH_BYTES + 32];
            rc = fm_lines_number(&number, files->path[i], at);
            snprintf(name, sizeof name, "%s:%lld", files->path[i], (long long)number);
            rc = rc < 0 ? rc : fm_sample_format(out, spec->options, line, size_bytes, name);
        }
        fm_lines_close(lines);
        FM_TRY(rc);
    }
    return *out != FM_FORMAT_AUTO ? FM_OK : no_samples(spec->files);
}

static int64_t total_bytes(const fm_store_head *head)
{
    int64_t total = 0;
    for (int64_t i = 0; i < head->n_files; i++) {
        total += head->files[i].size_bytes;
    }
    return total;
}

static int make_plan(fm_store_head *out, const fm_dataset_spec *spec, int n_ranks)
{
    fm_files files;
    char key[8 * 1024];
    int rc = fm_files_find(&files, spec->files);
    if (rc < 0) {
        goto done;
    }
    enum fm_data_format format;
    FM_TRY_TO(done, rc, resolve_format(&format, spec, &files));
    const fm_data_options *o = spec->options;
    const int length = snprintf(key, sizeof key, "%s\n%lld\n%lld\n%d\n%d\n%s\n%s\n%s\n%s", fm_sample_format_name(format),
                                (long long)o->seq_length, (long long)spec->vocab_size, o->packing, o->mask_prompt, o->question_column,
                                o->context_column, o->answer_column, spec->tokenizer_identity != NULL ? spec->tokenizer_identity : "");
    FM_ASSERT(length > 0 && (size_t)length < sizeof key);
    int64_t size_bytes = 0;
    for (int64_t i = 0; i < files.n_files; i++) {
        size_bytes += files.identity[i].size_bytes;
    }
    const int64_t most_parts = 1 + size_bytes / least_part_bytes;
    rc = fm_store_head_new(out, format, key, &files, most_parts < n_ranks ? most_parts : n_ranks);
done:
    fm_files_free(&files);
    return rc;
}

/* Rank 0's plan to all. Collective on comm. */
static int share_plan(fm_store_head *out, const fm_dataset_spec *spec, fm_comm *comm)
{
    const bool plans = fm_comm_rank(comm) == 0;
    *out = (fm_store_head){ 0 };
    FM_TRY(fm_comm_agree(comm, plans ? make_plan(out, spec, fm_comm_size(comm)) : FM_OK));
    char *blob = out->blob;
    size_t blob_bytes = out->blob_bytes;
    const int rc = fm_comm_broadcast_text(comm, &blob, &blob_bytes, 0);
    if (rc < 0 || plans) {
        return rc;
    }
    return fm_store_head_view(out, blob, blob_bytes);
}

/* ---- an index that is there already */

/* The head of the index on disk where it is one of the same files and options, else an empty one. */
static void find_cached(fm_store_head *out, const fm_dataset *dataset, const fm_store_head *plan)
{
    *out = (fm_store_head){ 0 };
    int fd;
    int64_t size_bytes;
    if (!fm_path_exists(dataset->path) || fm_file_open(&fd, &size_bytes, dataset->path) < 0) {
        return;
    }
    if (fm_store_head_read(out, fd, dataset->path) == FM_OK && !fm_store_head_same(out, plan)) {
        fm_store_head_free(out);
    }
    close(fd);
}

/* Every size-th part is this rank's to check. */
static int verify_share(const fm_dataset *dataset, const fm_comm *comm)
{
    int64_t left_bytes = verify_limit_bytes;
    for (int64_t part = fm_comm_rank(comm); part < dataset->head.n_parts; part += fm_comm_size(comm)) {
        FM_TRY(fm_store_verify(dataset->fd, dataset->path, &dataset->head, part, left_bytes));
        left_bytes -= dataset->head.parts[part].payload_bytes;
    }
    return FM_OK;
}

static void forget_index(fm_dataset *dataset)
{
    fm_store_head_free(&dataset->head);
    if (dataset->fd >= 0) {
        close(dataset->fd);
    }
    dataset->fd = -1;
}

/* Takes the index on disk if every rank finds it whole. Collective on comm. Returns 1 if so, else 0 or an error of comm. */
static int adopt_cached(fm_dataset *dataset, const fm_store_head *plan, fm_comm *comm)
{
    fm_store_head cached = { 0 };
    if (fm_comm_rank(comm) == 0) {
        find_cached(&cached, dataset, plan);
    }
    char *blob = cached.blob;
    size_t blob_bytes = cached.blob_bytes;
    const int rc = fm_comm_broadcast_text(comm, &blob, &blob_bytes, 0);
    if (rc < 0 || blob_bytes == 0) {
        fm_free(blob);
        return rc;
    }
    int64_t size_bytes;
    int32_t whole = fm_store_head_view(&dataset->head, blob, blob_bytes) == FM_OK &&
                    fm_file_open(&dataset->fd, &size_bytes, dataset->path) == FM_OK && verify_share(dataset, comm) == FM_OK;
    FM_TRY(fm_comm_all_reduce(comm, &whole, 1, FM_I32, FM_MIN));
    if (!whole) {
        forget_index(dataset);
    }
    dataset->from_cache = whole;
    return whole;
}

/* ---- indexing */

static int add_sample(indexer *to, const fm_sample *sample, int64_t file, int64_t line_at)
{
    if (to->totals.samples == to->capacity) {
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
    to->records[to->totals.samples] = (fm_store_record){
        .payload_at = to->writer.stream_bytes, .line_at = line_at, .file = (int32_t)file, .tokens = (int32_t)sample->tokens,
        .label_tokens = (int32_t)sample->label_tokens, .masked = (int32_t)sample->masked, .has_labels = sample->labels != NULL,
        .crc = fm_crc32(fm_crc32(0, sample->ids, ids_bytes), sample->labels, labels_bytes),
    };
    FM_TRY(fm_store_append(&to->writer, sample->ids, ids_bytes));
    FM_TRY(fm_store_append(&to->writer, sample->labels, labels_bytes));
    to->totals.payload_crc = fm_crc32((uint32_t)to->totals.payload_crc, sample->ids, ids_bytes);
    to->totals.payload_crc = fm_crc32((uint32_t)to->totals.payload_crc, sample->labels, labels_bytes);
    to->totals.samples++;
    to->totals.tokens += sample->tokens;
    to->totals.label_tokens += sample->label_tokens;
    to->totals.cut_samples += sample->whole_tokens > sample->tokens;
    to->totals.longest = sample->tokens > to->totals.longest ? sample->tokens : to->totals.longest;
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
    fm_lines_crc(lines, &to->stretches[2 * file], &crc);
    to->stretches[2 * file + 1] = crc;
    fm_lines_close(lines);
    return rc;
}

/* The part of this rank: an even share of the bytes of all files as if they were one. */
static int index_part(indexer *to, const fm_dataset *dataset, const fm_dataset_spec *spec, int64_t part)
{
    const fm_store_head *head = to->head = &dataset->head;
    const int64_t total = total_bytes(head);
    const int64_t begin = total / head->n_parts * part, end = part + 1 == head->n_parts ? total : total / head->n_parts * (part + 1);
    FM_TRY(fm_sample_parser_new(&to->parser, head->format, spec->options, spec->vocab_size, spec->tokenizer));
    FM_TRY(fm_store_writer_begin(&to->writer, dataset->fd, path_or_memory(dataset), head, part));
    int64_t file_at = 0;
    for (int64_t file = 0; file < head->n_files; file++) {
        const int64_t size_bytes = head->files[file].size_bytes;
        const int64_t from = begin > file_at ? begin - file_at : 0;
        const int64_t to_byte = end - file_at < size_bytes ? end - file_at : size_bytes;
        if (from < to_byte) {
            FM_TRY(index_stretch(to, file, from, to_byte));
        }
        file_at += size_bytes;
    }
    const size_t records_bytes = (size_t)to->totals.samples * sizeof *to->records;
    to->totals.payload_bytes = to->writer.stream_bytes;
    to->totals.records_crc = fm_crc32(0, to->records, records_bytes);
    FM_TRY(fm_store_append(&to->writer, to->records, records_bytes));
    return fm_store_flush(&to->writer);
}

static void indexer_clear(indexer *to)
{
    fm_store_writer_end(&to->writer);
    fm_sample_parser_destroy(to->parser);
    fm_free(to->records);
    fm_free(to->stretches);
}

/* Fills in the head what the ranks found. Collective on comm. */
static int gather_head(fm_store_head *head, const indexer *mine, fm_comm *comm)
{
    const int n_ranks = fm_comm_size(comm);
    fm_store_part *parts = fm_alloc_array(n_ranks, sizeof *parts, FM_MEMORY_HOST);
    int64_t *stretches = fm_alloc_array(n_ranks * 2 * head->n_files, sizeof *stretches, FM_MEMORY_HOST);
    int rc = fm_comm_agree(comm, parts == NULL || stretches == NULL ? FM_ERR_MEMORY : FM_OK);
    if (rc < 0) {
        goto done;
    }
    FM_TRY_TO(done, rc, fm_comm_all_gather(comm, parts, &mine->totals, FM_STORE_PART_FIELDS, FM_I64));
    FM_TRY_TO(done, rc, fm_comm_all_gather(comm, stretches, mine->stretches, 2 * head->n_files, FM_I64));
    memcpy(head->parts, parts, (size_t)head->n_parts * sizeof *parts);
    for (int64_t file = 0; file < head->n_files; file++) {
        uLong crc = 0;
        for (int rank = 0; rank < n_ranks; rank++) {
            const int64_t *stretch = stretches + 2 * (rank * head->n_files + file);
            crc = crc32_combine(crc, (uLong)stretch[1], (z_off_t)stretch[0]);
        }
        head->files[file].crc = (int64_t)crc;
    }
done:
    fm_free(parts);
    fm_free(stretches);
    return rc;
}

/* Opens the file that the index is written to under its temporary name: rank 0 makes it. Collective on comm. */
static int create_index(fm_dataset *dataset, const char *temporary, fm_comm *comm)
{
    const bool makes = fm_comm_rank(comm) == 0;
    if (dataset->in_memory) {
        dataset->fd = memfd_create("finemesh index", MFD_CLOEXEC);
    } else if (makes) {
        dataset->fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    }
    int rc = FM_OK;
    if (makes && dataset->fd < 0) {
        rc = fm_fail(FM_ERR_IO, "%s: cannot create: %s", temporary, strerror(errno));
    }
    FM_TRY(fm_comm_agree(comm, rc));
    if (!makes) {
        dataset->fd = open(temporary, O_WRONLY | O_CLOEXEC);
        rc = dataset->fd < 0 ? fm_fail(FM_ERR_IO, "%s: cannot open: %s", temporary, strerror(errno)) : FM_OK;
    }
    return rc;
}

/* Gives the index its name and opens it for reading. It is closed in between on every rank: only then do network file systems
 * promise that the others see what was written. It is not synced: what a crash leaves is found damaged and made anew. */
static int publish_index(fm_dataset *dataset, const char *temporary, fm_comm *comm)
{
    int rc = FM_OK;
    if (close(dataset->fd) != 0) {
        rc = fm_fail(FM_ERR_IO, "%s: cannot write: %s", temporary, strerror(errno));
    }
    dataset->fd = -1;
    FM_TRY(fm_comm_agree(comm, rc));
    FM_TRY(fm_comm_agree(comm, fm_comm_rank(comm) == 0 ? fm_path_rename(temporary, dataset->path) : FM_OK));
    int64_t size_bytes;
    return fm_comm_agree(comm, fm_file_open(&dataset->fd, &size_bytes, dataset->path));
}

/* Reads all lines and writes the index; dataset->head is the plan. Collective on comm. */
static int build_index(fm_dataset *dataset, const fm_dataset_spec *spec, fm_comm *comm)
{
    const int rank = fm_comm_rank(comm);
    char temporary[FM_PATH_BYTES + 8];
    snprintf(temporary, sizeof temporary, "%s.tmp", dataset->path);
    indexer mine = { .stretches = fm_alloc_array(2 * dataset->head.n_files, sizeof *mine.stretches, FM_MEMORY_HOST) };
    int rc;
    FM_TRY_TO(done, rc, fm_comm_agree(comm, mine.stretches == NULL ? FM_ERR_MEMORY : FM_OK));
    rc = create_index(dataset, temporary, comm);
    if (rc == FM_OK && rank < dataset->head.n_parts) {
        rc = index_part(&mine, dataset, spec, rank);
    }
    FM_TRY_TO(done, rc, fm_comm_agree(comm, rc));
    FM_TRY_TO(done, rc, gather_head(&dataset->head, &mine, comm));
    if (rank == 0) {
        rc = fm_store_head_write(&dataset->head, dataset->fd, path_or_memory(dataset));
    }
    FM_TRY_TO(done, rc, fm_comm_agree(comm, rc));
    if (!dataset->in_memory) {
        rc = publish_index(dataset, temporary, comm);
    }
done:
    if (rc < 0 && rank == 0 && !dataset->in_memory) {
        unlink(temporary);
    }
    indexer_clear(&mine);
    return rc;
}

/* ---- opening and reading */

static int count_samples(fm_dataset *dataset, const char *files)
{
    const int64_t n_parts = dataset->head.n_parts;
    dataset->first_sample = fm_alloc_array(n_parts + 1, sizeof *dataset->first_sample, FM_MEMORY_HOST);
    if (dataset->first_sample == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int64_t part = 0; part < n_parts; part++) {
        dataset->first_sample[part + 1] = dataset->first_sample[part] + dataset->head.parts[part].samples;
    }
    return dataset->first_sample[n_parts] > 0 ? FM_OK : no_samples(files);
}

int fm_dataset_open(fm_dataset **out, const fm_dataset_spec *spec, fm_comm *comm)
{
    *out = NULL;
    FM_ASSERT(spec->cache_path != NULL || fm_comm_size(comm) == 1);
    fm_store_head plan = { 0 };
    fm_dataset *dataset = fm_alloc(sizeof *dataset, FM_MEMORY_HOST);
    int rc = FM_ERR_MEMORY;
    if (dataset != NULL) {
        *dataset = (fm_dataset){ .fd = -1, .in_memory = spec->cache_path == NULL };
        dataset->path = fm_strdup(dataset->in_memory ? "" : spec->cache_path);
        rc = dataset->path == NULL ? FM_ERR_MEMORY : FM_OK;
    }
    FM_TRY_TO(failed, rc, fm_comm_agree(comm, rc));
    FM_TRY_TO(failed, rc, share_plan(&plan, spec, comm));
    rc = dataset->in_memory ? 0 : adopt_cached(dataset, &plan, comm);
    if (rc == 0) {
        dataset->head = plan;
        plan = (fm_store_head){ 0 };
        rc = build_index(dataset, spec, comm);
    }
    if (rc < 0) {
        goto failed;
    }
    FM_TRY_TO(failed, rc, fm_comm_agree(comm, count_samples(dataset, spec->files)));
    fm_store_head_free(&plan);
    *out = dataset;
    return FM_OK;
failed:
    fm_store_head_free(&plan);
    fm_dataset_close(dataset);
    return rc;
}

void fm_dataset_close(fm_dataset *dataset)
{
    if (dataset == NULL) {
        return;
    }
    forget_index(dataset);
    fm_free(dataset->first_sample);
    fm_free(dataset->path);
    fm_free(dataset);
}

int64_t fm_dataset_samples(const fm_dataset *dataset)
{
    return dataset->first_sample[dataset->head.n_parts];
}

void fm_dataset_summarize(fm_dataset_summary *out, const fm_dataset *dataset)
{
    const fm_store_head *head = &dataset->head;
    *out = (fm_dataset_summary){ .format = head->format, .n_files = head->n_files, .source_bytes = total_bytes(head),
                                 .from_cache = dataset->from_cache };
    for (int64_t part = 0; part < head->n_parts; part++) {
        const fm_store_part *p = &head->parts[part];
        out->samples += p->samples;
        out->cut_samples += p->cut_samples;
        out->tokens += p->tokens;
        out->label_tokens += p->label_tokens;
        out->longest = p->longest > out->longest ? p->longest : out->longest;
    }
}

int64_t fm_dataset_files(const fm_dataset *dataset)
{
    return dataset->head.n_files;
}

const char *fm_dataset_file(int64_t *size_bytes, int64_t *mtime_ns, uint32_t *crc, const fm_dataset *dataset, int64_t file)
{
    const fm_store_file *f = &dataset->head.files[file];
    *size_bytes = f->size_bytes;
    *mtime_ns = f->mtime_ns;
    *crc = (uint32_t)f->crc;
    return fm_store_head_path(&dataset->head, file);
}

/* The part that holds a sample, and its record. */
static int read_record(fm_store_record *out, int64_t *part, const fm_dataset *dataset, int64_t sample)
{
    FM_ASSERT(sample >= 0 && sample < fm_dataset_samples(dataset));
    int64_t low = 0, high = dataset->head.n_parts;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (dataset->first_sample[middle] <= sample) {
            low = middle;
        } else {
            high = middle;
        }
    }
    *part = low;
    const int64_t at = dataset->head.parts[low].payload_bytes + (sample - dataset->first_sample[low]) * (int64_t)sizeof *out;
    return fm_store_read(out, dataset->fd, path_or_memory(dataset), &dataset->head, low, at, sizeof *out);
}

int fm_dataset_info(fm_sample_info *out, const fm_dataset *dataset, int64_t sample)
{
    fm_store_record record;
    int64_t part;
    FM_TRY(read_record(&record, &part, dataset, sample));
    *out = (fm_sample_info){ record.tokens, record.label_tokens, record.file, record.line_at };
    return FM_OK;
}

int fm_dataset_read(int32_t *ids, int32_t *labels, const fm_dataset *dataset, int64_t sample)
{
    const char *path = path_or_memory(dataset);
    fm_store_record record;
    int64_t part;
    FM_TRY(read_record(&record, &part, dataset, sample));
    const size_t ids_bytes = (size_t)record.tokens * sizeof *ids;
    FM_TRY(fm_store_read(ids, dataset->fd, path, &dataset->head, part, record.payload_at, ids_bytes));
    uint32_t crc = fm_crc32(0, ids, ids_bytes);
    if (record.has_labels) {
        FM_TRY(fm_store_read(labels, dataset->fd, path, &dataset->head, part, record.payload_at + (int64_t)ids_bytes, ids_bytes));
        crc = fm_crc32(crc, labels, ids_bytes);
    } else {
        fm_sample_labels(labels, ids, NULL, record.tokens, record.masked);
    }
    if (crc != record.crc) {
        return fm_fail(FM_ERR_FORMAT, "%s: sample %lld is damaged; remove the file, it is made anew", path, (long long)sample);
    }
    return FM_OK;
}
