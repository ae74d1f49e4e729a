#include "data/dataset.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/memory.h"
#include "data/files.h"
#include "data/indexer.h"
#include "data/sample.h"
#include "data/store.h"
#include "finemesh/tokenizer.h"

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

static const char *path_or_memory(const fm_dataset *dataset)
{
    return dataset->in_memory ? "the index in memory" : dataset->path;
}

/* The token that ends a text: the tokenizer's own, else config.json's. */
static int64_t end_token(const fm_dataset_spec *spec)
{
    const int64_t own = spec->tokenizer != NULL ? fm_tokenizer_eos_id(spec->tokenizer) : -1;
    return own >= 0 ? own : spec->eos_token;
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

/* All that decides what is in the index beside the files. */
static int make_key(char *key, size_t key_bytes, enum fm_data_format format, const fm_dataset_spec *spec)
{
    const fm_data_options *o = spec->options;
    const int length = snprintf(key, key_bytes, "%s\n%lld\n%lld\n%lld\n%d\n%d\n%s\n%s\n%s\n%s", fm_sample_format_name(format),
                                (long long)o->seq_length, (long long)spec->vocab_size, (long long)end_token(spec), o->packing,
                                o->mask_prompt, o->question_column, o->context_column, o->answer_column,
                                spec->tokenizer_identity != NULL ? spec->tokenizer_identity : "");
    return length > 0 && (size_t)length < key_bytes ? FM_OK : fm_fail(FM_ERR_JOB, "the names of the data columns are too long");
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
    FM_TRY_TO(done, rc, make_key(key, sizeof key, format, spec));
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

/* ---- an index that is to be made */

/* The part of this rank. */
static int index_part(fm_indexer_found *found, const fm_dataset *dataset, const fm_dataset_spec *spec, int64_t part)
{
    fm_sample_parser *parser;
    FM_TRY(fm_sample_parser_new(&parser, dataset->head.format, spec->options, spec->vocab_size, spec->tokenizer,
                                end_token(spec)));
    const int rc = fm_indexer_run(found, dataset->fd, path_or_memory(dataset), &dataset->head, part, parser);
    fm_sample_parser_destroy(parser);
    return rc;
}

/* Fills in the head what the ranks found. Collective on comm. */
static int gather_head(fm_store_head *head, const fm_indexer_found *mine, fm_comm *comm)
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
        uint32_t crc = 0;
        for (int rank = 0; rank < n_ranks; rank++) {
            const int64_t *stretch = stretches + 2 * (rank * head->n_files + file);
            crc = fm_crc32_join(crc, (uint32_t)stretch[1], stretch[0]);
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
    fm_indexer_found mine = { .stretches = fm_alloc_array(2 * dataset->head.n_files, sizeof *mine.stretches, FM_MEMORY_HOST) };
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
    fm_free(mine.stretches);
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
    *out = (fm_dataset_summary){ .format = head->format, .n_files = head->n_files,
                                 .source_bytes = fm_store_head_source_bytes(head), .from_cache = dataset->from_cache };
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
