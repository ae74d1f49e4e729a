#include "ckpt/source.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/memory.h"
#include "ckpt/exchange.h"
#include "ckpt/hf.h"
#include "ckpt/shard_scan.h"

/* What is longer than CHUNK is read in parts of PART, by all threads, and a part's CRC finds its bytes in the cache; columns are picked
 * from rows in a band of BAND bytes, but read one row at a time where a row's part is LONG_ROW or more; an exchange reads EXCHANGE
 * bytes a peer at a time; of a slice that will be read soon EXPECTED bytes are asked for. */
enum {
    CHUNK_BYTES = 8 << 20, PART_BYTES = 2 << 20, BAND_BYTES = 4 << 20, LONG_ROW_BYTES = 256 << 10, EXCHANGE_BYTES = 8 << 20,
    EXPECTED_BYTES = 32 << 20, OPEN_FILES = 32
};

struct fm_source {
    fm_index index;
    fm_source_tensor *tensors;
    struct {
        int file;                      /* -1: unused */
        int fd;
    } open[OPEN_FILES];
    int next_open;
    char *band;                        /* [BAND_BYTES], made when first needed */
    int64_t bytes_read, requests;
};

/* How a kind of source is scanned into an index, before it is sealed. */
typedef struct {
    int (*scan)(fm_index *index, const char *dir, int part, int n_parts);   /* part `part` of `n_parts` of its files */
    int most_parts;                    /* ranks that read at once: more would only crowd the file system */
} source_kind;

static int scan_hf(fm_index *index, const char *dir, int part, int n_parts)
{
    return fm_hf_scan(index, dir);
}

static const source_kind hf_kind = { scan_hf, 1 };
static const source_kind shards_kind = { fm_shards_scan, 16 };

/* The indexes of the first n_parts ranks to every rank. Collective. */
static int exchange_index(fm_index *whole, const fm_index *mine, int n_parts, fm_comm *world)
{
    const int me = fm_comm_rank(world);
    int rc = FM_OK;
    for (int root = 0; rc == FM_OK && root < n_parts; root++) {
        char *packed = NULL;
        size_t size_bytes = 0;
        if (root == me) {
            rc = fm_index_pack(&packed, &size_bytes, mine);
        }
        rc = fm_comm_agree(world, rc);
        if (rc == FM_OK) {
            rc = fm_comm_broadcast_text(world, &packed, &size_bytes, root);
        }
        if (rc == FM_OK) {
            rc = fm_index_merge(whole, packed, size_bytes);
        }
        fm_free(packed);
    }
    return rc;
}

static int list_tensors(fm_source *source)
{
    const fm_index *const index = &source->index;
    source->tensors = fm_alloc_array(index->tensors.n, sizeof *source->tensors, FM_MEMORY_HOST);
    if (source->tensors == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int64_t t = 0; t < index->tensors.n; t++) {
        const fm_index_tensor *const from = fm_index_get_tensor(index, t);
        fm_source_tensor *const to = &source->tensors[t];
        *to = (fm_source_tensor){
            .name = fm_index_string(index, from->name),
            .dtype = (enum fm_dtype)from->dtype,
            .dtype_name = fm_index_string(index, from->dtype_name),
            .ndim = from->ndim,
        };
        memcpy(to->shape, from->shape, sizeof to->shape);
    }
    return FM_OK;
}

static int open_source(fm_source **out, const source_kind *kind, const char *dir, fm_comm *world)
{
    fm_source *source = fm_alloc(sizeof *source, FM_MEMORY_HOST);
    fm_index mine = { .pool = { 0 } };
    *out = NULL;
    int rc = source == NULL ? FM_ERR_MEMORY : FM_OK;
    const int me = fm_comm_rank(world), size = fm_comm_size(world), n_parts = size < kind->most_parts ? size : kind->most_parts;
    for (int i = 0; rc == FM_OK && i < OPEN_FILES; i++) {
        source->open[i].file = -1;
    }
    if (rc == FM_OK && me < n_parts) {
        rc = kind->scan(&mine, dir, me, n_parts);
    }
    FM_TRY_TO(done, rc, fm_comm_agree(world, rc));
    rc = exchange_index(&source->index, &mine, n_parts, world);
    if (rc == FM_OK) {
        rc = fm_index_seal(&source->index, true, dir);
    }
    if (rc == FM_OK) {
        rc = list_tensors(source);
    }
    rc = fm_comm_agree(world, rc);
done:
    fm_index_clear(&mine);
    if (rc < 0) {
        fm_source_close(source);
        return rc;
    }
    *out = source;
    return FM_OK;
}

int fm_source_open_hf(fm_source **out, const char *dir, fm_comm *world)
{
    return open_source(out, &hf_kind, dir, world);
}

int fm_source_open_shards(fm_source **out, const char *dir, fm_comm *world)
{
    return open_source(out, &shards_kind, dir, world);
}

int fm_source_open(fm_source **out, const char *dir, fm_comm *world)
{
    uint8_t is_set = 0;
    if (fm_comm_rank(world) == 0) {
        is_set = fm_shards_is_set(dir);
    }
    FM_TRY(fm_comm_broadcast(world, &is_set, 1, FM_U8, 0));
    return open_source(out, is_set ? &shards_kind : &hf_kind, dir, world);
}

void fm_source_close(fm_source *source)
{
    if (source == NULL) {
        return;
    }
    for (int i = 0; i < OPEN_FILES; i++) {
        if (source->open[i].file >= 0) {
            close(source->open[i].fd);
        }
    }
    fm_index_clear(&source->index);
    fm_free(source->tensors);
    fm_free(source->band);
    fm_free(source);
}

int fm_source_count(const fm_source *source)
{
    return (int)source->index.tensors.n;
}

const fm_source_tensor *fm_source_get(const fm_source *source, int index)
{
    FM_ASSERT(index >= 0 && index < fm_source_count(source));
    return &source->tensors[index];
}

int fm_source_find(const fm_source *source, const char *name)
{
    return fm_index_find(&source->index, name);
}

const fm_index *fm_source_index(const fm_source *source)
{
    return &source->index;
}

int64_t fm_source_bytes_read(const fm_source *source)
{
    return source->bytes_read;
}

int64_t fm_source_requests(const fm_source *source)
{
    return source->requests;
}

/* A descriptor of a file; the oldest of OPEN_FILES gives way. */
static int descriptor(int *fd, fm_source *source, int file)
{
    for (int i = 0; i < OPEN_FILES; i++) {
        if (source->open[i].file == file) {
            *fd = source->open[i].fd;
            return FM_OK;
        }
    }
    const fm_index_file *const entry = fm_index_get_file(&source->index, file);
    const char *const path = fm_index_string(&source->index, entry->name);
    int64_t size_bytes;
    FM_TRY(fm_file_open(fd, &size_bytes, path));
    const int slot = source->next_open;
    source->next_open = (slot + 1) % OPEN_FILES;
    if (source->open[slot].file >= 0) {
        close(source->open[slot].fd);
    }
    source->open[slot].file = file;
    source->open[slot].fd = *fd;
    return FM_OK;
}

/* A long run by all threads: each reads parts and takes their CRCs, which combine. New pages are made by all of them too. */
static int read_parts(char *out, int fd, int64_t offset_bytes, size_t size_bytes, uint32_t *crc, const char *path)
{
    const int64_t n = (int64_t)((size_bytes + PART_BYTES - 1) / PART_BYTES);
    uint32_t *const crcs = fm_alloc_array(n, sizeof *crcs, FM_MEMORY_HOST);
    int64_t failed = n;
    if (crcs == NULL) {
        return FM_ERR_MEMORY;
    }
#pragma omp parallel for schedule(dynamic) reduction(min : failed)
    for (int64_t i = 0; i < n; i++) {
        const size_t at = (size_t)i * PART_BYTES, part_bytes = size_bytes - at < PART_BYTES ? size_bytes - at : PART_BYTES;
        if (fm_file_pread(fd, out + at, part_bytes, offset_bytes + (int64_t)at, path) < 0) {
            failed = i < failed ? i : failed;
        } else if (crc != NULL) {
            crcs[i] = fm_crc32(0, out + at, part_bytes);
        }
    }
    int rc = FM_OK;
    if (failed < n) {                  /* the message is another thread's: fail once more */
        const size_t at = (size_t)failed * PART_BYTES, part_bytes = size_bytes - at < PART_BYTES ? size_bytes - at : PART_BYTES;
        rc = fm_file_pread(fd, out + at, part_bytes, offset_bytes + (int64_t)at, path);
        rc = rc < 0 ? rc : fm_fail(FM_ERR_IO, "%s: reading it failed once and not the second time", path);
    }
    for (int64_t i = 0; i < n && rc == FM_OK && crc != NULL; i++) {
        const size_t at = (size_t)i * PART_BYTES, part_bytes = size_bytes - at < PART_BYTES ? size_bytes - at : PART_BYTES;
        *crc = fm_crc32_join(*crc, crcs[i], (int64_t)part_bytes);
    }
    fm_free(crcs);
    return rc;
}

/* After the bytes, so that a change before or while they were read is seen. */
static int check_unchanged(const fm_source *source, int file, int fd)
{
    const fm_index_file *const entry = fm_index_get_file(&source->index, file);
    const char *const path = fm_index_string(&source->index, entry->name);
    fm_file_identity now;
    FM_TRY(fm_file_identify(&now, fd, path));
    if (now.size_bytes != entry->size_bytes || (entry->mtime_ns != 0 && now.mtime_ns != entry->mtime_ns)) {
        return fm_fail(FM_ERR_IO, "%s: it was changed while it was being read (%lld bytes, %lld before); start again when nothing "
                       "writes to it", path, (long long)now.size_bytes, (long long)entry->size_bytes);
    }
    return FM_OK;
}

/* A run of bytes of a file; *crc (NULL: not wanted) goes on over them. */
static int read_run(fm_source *source, char *out, int file, int64_t offset_bytes, size_t size_bytes, uint32_t *crc)
{
    int fd;
    FM_TRY(descriptor(&fd, source, file));
    const char *const path = fm_index_string(&source->index, fm_index_get_file(&source->index, file)->name);
    if (size_bytes > CHUNK_BYTES) {
        source->requests += (int64_t)((size_bytes + PART_BYTES - 1) / PART_BYTES);
        source->bytes_read += (int64_t)size_bytes;
        FM_TRY(read_parts(out, fd, offset_bytes, size_bytes, crc, path));
        return check_unchanged(source, file, fd);
    }
    FM_TRY(fm_file_pread(fd, out, size_bytes, offset_bytes, path));
    if (crc != NULL) {
        *crc = fm_crc32(*crc, out, size_bytes);
    }
    source->requests++;
    source->bytes_read += (int64_t)size_bytes;
    return check_unchanged(source, file, fd);
}

/* What a request wants of one piece, in the tensor's coordinates. */
typedef struct {
    int64_t start[2], count[2];
} region;

static bool intersect(region *out, const region *want, const fm_index_piece *piece)
{
    for (int d = 0; d < 2; d++) {
        const int64_t end_a = want->start[d] + want->count[d], end_b = piece->start[d] + piece->count[d];
        out->start[d] = want->start[d] > piece->start[d] ? want->start[d] : piece->start[d];
        out->count[d] = (end_a < end_b ? end_a : end_b) - out->start[d];
        if (out->count[d] <= 0) {
            return false;
        }
    }
    return true;
}

/* Whether a part of a piece is read with the bytes between its rows, as one span. */
static bool reads_whole_rows(int64_t row_bytes, int64_t pitch_bytes)
{
    return row_bytes < pitch_bytes && row_bytes < LONG_ROW_BYTES && pitch_bytes <= BAND_BYTES;
}

/* Rows whose place in `out` or in the file is not dense: through the band. */
static int read_band(fm_source *source, char *out, size_t out_pitch_bytes, int file, int64_t offset_bytes, int64_t n_rows,
                     int64_t row_bytes, int64_t pitch_bytes, uint32_t *crc)
{
    if (source->band == NULL) {
        source->band = fm_alloc(BAND_BYTES, FM_MEMORY_CHECKPOINT);
        if (source->band == NULL) {
            return FM_ERR_MEMORY;
        }
    }
    const int64_t rows_a_band = BAND_BYTES / pitch_bytes;
    for (int64_t row = 0; row < n_rows;) {
        const int64_t rows = n_rows - row < rows_a_band ? n_rows - row : rows_a_band;
        FM_TRY(read_run(source, source->band, file, offset_bytes + row * pitch_bytes,
                        (size_t)((rows - 1) * pitch_bytes + row_bytes), crc));
        for (int64_t r = 0; r < rows; r++) {
            memcpy(out + (size_t)(row + r) * out_pitch_bytes, source->band + r * pitch_bytes, (size_t)row_bytes);
        }
        row += rows;
    }
    return FM_OK;
}

/* One region of one piece into out, whose rows lie out_pitch_bytes apart. */
static int read_region(fm_source *source, char *out, size_t out_pitch_bytes, int file, const fm_index_piece *piece,
                       const region *part, int64_t element_bytes, uint32_t *crc)
{
    const int64_t row_bytes = part->count[1] * element_bytes, pitch_bytes = piece->pitch * element_bytes;
    const int64_t offset_bytes = piece->offset_bytes + (part->start[0] - piece->start[0]) * pitch_bytes +
                                 (part->start[1] - piece->start[1]) * element_bytes;
    if (row_bytes == pitch_bytes && (size_t)row_bytes == out_pitch_bytes) {
        return read_run(source, out, file, offset_bytes, (size_t)(part->count[0] * row_bytes), crc);
    }
    const bool small_dense_rows = row_bytes == pitch_bytes && row_bytes < LONG_ROW_BYTES;
    if (part->count[0] > 1 && (small_dense_rows || reads_whole_rows(row_bytes, pitch_bytes))) {
        return read_band(source, out, out_pitch_bytes, file, offset_bytes, part->count[0], row_bytes, pitch_bytes, crc);
    }
    for (int64_t row = 0; row < part->count[0]; row++) {
        FM_TRY(read_run(source, out + (size_t)row * out_pitch_bytes, file, offset_bytes + row * pitch_bytes, (size_t)row_bytes,
                        crc));
    }
    return FM_OK;
}

/* Whether reading `want` reads all bytes of the slice, in their order: then its CRC can be taken on the way. */
static bool covers_slice(const fm_source *source, const fm_index_slice *slice, const region *want)
{
    int64_t at = slice->offset_bytes;
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(source->tensors[slice->tensor].dtype);
    for (int p = 0; p < slice->n_pieces; p++) {
        const fm_index_piece *const piece = fm_index_get_piece(&source->index, slice->first_piece + p);
        region part;
        if (!intersect(&part, want, piece) || part.count[0] != piece->count[0] || part.count[1] != piece->count[1] ||
            piece->pitch != piece->count[1] || piece->offset_bytes != at) {
            return false;
        }
        at += piece->count[0] * piece->count[1] * element_bytes;
    }
    return slice->has_crc && at == slice->offset_bytes + slice->size_bytes;
}

static int check_crc(const fm_source *source, const fm_index_slice *slice, uint32_t found)
{
    if (found == slice->crc32) {
        return FM_OK;
    }
    return fm_fail(FM_ERR_FORMAT, "%s: tensor %s: its bytes have the CRC %08x, %08x was written: the file is damaged",
                   fm_index_string(&source->index, fm_index_get_file(&source->index, slice->file)->name),
                   source->tensors[slice->tensor].name, found, slice->crc32);
}

/* A region of the folded tensor into out (rows out_pitch elements apart). */
static int read_folded(fm_source *source, char *out, int64_t out_pitch, int tensor, const region *want)
{
    const fm_index_tensor *const entry = fm_index_get_tensor(&source->index, tensor);
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(source->tensors[tensor].dtype);
    for (int64_t s = entry->first_slice; s < entry->first_slice + entry->n_slices; s++) {
        const fm_index_slice *const slice = fm_index_get_slice(&source->index, s);
        const bool checked = covers_slice(source, slice, want);
        uint32_t crc = 0;
        for (int p = 0; p < slice->n_pieces; p++) {
            const fm_index_piece *const piece = fm_index_get_piece(&source->index, slice->first_piece + p);
            region part;
            if (intersect(&part, want, piece)) {
                const int64_t place = (part.start[0] - want->start[0]) * out_pitch + part.start[1] - want->start[1];
                FM_TRY(read_region(source, out + place * element_bytes, (size_t)(out_pitch * element_bytes), slice->file, piece,
                                   &part, element_bytes, checked ? &crc : NULL));
            }
        }
        FM_TRY(checked ? check_crc(source, slice, crc) : FM_OK);
    }
    return FM_OK;
}

/* The dtypes whose bytes may become numbers of a model. */
static int check_float(const fm_source_tensor *tensor)
{
    if (tensor->dtype == FM_F32 || tensor->dtype == FM_BF16 || tensor->dtype == FM_F16) {
        return FM_OK;
    }
    return fm_fail(FM_ERR_UNSUPPORTED, "tensor %s: its dtype is %s; F32, BF16 or F16 were expected", tensor->name,
                   tensor->dtype_name);
}

int fm_source_read(fm_source *source, void *out, int tensor, const int64_t *start, const int64_t *count)
{
    const fm_source_tensor *const entry = fm_source_get(source, tensor);
    FM_TRY(check_float(entry));
    if (entry->ndim < 1 || entry->ndim > FM_MAX_DIMS) {
        return fm_fail(FM_ERR_UNSUPPORTED, "tensor %s: %d dimensions, 1 or 2 were expected", entry->name, entry->ndim);
    }
    region want = { { 0, 0 }, { 1, 1 } };
    for (int d = 0; d < entry->ndim; d++) {
        FM_ASSERT(start[d] >= 0 && count[d] >= 0 && start[d] + count[d] <= entry->shape[d]);
        want.start[d] = start[d];
        want.count[d] = count[d];
    }
    return read_folded(source, out, want.count[1], tensor, &want);
}

/* The part of a slab that lies in rows [first_row, first_row + n_rows) of the local array. */
static bool slab_rows(region *out, int64_t *local_row, const fm_slab *slab, int ndim, int64_t first_row, int64_t n_rows)
{
    const int64_t from = slab->local_start[0] > first_row ? slab->local_start[0] : first_row;
    const int64_t slab_end = slab->local_start[0] + slab->count[0];
    const int64_t end = slab_end < first_row + n_rows ? slab_end : first_row + n_rows;
    *local_row = from - first_row;
    out->start[0] = slab->start[0] + from - slab->local_start[0];
    out->count[0] = end - from;
    out->start[1] = ndim == 2 ? slab->start[1] : 0;
    out->count[1] = ndim == 2 ? slab->count[1] : 1;
    return out->count[0] > 0 && out->count[1] > 0;
}

/* Whether `next` goes on where `slab` ends, in the tensor and in the local array: then they are one (a fused tensor that tp does
 * not cut), and its rows are read once. */
static bool extend(fm_slab *slab, const fm_slab *next, int ndim)
{
    for (int axis = 0; axis < ndim; axis++) {
        const int other = 1 - axis;
        const bool follows = next->start[axis] == slab->start[axis] + slab->count[axis] &&
                             next->local_start[axis] == slab->local_start[axis] + slab->count[axis];
        const bool beside = ndim == 1 || (next->start[other] == slab->start[other] && next->count[other] == slab->count[other] &&
                                          next->local_start[other] == slab->local_start[other]);
        if (follows && beside) {
            slab->count[axis] += next->count[axis];
            return true;
        }
    }
    return false;
}

static int read_alone(fm_source *source, char *out, int tensor, const fm_slice *slice, int64_t first_row, int64_t n_rows)
{
    const int64_t width = slice->ndim == 2 ? slice->local_shape[1] : 1;
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(source->tensors[tensor].dtype);
    for (int s = 0; s < slice->n_slabs;) {
        region want;
        int64_t row;
        fm_slab slab = slice->slabs[s++];
        while (s < slice->n_slabs && extend(&slab, &slice->slabs[s], slice->ndim)) {
            s++;
        }
        if (slab_rows(&want, &row, &slab, slice->ndim, first_row, n_rows)) {
            const int64_t place = row * width + (slice->ndim == 2 ? slab.local_start[1] : 0);
            FM_TRY(read_folded(source, out + place * element_bytes, width, tensor, &want));
        }
    }
    return FM_OK;
}

/* Whether reading this region alone stays within 1.1 of its bytes. */
static bool cheap_alone(const fm_source *source, int tensor, const region *want)
{
    const fm_index_tensor *const entry = fm_index_get_tensor(&source->index, tensor);
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(source->tensors[tensor].dtype);
    int64_t read_bytes = 0;
    for (int64_t s = entry->first_slice; s < entry->first_slice + entry->n_slices; s++) {
        const fm_index_slice *const slice = fm_index_get_slice(&source->index, s);
        for (int p = 0; p < slice->n_pieces; p++) {
            const fm_index_piece *const piece = fm_index_get_piece(&source->index, slice->first_piece + p);
            region part;
            if (intersect(&part, want, piece)) {
                const int64_t row_bytes = part.count[1] * element_bytes, pitch_bytes = piece->pitch * element_bytes;
                read_bytes += part.count[0] * (reads_whole_rows(row_bytes, pitch_bytes) ? pitch_bytes : row_bytes);
            }
        }
    }
    return read_bytes * 10 <= want->count[0] * want->count[1] * element_bytes * 11;
}

/* Whether the peers must exchange columns. Every peer finds the same answer: it depends on all slices, and not on who asks. */
static bool must_exchange(const fm_source *source, int tensor, const fm_layout *layout, int layout_tensor, const fm_coord *coord,
                          const fm_comm *tp, int64_t first_row, int64_t n_rows)
{
    if (!fm_exchange_applies(layout, layout_tensor, tp)) {
        return false;
    }
    for (int j = 0; j < layout->mesh.size[FM_TP]; j++) {
        fm_coord peer = *coord;
        fm_slice slice;
        peer.at[FM_TP] = j;
        fm_layout_slice(&slice, layout, layout_tensor, &peer);
        for (int s = 0; s < slice.n_slabs; s++) {
            region want;
            int64_t row;
            if (slab_rows(&want, &row, &slice.slabs[s], slice.ndim, first_row, n_rows) && !cheap_alone(source, tensor, &want)) {
                return true;
            }
        }
    }
    return false;
}

/* Bands of rows: each peer reads its part whole, then columns are exchanged. A peer that cannot read still takes part. */
static int read_exchanged(fm_source *source, char *out, int tensor, const fm_layout *layout, int layout_tensor,
                          const fm_slice *slice, const fm_coord *coord, fm_comm *tp, int64_t first_row, int64_t n_rows)
{
    const int64_t columns = layout->tensors[layout_tensor].shape[1];
    const size_t element_bytes = fm_dtype_bytes(source->tensors[tensor].dtype);
    const int n_peers = fm_comm_size(tp);
    const int64_t most = EXCHANGE_BYTES / (columns * (int64_t)element_bytes), rows_a_peer = most < 1 ? 1 : most;
    char *const rows = fm_alloc_array(rows_a_peer < n_rows ? rows_a_peer : n_rows, (size_t)columns * element_bytes,
                                      FM_MEMORY_CHECKPOINT);
    int rc = fm_comm_agree(tp, rows == NULL ? FM_ERR_MEMORY : FM_OK), read_rc = FM_OK;
    FM_ASSERT(slice->n_slabs > 0);
    const int64_t global_row = slice->slabs[0].start[0] + first_row - slice->slabs[0].local_start[0];
    for (int64_t row = 0; rc == FM_OK && row < n_rows;) {
        const int64_t band = n_rows - row < rows_a_peer * n_peers ? n_rows - row : rows_a_peer * n_peers;
        const fm_range part = fm_split_even(band, n_peers, fm_comm_rank(tp));
        if (read_rc == FM_OK) {
            read_rc = read_folded(source, rows, columns, tensor,
                                  &(region){ { global_row + row + part.start, 0 }, { part.count, columns } });
        }
        rc = fm_exchange_to_columns(out + (size_t)(row * slice->local_shape[1]) * element_bytes, rows, layout, layout_tensor,
                                    coord, tp, band, element_bytes);
        row += band;
    }
    fm_free(rows);
    return fm_comm_agree(tp, rc < 0 ? rc : read_rc);
}

int fm_source_read_rows(fm_source *source, void *out, int tensor, const fm_layout *layout, int layout_tensor,
                        const fm_coord *coord, fm_comm *tp, int64_t first_row, int64_t n_rows)
{
    const fm_source_tensor *const entry = fm_source_get(source, tensor);
    const fm_tensor_spec *const spec = &layout->tensors[layout_tensor];
    FM_TRY(check_float(entry));
    bool same = entry->ndim == spec->ndim;
    for (int d = 0; same && d < spec->ndim; d++) {
        same = entry->shape[d] == spec->shape[d];
    }
    if (!same) {
        return fm_fail(FM_ERR_FORMAT, "tensor %s: the source's shape is not the model's", entry->name);
    }
    fm_slice slice;
    fm_layout_slice(&slice, layout, layout_tensor, coord);
    if (!slice.held || n_rows == 0) {
        return FM_OK;
    }
    if (must_exchange(source, tensor, layout, layout_tensor, coord, tp, first_row, n_rows)) {
        return read_exchanged(source, out, tensor, layout, layout_tensor, &slice, coord, tp, first_row, n_rows);
    }
    return read_alone(source, out, tensor, &slice, first_row, n_rows);
}

/* The spans of a region's pieces, as far as is worth asking for at once. */
static void expect_region(fm_source *source, int tensor, const region *want)
{
    const fm_index_tensor *const entry = fm_index_get_tensor(&source->index, tensor);
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(source->tensors[tensor].dtype);
    for (int64_t s = entry->first_slice; s < entry->first_slice + entry->n_slices; s++) {
        const fm_index_slice *const slice = fm_index_get_slice(&source->index, s);
        for (int p = 0; p < slice->n_pieces; p++) {
            const fm_index_piece *const piece = fm_index_get_piece(&source->index, slice->first_piece + p);
            region part;
            int fd;
            if (intersect(&part, want, piece) && descriptor(&fd, source, slice->file) == FM_OK) {
                const int64_t pitch_bytes = piece->pitch * element_bytes, length = part.count[0] * pitch_bytes;
                posix_fadvise(fd, piece->offset_bytes + (part.start[0] - piece->start[0]) * pitch_bytes,
                              length < EXPECTED_BYTES ? length : EXPECTED_BYTES, POSIX_FADV_WILLNEED);
            }
        }
    }
}

void fm_source_expect(fm_source *source, int tensor, const fm_layout *layout, int layout_tensor, const fm_coord *coord)
{
    fm_slice slice;
    fm_layout_slice(&slice, layout, layout_tensor, coord);
    for (int s = 0; slice.held && s < slice.n_slabs; s++) {
        region want;
        int64_t row;
        if (slab_rows(&want, &row, &slice.slabs[s], slice.ndim, 0, slice.local_shape[0])) {
            expect_region(source, tensor, &want);
        }
    }
}

int fm_source_read_slice(fm_source *source, void *out, int tensor, const fm_layout *layout, int layout_tensor,
                         const fm_coord *coord, fm_comm *tp)
{
    fm_slice slice;
    fm_layout_slice(&slice, layout, layout_tensor, coord);
    return fm_source_read_rows(source, out, tensor, layout, layout_tensor, coord, tp, 0, slice.held ? slice.local_shape[0] : 0);
}

static int verify_slice(fm_source *source, char *buffer, const fm_index_slice *slice)
{
    uint32_t crc = 0;
    for (int64_t done = 0; done < slice->size_bytes;) {
        const int64_t part_bytes = slice->size_bytes - done < CHUNK_BYTES ? slice->size_bytes - done : CHUNK_BYTES;
        FM_TRY(read_run(source, buffer, slice->file, slice->offset_bytes + done, (size_t)part_bytes, &crc));
        done += part_bytes;
    }
    return check_crc(source, slice, crc);
}

int fm_source_verify(fm_source *source, fm_comm *world)
{
    char *const buffer = fm_alloc(CHUNK_BYTES, FM_MEMORY_CHECKPOINT);
    int rc = buffer == NULL ? FM_ERR_MEMORY : FM_OK;
    for (int64_t s = fm_comm_rank(world); rc == FM_OK && s < source->index.slices.n; s += fm_comm_size(world)) {
        const fm_index_slice *const slice = fm_index_get_slice(&source->index, s);
        if (slice->has_crc) {
            rc = verify_slice(source, buffer, slice);
        }
    }
    fm_free(buffer);
    return fm_comm_agree(world, rc);
}
