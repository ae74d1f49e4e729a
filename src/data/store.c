#include "data/store.h"

#include <string.h>

#include "base/crc.h"
#include "base/memory.h"

/* The version changes whenever an older finemesh would misread the file. */
static const char magic[8] = "FMINDEX";
enum { VERSION = 1, HEAD_LIMIT_BYTES = 1 << 30 };

/* What a blob begins with; then the parts, the files, and the text: the key and the paths, each with its 0 byte. */
typedef struct {
    char magic[8];
    uint32_t version;
    uint32_t crc;             /* of the blob with this field 0 */
    int64_t blob_bytes;
    int64_t n_parts, n_files, text_bytes;
    int64_t format;
} preamble;

int fm_store_head_new(fm_store_head *out, enum fm_data_format format, const char *key, const fm_files *files, int64_t n_parts)
{
    *out = (fm_store_head){ 0 };
    int64_t text_bytes = (int64_t)strlen(key) + 1;
    for (int64_t i = 0; i < files->n_files; i++) {
        text_bytes += (int64_t)strlen(files->path[i]) + 1;
    }
    const size_t blob_bytes = sizeof(preamble) + (size_t)n_parts * sizeof(fm_store_part) +
                              (size_t)files->n_files * sizeof(fm_store_file) + (size_t)text_bytes;
    char *blob = fm_alloc(blob_bytes, FM_MEMORY_HOST);
    if (blob == NULL) {
        return FM_ERR_MEMORY;
    }
    preamble *first = (preamble *)(void *)blob;
    *first = (preamble){ .version = VERSION, .blob_bytes = (int64_t)blob_bytes, .n_parts = n_parts, .n_files = files->n_files,
                         .text_bytes = text_bytes, .format = format };
    memcpy(first->magic, magic, sizeof magic);
    fm_store_file *entries = (fm_store_file *)(void *)(blob + sizeof *first + (size_t)n_parts * sizeof(fm_store_part));
    char *text = (char *)(entries + files->n_files);
    char *end = stpcpy(text, key) + 1;
    for (int64_t i = 0; i < files->n_files; i++) {
        entries[i] = (fm_store_file){ files->identity[i].size_bytes, files->identity[i].mtime_ns, 0, end - text };
        end = stpcpy(end, files->path[i]) + 1;
    }
    return fm_store_head_view(out, blob, blob_bytes);
}

/* The counts of a preamble against the size of the blob, each bounded before it is multiplied. */
static bool fits(const preamble *first, size_t blob_bytes)
{
    const int64_t limit = (int64_t)blob_bytes;
    return memcmp(first->magic, magic, sizeof magic) == 0 && first->version == VERSION && first->blob_bytes == limit &&
           first->n_parts >= 1 && first->n_parts <= limit && first->n_files >= 1 && first->n_files <= limit &&
           first->text_bytes >= 1 && first->text_bytes <= limit && first->format >= FM_FORMAT_AUTO &&
           first->format <= FM_FORMAT_CHAT &&
           (int64_t)sizeof *first + first->n_parts * (int64_t)sizeof(fm_store_part) +
           first->n_files * (int64_t)sizeof(fm_store_file) + first->text_bytes == limit;
}

/* What a part says of its sizes, so that no place in the file overflows. */
static bool part_fits(const fm_store_part *part, int64_t n_parts)
{
    const int64_t most_bytes = INT64_MAX / 4 / n_parts, most_samples = most_bytes / (int64_t)sizeof(fm_store_record);
    return part->payload_bytes >= 0 && part->payload_bytes <= most_bytes && part->samples >= 0 && part->samples <= most_samples;
}

int fm_store_head_view(fm_store_head *out, char *blob, size_t blob_bytes)
{
    *out = (fm_store_head){ .blob = blob, .blob_bytes = blob_bytes };
    const preamble *first = (const preamble *)(const void *)blob;
    if (blob_bytes < sizeof *first || blob_bytes > HEAD_LIMIT_BYTES || !fits(first, blob_bytes)) {
        goto wrong;
    }
    out->format = (enum fm_data_format)first->format;
    out->n_parts = first->n_parts;
    out->n_files = first->n_files;
    out->parts = (fm_store_part *)(void *)(blob + sizeof *first);
    out->files = (fm_store_file *)(void *)(out->parts + out->n_parts);
    out->text = (const char *)(out->files + out->n_files);
    out->key = out->text;
    if (out->text[first->text_bytes - 1] != '\0') {
        goto wrong;
    }
    for (int64_t i = 0; i < out->n_parts; i++) {
        if (!part_fits(&out->parts[i], out->n_parts)) {
            goto wrong;
        }
    }
    for (int64_t i = 0; i < out->n_files; i++) {
        if (out->files[i].path_at < 0 || out->files[i].path_at >= first->text_bytes) {
            goto wrong;
        }
    }
    return FM_OK;
wrong:
    fm_store_head_free(out);
    return fm_fail(FM_ERR_FORMAT, "not an index of this version, or a damaged one");
}

void fm_store_head_free(fm_store_head *head)
{
    fm_free(head->blob);
    *head = (fm_store_head){ 0 };
}

const char *fm_store_head_path(const fm_store_head *head, int64_t file)
{
    return head->text + head->files[file].path_at;
}

int64_t fm_store_head_source_bytes(const fm_store_head *head)
{
    int64_t total = 0;
    for (int64_t i = 0; i < head->n_files; i++) {
        total += head->files[i].size_bytes;
    }
    return total;
}

bool fm_store_head_same(const fm_store_head *a, const fm_store_head *b)
{
    if (strcmp(a->key, b->key) != 0 || a->n_files != b->n_files) {
        return false;
    }
    for (int64_t i = 0; i < a->n_files; i++) {
        if (a->files[i].size_bytes != b->files[i].size_bytes || a->files[i].mtime_ns != b->files[i].mtime_ns ||
            strcmp(fm_store_head_path(a, i), fm_store_head_path(b, i)) != 0) {
            return false;
        }
    }
    return true;
}

static uint32_t head_crc(const fm_store_head *head)
{
    preamble first = *(const preamble *)(const void *)head->blob;
    first.crc = 0;
    return fm_crc32(fm_crc32(0, &first, sizeof first), head->blob + sizeof first, head->blob_bytes - sizeof first);
}

int fm_store_head_write(fm_store_head *head, int fd, const char *path)
{
    ((preamble *)(void *)head->blob)->crc = head_crc(head);
    return fm_file_pwrite(fd, head->blob, head->blob_bytes, 0, path);
}

int fm_store_head_read(fm_store_head *out, int fd, const char *path)
{
    *out = (fm_store_head){ 0 };
    preamble first;
    fm_file_identity file;
    FM_TRY(fm_file_identify(&file, fd, path));
    FM_TRY(fm_file_pread(fd, &first, sizeof first, 0, path));
    if (memcmp(first.magic, magic, sizeof magic) != 0 || first.blob_bytes < (int64_t)sizeof first ||
        first.blob_bytes > HEAD_LIMIT_BYTES || first.blob_bytes > file.size_bytes) {
        return fm_fail(FM_ERR_FORMAT, "%s: not an index of a dataset", path);
    }
    const size_t blob_bytes = (size_t)first.blob_bytes;
    char *blob = fm_alloc(blob_bytes, FM_MEMORY_HOST);
    if (blob == NULL) {
        return FM_ERR_MEMORY;
    }
    const int rc = fm_file_pread(fd, blob, blob_bytes, 0, path);
    if (rc < 0) {
        fm_free(blob);
        return rc;
    }
    FM_TRY(fm_store_head_view(out, blob, blob_bytes));
    if (first.crc != head_crc(out)) {
        fm_store_head_free(out);
        return fm_fail(FM_ERR_FORMAT, "%s: the index is damaged", path);
    }
    return FM_OK;
}

/* Where the data begins: a whole number of stripes, so that the head shares no page with a part. */
static int64_t data_at(const fm_store_head *head)
{
    return ((int64_t)head->blob_bytes + FM_STORE_STRIPE_BYTES - 1) / FM_STORE_STRIPE_BYTES * FM_STORE_STRIPE_BYTES;
}

/* The place in the file of byte `at` of a part's stream. */
static int64_t place_of(int64_t data, int64_t part, int64_t n_parts, int64_t at)
{
    const int64_t stripe = at / FM_STORE_STRIPE_BYTES;
    return data + (stripe * n_parts + part) * FM_STORE_STRIPE_BYTES + at % FM_STORE_STRIPE_BYTES;
}

int fm_store_writer_begin(fm_store_writer *out, int fd, const char *path, const fm_store_head *head, int64_t part)
{
    *out = (fm_store_writer){ .path = path, .fd = fd, .part = part, .n_parts = head->n_parts, .data_at = data_at(head) };
    out->stripe = fm_alloc(FM_STORE_STRIPE_BYTES, FM_MEMORY_HOST);
    return out->stripe == NULL ? FM_ERR_MEMORY : FM_OK;
}

void fm_store_writer_end(fm_store_writer *writer)
{
    fm_free(writer->stripe);
    writer->stripe = NULL;
}

/* Writes the first `used` bytes of the stripe that the stream is in. */
static int write_stripe(fm_store_writer *writer, int64_t at, size_t used)
{
    return fm_file_pwrite(writer->fd, writer->stripe, used, place_of(writer->data_at, writer->part, writer->n_parts, at),
                          writer->path);
}

int fm_store_append(fm_store_writer *writer, const void *data, size_t size_bytes)
{
    const char *bytes = data;
    while (size_bytes > 0) {
        const size_t used = (size_t)(writer->stream_bytes % FM_STORE_STRIPE_BYTES);
        const size_t room = FM_STORE_STRIPE_BYTES - used;
        const size_t n = size_bytes < room ? size_bytes : room;
        memcpy(writer->stripe + used, bytes, n);
        if (n == room) {
            FM_TRY(write_stripe(writer, writer->stream_bytes - (int64_t)used, FM_STORE_STRIPE_BYTES));
        }
        writer->stream_bytes += (int64_t)n;
        bytes += n;
        size_bytes -= n;
    }
    return FM_OK;
}

int fm_store_flush(fm_store_writer *writer)
{
    const size_t used = (size_t)(writer->stream_bytes % FM_STORE_STRIPE_BYTES);
    return used == 0 ? FM_OK : write_stripe(writer, writer->stream_bytes - (int64_t)used, used);
}

int fm_store_read(void *out, int fd, const char *path, const fm_store_head *head, int64_t part, int64_t at, size_t size_bytes)
{
    const int64_t data = data_at(head);
    char *bytes = out;
    while (size_bytes > 0) {
        const size_t room = FM_STORE_STRIPE_BYTES - (size_t)(at % FM_STORE_STRIPE_BYTES);
        const size_t n = size_bytes < room ? size_bytes : room;
        FM_TRY(fm_file_pread(fd, bytes, n, place_of(data, part, head->n_parts, at), path));
        bytes += n;
        at += (int64_t)n;
        size_bytes -= n;
    }
    return FM_OK;
}

static int verify_stretch(int fd, const char *path, const fm_store_head *head, int64_t part, int64_t at, int64_t size_bytes,
                          int64_t expected, char *buffer)
{
    uint32_t crc = 0;
    while (size_bytes > 0) {
        const size_t n = size_bytes < FM_STORE_STRIPE_BYTES ? (size_t)size_bytes : FM_STORE_STRIPE_BYTES;
        FM_TRY(fm_store_read(buffer, fd, path, head, part, at, n));
        crc = fm_crc32(crc, buffer, n);
        at += (int64_t)n;
        size_bytes -= (int64_t)n;
    }
    return crc == expected ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: the index is damaged", path);
}

int fm_store_verify(int fd, const char *path, const fm_store_head *head, int64_t part, int64_t payload_limit_bytes)
{
    const fm_store_part *p = &head->parts[part];
    char *buffer = fm_alloc(FM_STORE_STRIPE_BYTES, FM_MEMORY_HOST);
    if (buffer == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc = verify_stretch(fd, path, head, part, p->payload_bytes, p->samples * (int64_t)sizeof(fm_store_record), p->records_crc,
                            buffer);
    if (rc == FM_OK && p->payload_bytes <= payload_limit_bytes) {
        rc = verify_stretch(fd, path, head, part, 0, p->payload_bytes, p->payload_crc, buffer);
    }
    fm_free(buffer);
    return rc;
}
