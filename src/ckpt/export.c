#include "ckpt/export.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/task.h"
#include "base/writer.h"
#include "ckpt/exchange.h"
#include "ckpt/hf_files.h"
#include "ckpt/publish.h"
#include "ckpt/safetensors.h"

enum { BAND_BYTES = 8 << 20, STAGES_BYTES = 8 << 20, NAME_BYTES = 64 };
static const int64_t default_max_file_bytes = 5000000000;   /* as save_pretrained cuts */

/* Which file a tensor goes to and where it begins there; the same on every rank. */
typedef struct {
    int n_files;
    int *file_of;                      /* [n_tensors] */
    int64_t *offsets;                  /* [n_tensors] */
    int64_t total_bytes;
} file_plan;

/* One export on one rank. */
struct fm_exporting {
    const fm_layout *layout;
    fm_coord coord;
    const fm_tensor_feed *feed;
    fm_comm *tp;
    bool leads;
    file_plan plan;
    char dir[FM_PATH_BYTES];           /* temporary */
    char out_dir[FM_PATH_BYTES], source_dir[FM_PATH_BYTES];
    int open_file;                     /* the file that is open now; -1: none */
    fm_writer *writer;
    char *band, *rows;                 /* local rows, whole rows */
    fm_task *writing;                  /* NULL: in no thread of its own */
    atomic_bool unwanted;              /* the thread need not go on */
};

static int64_t row_elements(const fm_slice *slice)
{
    return slice->ndim == 2 ? slice->local_shape[1] : 1;
}

static int64_t tensor_bytes(const fm_tensor_spec *tensor)
{
    return fm_tensor_elements(tensor) * (int64_t)fm_dtype_bytes(tensor->dtype);
}

static int read_arrays(void *user, void *out, int tensor, int64_t first_row, int64_t n_rows)
{
    const fm_array_feed *const feed = user;
    fm_slice slice;
    fm_layout_slice(&slice, feed->layout, tensor, &feed->coord);
    const int64_t width = row_elements(&slice);
    const enum fm_dtype dtype = feed->dtypes[tensor];
    const char *const from = (const char *)feed->data[tensor] + (size_t)(first_row * width) * fm_dtype_bytes(dtype);
    const enum fm_dtype wanted = feed->layout->tensors[tensor].dtype;
    if (feed->device == NULL || feed->device->table->is_host) {
        fm_dtype_convert(out, wanted, from, dtype, n_rows * width);
        return FM_OK;
    }
    void *const here = fm_alloc_array(n_rows * width, fm_dtype_bytes(dtype), FM_MEMORY_CHECKPOINT);
    int rc = here == NULL ? FM_ERR_MEMORY : FM_OK;
    if (rc == FM_OK) {
        rc = fm_device_copy_out(feed->device, here, from, (size_t)(n_rows * width) * fm_dtype_bytes(dtype));
    }
    if (rc == FM_OK) {
        fm_dtype_convert(out, wanted, here, dtype, n_rows * width);
    }
    fm_free(here);
    return rc;
}

fm_tensor_feed fm_feed_arrays(fm_array_feed *arrays)
{
    return (fm_tensor_feed){ read_arrays, arrays };
}

static int read_source(void *user, void *out, int tensor, int64_t first_row, int64_t n_rows)
{
    const fm_source_feed *const feed = user;
    const int from = feed->tensor_of[tensor];
    const enum fm_dtype dtype = fm_source_get(feed->source, from)->dtype, wanted = feed->layout->tensors[tensor].dtype;
    if (dtype == wanted) {
        return fm_source_read_rows(feed->source, out, from, feed->layout, tensor, &feed->coord, NULL, first_row, n_rows);
    }
    fm_slice slice;
    fm_layout_slice(&slice, feed->layout, tensor, &feed->coord);
    const int64_t elements = n_rows * row_elements(&slice);
    void *const stored = fm_alloc_array(elements, fm_dtype_bytes(dtype), FM_MEMORY_CHECKPOINT);
    int rc = stored == NULL ? FM_ERR_MEMORY : FM_OK;
    if (rc == FM_OK) {
        rc = fm_source_read_rows(feed->source, stored, from, feed->layout, tensor, &feed->coord, NULL, first_row, n_rows);
    }
    if (rc == FM_OK) {
        fm_dtype_convert(out, wanted, stored, dtype, elements);
    }
    fm_free(stored);
    return rc;
}

fm_tensor_feed fm_feed_source(fm_source_feed *source)
{
    return (fm_tensor_feed){ read_source, source };
}

static void file_name(char out[NAME_BYTES], int file, int n_files)
{
    if (n_files == 1) {
        snprintf(out, NAME_BYTES, "model.safetensors");
    } else {
        snprintf(out, NAME_BYTES, "model-%05d-of-%05d.safetensors", file + 1, n_files);
    }
}

/* Tensors in the layout's order fill one file after another, as huggingface_hub's split_state_dict_into_shards does. */
static int plan_files(file_plan *plan, const fm_layout *layout, int64_t max_file_bytes)
{
    const int n = layout->n_tensors;
    int64_t in_file_bytes = 0;
    plan->file_of = fm_alloc_array(n, sizeof *plan->file_of, FM_MEMORY_HOST);
    plan->offsets = fm_alloc_array(n, sizeof *plan->offsets, FM_MEMORY_HOST);
    if (plan->file_of == NULL || plan->offsets == NULL) {
        return FM_ERR_MEMORY;
    }
    plan->n_files = 1;
    for (int t = 0; t < n; t++) {
        const int64_t bytes = tensor_bytes(&layout->tensors[t]);
        if (in_file_bytes > 0 && in_file_bytes + bytes > max_file_bytes) {
            plan->n_files++;
            in_file_bytes = 0;
        }
        plan->file_of[t] = plan->n_files - 1;
        in_file_bytes += bytes;
        plan->total_bytes += bytes;
    }
    return FM_OK;
}

/* Creates one file: its header, and its full length with holes where data will come. */
static int create_file(const char *dir, const char *name, const char *header, size_t header_bytes, int64_t file_bytes)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, dir, name));
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return fm_fail(FM_ERR_IO, "%s: cannot create it: %s", path, strerror(errno));
    }
    int rc = fm_file_pwrite(fd, header, header_bytes, 0, path);
    if (rc == FM_OK && ftruncate(fd, file_bytes) != 0) {
        rc = fm_fail(FM_ERR_IO, "%s: cannot make it %lld bytes long: %s", path, (long long)file_bytes, strerror(errno));
    }
    close(fd);
    return rc;
}

/* The offsets of one file's tensors; where `creates`, the file too. */
static int plan_file(fm_exporting *run, int file, bool creates)
{
    const fm_layout *const layout = run->layout;
    fm_safetensors_entry *const entries = fm_alloc_array(layout->n_tensors, sizeof *entries, FM_MEMORY_HOST);
    int64_t *const offsets = fm_alloc_array(layout->n_tensors, sizeof *offsets, FM_MEMORY_HOST), file_bytes = 0;
    char *header = NULL, name[NAME_BYTES];
    size_t header_bytes = 0;
    int n = 0, first = -1, rc = entries == NULL || offsets == NULL ? FM_ERR_MEMORY : FM_OK;
    for (int t = 0; rc == FM_OK && t < layout->n_tensors; t++) {
        if (run->plan.file_of[t] == file) {
            const fm_tensor_spec *const spec = &layout->tensors[t];
            first = first < 0 ? t : first;
            entries[n++] = (fm_safetensors_entry){ spec->name, spec->dtype, spec->ndim, spec->shape };
        }
    }
    if (rc == FM_OK) {
        rc = fm_safetensors_header(&header, &header_bytes, offsets, &file_bytes, entries, n);
    }
    if (rc == FM_OK && creates) {
        file_name(name, file, run->plan.n_files);
        rc = create_file(run->dir, name, header, header_bytes, file_bytes);
    }
    if (rc == FM_OK && n > 0) {
        memcpy(run->plan.offsets + first, offsets, (size_t)n * sizeof *offsets);   /* a file's tensors are neighbours */
    }
    fm_free(entries);
    fm_free(offsets);
    fm_free(header);
    return rc;
}

/* model.safetensors.index.json, where there are several files. */
static int write_index(const fm_exporting *run)
{
    if (run->plan.n_files == 1) {
        return FM_OK;
    }
    char path[FM_PATH_BYTES], *text = NULL;
    size_t text_bytes = 0;
    json_t *const map = json_object();
    for (int t = 0; t < run->layout->n_tensors; t++) {
        char name[NAME_BYTES];
        file_name(name, run->plan.file_of[t], run->plan.n_files);
        json_object_set_new(map, run->layout->tensors[t].name, json_string(name));
    }
    json_t *const index = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)run->plan.total_bytes, "weight_map",
                                    map);
    int rc = index == NULL ? fm_fail(FM_ERR_MEMORY, "out of memory: the index of the exported files") :
             fm_json_print(&text, &text_bytes, index, 2);
    if (rc == FM_OK) {
        rc = fm_path_join(path, run->dir, "model.safetensors.index.json");
    }
    if (rc == FM_OK) {
        rc = fm_file_replace(path, text, text_bytes);
    }
    json_decref(index);
    fm_free(text);
    return rc;
}

/* Syncs and closes the file that is open. */
static int close_file(fm_exporting *run)
{
    int rc = FM_OK;
    if (run->open_file >= 0) {
        rc = fm_writer_sync(run->writer);
        fm_writer_close(run->writer);
        run->open_file = -1;
    }
    return rc;
}

static int write_at(fm_exporting *run, int tensor, const void *data, int64_t size_bytes, int64_t element)
{
    char name[NAME_BYTES], path[FM_PATH_BYTES];
    const int file = run->plan.file_of[tensor];
    file_name(name, file, run->plan.n_files);
    FM_TRY(fm_path_join(path, run->dir, name));
    if (run->open_file != file) {
        FM_TRY(close_file(run));
        FM_TRY(fm_writer_open(&run->writer, path, STAGES_BYTES));
        run->open_file = file;
    }
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(run->layout->tensors[tensor].dtype);
    fm_writer_seek(run->writer, run->plan.offsets[tensor] + element * element_bytes);
    return fm_writer_put(run->writer, data, (size_t)size_bytes);
}

/* The owned part of local rows [first_row, first_row + n_rows), which lie in the band. */
static int write_rows(fm_exporting *run, int tensor, const fm_slice *slice, int64_t first_row, int64_t n_rows)
{
    const fm_tensor_spec *const spec = &run->layout->tensors[tensor];
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(spec->dtype);
    const int64_t columns = spec->ndim == 2 ? spec->shape[1] : 1, width = row_elements(slice);
    for (int s = 0; s < slice->n_slabs; s++) {
        const fm_slab *const slab = &slice->slabs[s];
        const int64_t slab_end = slab->local_start[0] + slab->count[0];
        const int64_t from = slab->local_start[0] > first_row ? slab->local_start[0] : first_row;
        const int64_t end = slab_end < first_row + n_rows ? slab_end : first_row + n_rows;
        const int64_t global_row = slab->start[0] + from - slab->local_start[0];
        if (!slab->owned || from >= end) {
            continue;
        }
        if (width == columns) {
            FM_TRY(write_at(run, tensor, run->band + (from - first_row) * width * element_bytes,
                            (end - from) * width * element_bytes,
                            global_row * columns));
            continue;
        }
        for (int64_t r = 0; r < end - from; r++) {
            FM_TRY(write_at(run, tensor, run->band + ((from - first_row + r) * width + slab->local_start[1]) * element_bytes,
                            slab->count[1] * element_bytes, (global_row + r) * columns + slab->start[1]));
        }
    }
    return FM_OK;
}

/* Columns: tp peers make whole rows of them, and each writes its part. A peer that failed still takes part. */
static int write_exchanged(fm_exporting *run, int tensor, const fm_slice *slice, int64_t first_row, int64_t n_rows, int rc)
{
    const fm_tensor_spec *const spec = &run->layout->tensors[tensor];
    const size_t element_bytes = fm_dtype_bytes(spec->dtype);
    const fm_range part = fm_split_even(n_rows, fm_comm_size(run->tp), fm_comm_rank(run->tp));
    const int exchanged = fm_exchange_to_rows(run->rows, run->band, run->layout, tensor, &run->coord, run->tp, n_rows,
                                              element_bytes);
    if (rc < 0 || exchanged < 0) {
        return rc < 0 ? rc : exchanged;
    }
    return write_at(run, tensor, run->rows, part.count * spec->shape[1] * (int64_t)element_bytes,
                    (slice->slabs[0].start[0] + first_row + part.start) * spec->shape[1]);
}

/* One tensor, band by band. Bands are as long on all peers of an exchange. */
static int write_tensor(fm_exporting *run, int tensor, int rc)
{
    const fm_tensor_spec *const spec = &run->layout->tensors[tensor];
    const bool exchanges = fm_exchange_applies(run->layout, tensor, run->tp);
    const int64_t element_bytes = (int64_t)fm_dtype_bytes(spec->dtype), columns = spec->ndim == 2 ? spec->shape[1] : 1;
    const int64_t rows_a_band = columns * element_bytes >= BAND_BYTES ? 1 : BAND_BYTES / (columns * element_bytes);
    fm_slice slice;
    fm_layout_slice(&slice, run->layout, tensor, &run->coord);
    if (!slice.held || run->coord.at[FM_DP_REPLICATE] > 0 || (!exchanges && (!slice.owner || slice.n_slabs == 0))) {
        return rc;
    }
    for (int64_t row = 0; row < slice.local_shape[0] && !atomic_load(&run->unwanted); row += rows_a_band) {
        const int64_t rows = slice.local_shape[0] - row < rows_a_band ? slice.local_shape[0] - row : rows_a_band;
        if (rc == FM_OK && row_elements(&slice) > 0) {
            rc = run->feed->read(run->feed->user, run->band, tensor, row, rows);
        }
        if (exchanges) {
            rc = write_exchanged(run, tensor, &slice, row, rows, rc);
        } else if (rc == FM_OK) {
            rc = write_rows(run, tensor, &slice, row, rows);
        }
    }
    return rc;
}

static int allocate(fm_exporting *run)
{
    int64_t most_bytes = BAND_BYTES;
    for (int t = 0; t < run->layout->n_tensors; t++) {
        const fm_tensor_spec *const spec = &run->layout->tensors[t];
        const int64_t row_bytes = (spec->ndim == 2 ? spec->shape[1] : 1) * (int64_t)fm_dtype_bytes(spec->dtype);
        most_bytes = row_bytes > most_bytes ? row_bytes : most_bytes;
    }
    run->band = fm_alloc((size_t)most_bytes, FM_MEMORY_CHECKPOINT);
    run->rows = run->tp == NULL ? NULL : fm_alloc((size_t)most_bytes, FM_MEMORY_CHECKPOINT);
    return run->band == NULL || (run->tp != NULL && run->rows == NULL) ? FM_ERR_MEMORY : FM_OK;
}

/* Rank 0's checks and the empty files; every rank's plan. Collective. */
static int begin(fm_exporting *run, const fm_export_options *options, fm_comm *world)
{
    struct stat from, to;
    int rc = fm_publish_name(run->dir, run->out_dir);
    if (rc == FM_OK) {
        rc = plan_files(&run->plan, run->layout, options->max_file_bytes > 0 ? options->max_file_bytes : default_max_file_bytes);
    }
    if (rc == FM_OK) {
        rc = allocate(run);
    }
    if (rc == FM_OK && run->leads && stat(run->source_dir, &from) == 0 && stat(run->out_dir, &to) == 0 &&
        from.st_dev == to.st_dev && from.st_ino == to.st_ino) {
        rc = fm_fail(FM_ERR_JOB, "%s: the export would replace the model that it came from: choose another directory",
                     run->out_dir);
    }
    if (rc == FM_OK && run->leads) {
        rc = fm_publish_begin(run->dir, run->out_dir, fm_hf_files_is_model);
    }
    for (int file = 0; rc == FM_OK && file < run->plan.n_files; file++) {
        rc = plan_file(run, file, run->leads);
    }
    return fm_comm_agree(world, rc);
}

static void release(fm_exporting *run)
{
    fm_free(run->plan.file_of);
    fm_free(run->plan.offsets);
    fm_free(run->band);
    fm_free(run->rows);
    fm_free(run);
}

/* The files made and nothing in them yet; with an error *out is NULL. Collective. */
static int open_run(fm_exporting **out, const char *out_dir, const fm_layout *layout, const fm_tensor_feed *feed,
                    const fm_export_options *options, fm_comm *world, fm_comm *tp)
{
    fm_exporting *const run = fm_alloc(sizeof *run, FM_MEMORY_HOST);
    *out = NULL;
    int rc = run == NULL ? FM_ERR_MEMORY : FM_OK;
    if (rc == FM_OK) {
        run->layout = layout;
        run->coord = fm_mesh_coord(&layout->mesh, fm_comm_rank(world));
        run->feed = feed;
        run->tp = tp;
        run->leads = fm_comm_rank(world) == 0;
        run->open_file = -1;
        rc = fm_path_join(run->out_dir, "", out_dir);
        rc = rc < 0 ? rc : fm_path_join(run->source_dir, "", options->source_dir);
    }
    rc = fm_comm_agree(world, rc);
    if (rc == FM_OK) {
        rc = begin(run, options, world);
    }
    if (rc < 0 && run != NULL) {
        release(run);
        return rc;
    }
    *out = rc < 0 ? NULL : run;
    return rc;
}

/* This rank's part of the tensors; rank 0's other files too. */
static int write_part(void *user)
{
    fm_exporting *const run = user;
    int rc = FM_OK;
    for (int t = 0; t < run->layout->n_tensors; t++) {
        rc = write_tensor(run, t, rc);
    }
    const int closed = close_file(run);
    rc = rc < 0 ? rc : closed;
    if (rc == FM_OK && run->leads && !atomic_load(&run->unwanted)) {
        rc = write_index(run);
        rc = rc < 0 ? rc : fm_hf_files_copy(run->dir, run->source_dir);
    }
    return rc;
}

/* `rc`: how this rank's part went. Collective. */
static int close_run(fm_exporting *run, int rc, fm_comm *world)
{
    rc = fm_comm_agree(world, rc);
    if (run->leads) {
        rc = rc < 0 ? rc : fm_publish_end(run->dir, run->out_dir);
        if (rc < 0) {
            fm_publish_abandon(run->dir);
        }
    }
    release(run);
    return fm_comm_agree(world, rc);
}

int fm_export(const char *out_dir, const fm_layout *layout, const fm_tensor_feed *feed, const fm_export_options *options,
              fm_comm *world, fm_comm *tp)
{
    fm_exporting *run;
    FM_ASSERT(fm_comm_size(world) == fm_mesh_ranks(&layout->mesh));
    FM_TRY(open_run(&run, out_dir, layout, feed, options, world, tp));
    return close_run(run, write_part(run), world);
}

int fm_exporting_begin(fm_exporting **out, const char *out_dir, const fm_layout *layout, const fm_tensor_feed *feed,
                       const fm_export_options *options, fm_comm *world)
{
    FM_ASSERT(fm_comm_size(world) == fm_mesh_ranks(&layout->mesh));
    FM_TRY(open_run(out, out_dir, layout, feed, options, world, NULL));
    const int rc = fm_comm_agree(world, fm_task_begin(&(*out)->writing, write_part, *out));
    if (rc < 0) {
        fm_exporting_abandon(*out);
        *out = NULL;
    }
    return rc;
}

bool fm_exporting_is_written(const fm_exporting *exporting)
{
    return fm_task_is_done(exporting->writing);
}

int fm_exporting_end(fm_exporting *exporting, fm_comm *world)
{
    const int rc = fm_task_end(exporting->writing);
    return close_run(exporting, rc, world);
}

void fm_exporting_abandon(fm_exporting *exporting)
{
    if (exporting == NULL) {
        return;
    }
    atomic_store(&exporting->unwanted, true);
    fm_task_abandon(exporting->writing);
    if (exporting->leads) {
        fm_publish_abandon(exporting->dir);
    }
    release(exporting);
}
