#include "ckpt/h5.h"

#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "ckpt/h5_driver.h"

/* Data is aligned to pages where it has one; the small objects lie together. */
enum { ALIGN_FROM_BYTES = 65536, ALIGN_BYTES = 4096, METADATA_BLOCK_BYTES = 65536, MOST_DEPTH = 4, MOST_DATASETS = 1 << 20 };

struct fm_h5_virtual {
    hid_t file;
    hid_t space, plist;                /* of the dataset that is being made; negative: none */
    int ndim;
    fm_h5_outcome outcome;
    char path[FM_PATH_BYTES];
};

static herr_t innermost(unsigned n, const H5E_error2_t *error, void *user)
{
    char *const text = user;
    if (text[0] == '\0' && error->desc != NULL) {
        snprintf(text, 512, "%s", error->desc);
    }
    return 0;
}

/* The sentence for a failed HDF5 call, with the library's own reason; of a failed system call only what the system said: HDF5 adds
 * the time, addresses and line ends. */
static int h5_error(const char *path, const char *what)
{
    static const char system_says[] = "error message = '";
    char reason[512] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, reason);
    H5Eclear2(H5E_DEFAULT);
    char *const quoted = strstr(reason, system_says);
    char *const text = quoted != NULL ? quoted + sizeof system_says - 1 : reason;
    text[strcspn(text, quoted != NULL ? "'\n" : "\n")] = '\0';
    return fm_fail(FM_ERR_IO, "%s: cannot %s: HDF5: %s", path, what, text[0] != '\0' ? text : "no reason given");
}

/* The end of a file that was written: the disk's reason before HDF5's. */
static int close_written(hid_t file, fm_h5_outcome *outcome, int rc, const char *path)
{
    if (file >= 0 && H5Fclose(file) < 0 && rc == FM_OK) {
        rc = h5_error(path, "close the file");
    }
    fm_h5_end_driver(outcome);
    return outcome->rc < 0 ? fm_fail_with(outcome->rc, outcome->why) : rc;
}

static void be_silent(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* A narrow float as an HDF5 type that other tools convert: sign, exponent and mantissa from the top. */
static hid_t narrow_float(size_t exponent_bits, size_t bias)
{
    const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    const size_t mantissa_bits = 15 - exponent_bits;
    if (H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits) < 0 || H5Tset_size(type, 2) < 0 ||
        H5Tset_ebias(type, bias) < 0) {
        H5Tclose(type);
        return -1;
    }
    return type;
}

/* The HDF5 type of a dtype, to be closed. */
static hid_t h5_type(enum fm_dtype dtype)
{
    switch (dtype) {
    case FM_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case FM_BF16: return narrow_float(8, 127);
    case FM_F16: return narrow_float(5, 15);
    case FM_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case FM_I32: return H5Tcopy(H5T_STD_I32LE);
    case FM_I64: return H5Tcopy(H5T_STD_I64LE);
    case FM_U8: return H5Tcopy(H5T_STD_U8LE);
    case FM_DTYPES: break;
    }
    return -1;
}

static int dtype_of(hid_t type)
{
    int found = FM_DTYPES;
    for (int d = 0; found == FM_DTYPES && d < FM_DTYPES; d++) {
        const hid_t candidate = h5_type((enum fm_dtype)d);
        if (H5Tequal(candidate, type) > 0) {
            found = d;
        }
        H5Tclose(candidate);
    }
    return found;
}

/* Access properties: the newest formats of 1.10, no locks (several file systems of clusters have none). */
static hid_t access_list(void)
{
    const hid_t plist = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(plist, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
    H5Pset_fclose_degree(plist, H5F_CLOSE_STRONG);
    H5Pset_alignment(plist, ALIGN_FROM_BYTES, ALIGN_BYTES);
    H5Pset_meta_block_size(plist, METADATA_BLOCK_BYTES);
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(plist, 0, 1);
#endif
    return plist;
}

/* A file to be written, new or there already; its end is close_written. */
static hid_t open_to_write(const char *path, bool is_new, fm_h5_outcome *outcome)
{
    const hid_t access = access_list();
    hid_t file = -1;
    if (fm_h5_use_driver(access, outcome) == FM_OK) {
        file = is_new ? H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, access) : H5Fopen(path, H5F_ACC_RDWR, access);
    }
    H5Pclose(access);
    return file;
}

static hid_t open_to_read(const char *path)
{
    const hid_t access = access_list();
    const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return file;
}

/* An attribute of ndim (0: a scalar) dimensions. */
static int write_attribute(hid_t object, const char *name, hid_t file_type, hid_t memory_type, int ndim, const hsize_t *dims,
                           const void *data)
{
    const hid_t space = ndim == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(ndim, dims, NULL);
    const hid_t attribute = H5Acreate2(object, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    const bool good = attribute >= 0 && H5Awrite(attribute, memory_type, data) >= 0;
    if (attribute >= 0) {
        H5Aclose(attribute);
    }
    H5Sclose(space);
    return good ? FM_OK : FM_ERR_IO;
}

static int write_header(hid_t file, const fm_h5_header *header)
{
    const hsize_t dims = FM_DIMS;
    FM_TRY(write_attribute(file, "format_version", H5T_STD_I64LE, H5T_NATIVE_INT64, 0, NULL, &header->format_version));
    FM_TRY(write_attribute(file, "mesh_shape", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &dims, header->mesh_shape));
    return write_attribute(file, "coordinate", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &dims, header->coordinate);
}

/* [pieces][FM_MAX_DIMS] -> an attribute [pieces][ndim]. */
static int write_pieces(hid_t object, const char *name, const int64_t (*values)[FM_MAX_DIMS], int n_pieces, int ndim)
{
    int64_t dense[FM_MAX_PIECES * FM_MAX_DIMS];
    for (int p = 0; p < n_pieces; p++) {
        for (int d = 0; d < ndim; d++) {
            dense[p * ndim + d] = values[p][d];
        }
    }
    return write_attribute(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, 2, (hsize_t[2]){ (hsize_t)n_pieces, (hsize_t)ndim },
                           dense);
}

static int write_slice_attributes(hid_t object, const fm_h5_dataset *dataset)
{
    const uint32_t none = 0;
    const hsize_t ndim = (hsize_t)dataset->ndim;
    FM_TRY(write_pieces(object, "slice_start", dataset->start, dataset->n_pieces, dataset->ndim));
    FM_TRY(write_pieces(object, "slice_count", dataset->count, dataset->n_pieces, dataset->ndim));
    FM_TRY(write_attribute(object, "global_shape", H5T_STD_I64LE, H5T_NATIVE_INT64, 1, &ndim, dataset->global_shape));
    return write_attribute(object, "crc32", H5T_STD_U32LE, H5T_NATIVE_UINT32, 0, NULL, &none);
}

/* Properties of a dataset whose bytes are written by others. */
static hid_t raw_list(void)
{
    const hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(plist, H5D_CONTIGUOUS);
    H5Pset_alloc_time(plist, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
    H5Pset_attr_phase_change(plist, 8, 6);
    return plist;
}

static hid_t link_list(void)
{
    const hid_t plist = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(plist, 1);
    return plist;
}

static int create_dataset(hid_t file, fm_h5_dataset *dataset, const char *path)
{
    hsize_t dims[FM_H5_DIMS];
    dataset->size_bytes = (int64_t)fm_dtype_bytes((enum fm_dtype)dataset->dtype);
    for (int d = 0; d < dataset->ndim; d++) {
        dims[d] = (hsize_t)dataset->shape[d];
        dataset->size_bytes *= dataset->shape[d];
    }
    const hid_t type = h5_type((enum fm_dtype)dataset->dtype), space = H5Screate_simple(dataset->ndim, dims, NULL);
    const hid_t raw = raw_list(), links = link_list();
    const hid_t made = H5Dcreate2(file, dataset->path, type, space, links, raw, H5P_DEFAULT);
    int rc = made < 0 ? FM_ERR_IO : write_slice_attributes(made, dataset);
    if (rc == FM_OK) {
        const haddr_t offset = H5Dget_offset(made);
        rc = offset == HADDR_UNDEF ? FM_ERR_IO : FM_OK;
        dataset->offset_bytes = (int64_t)offset;
    }
    if (rc < 0) {
        char what[FM_H5_PATH_BYTES + 32];
        snprintf(what, sizeof what, "make dataset %s", dataset->path);
        rc = h5_error(path, what);
    }
    if (made >= 0) {
        H5Dclose(made);
    }
    H5Pclose(links);
    H5Pclose(raw);
    H5Sclose(space);
    H5Tclose(type);
    return rc;
}

int fm_h5_create(const char *path, const fm_h5_header *header, fm_h5_dataset *datasets, int n)
{
    fm_h5_outcome outcome = { .rc = FM_OK };
    be_silent();
    const hid_t file = open_to_write(path, true, &outcome);
    if (file < 0) {
        return close_written(file, &outcome, h5_error(path, "create the file"), path);
    }
    int rc = write_header(file, header) < 0 ? h5_error(path, "write the attributes of the file") : FM_OK;
    for (int i = 0; rc == FM_OK && i < n; i++) {
        rc = create_dataset(file, &datasets[i], path);
    }
    return close_written(file, &outcome, rc, path);
}

int fm_h5_set_crcs(const char *path, const fm_h5_dataset *datasets, int n)
{
    fm_h5_outcome outcome = { .rc = FM_OK };
    be_silent();
    const hid_t file = open_to_write(path, false, &outcome);
    if (file < 0) {
        return close_written(file, &outcome, h5_error(path, "open the file again"), path);
    }
    int rc = FM_OK;
    for (int i = 0; rc == FM_OK && i < n; i++) {
        const hid_t dataset = H5Dopen2(file, datasets[i].path, H5P_DEFAULT);
        const hid_t attribute = dataset < 0 ? -1 : H5Aopen(dataset, "crc32", H5P_DEFAULT);
        if (attribute < 0 || H5Awrite(attribute, H5T_NATIVE_UINT32, &datasets[i].crc32) < 0) {
            rc = h5_error(path, "write a checksum");
        }
        if (attribute >= 0) {
            H5Aclose(attribute);
        }
        if (dataset >= 0) {
            H5Dclose(dataset);
        }
    }
    return close_written(file, &outcome, rc, path);
}

/* Reads an integer attribute of exactly the given dimensions (ndim 0: a scalar). *there: false where it has no such attribute.
 * n_rows (NULL: none) is the first of two dimensions, at most FM_MAX_PIECES. */
static int read_attribute(void *out, bool *there, hid_t object, const char *name, hid_t memory_type, int ndim, hsize_t last_dim,
                          int *n_rows, const char *where)
{
    *there = H5Aexists(object, name) > 0;
    if (!*there) {
        return FM_OK;
    }
    const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    const hid_t space = attribute < 0 ? -1 : H5Aget_space(attribute), type = attribute < 0 ? -1 : H5Aget_type(attribute);
    hsize_t dims[2] = { 0, 0 };
    const bool fits = space >= 0 && type >= 0 && H5Sget_simple_extent_type(space) != H5S_NULL &&
                      H5Sget_simple_extent_ndims(space) == ndim &&
                      H5Sget_simple_extent_dims(space, dims, NULL) == ndim && (ndim == 0 || dims[ndim - 1] == last_dim) &&
                      (ndim < 2 || (dims[0] >= 1 && dims[0] <= FM_MAX_PIECES)) && H5Tget_class(type) == H5T_INTEGER;
    int rc = FM_OK;
    if (!fits || H5Aread(attribute, memory_type, out) < 0) {
        H5Eclear2(H5E_DEFAULT);
        rc = fm_fail(FM_ERR_FORMAT, "%s: the attribute %s has another type or shape than a shard file's", where, name);
    }
    if (n_rows != NULL) {
        *n_rows = (int)dims[0];
    }
    if (type >= 0) {
        H5Tclose(type);
    }
    if (space >= 0) {
        H5Sclose(space);
    }
    if (attribute >= 0) {
        H5Aclose(attribute);
    }
    return rc;
}

/* An attribute [pieces][ndim] -> [pieces][FM_MAX_DIMS]. */
static int read_pieces(int64_t (*values)[FM_MAX_DIMS], bool *there, int *n_pieces, hid_t object, const char *name, int ndim,
                       const char *where)
{
    int64_t dense[FM_MAX_PIECES * FM_MAX_DIMS];
    FM_TRY(read_attribute(dense, there, object, name, H5T_NATIVE_INT64, 2, (hsize_t)ndim, n_pieces, where));
    for (int p = 0; *there && p < *n_pieces; p++) {
        for (int d = 0; d < ndim; d++) {
            values[p][d] = dense[p * ndim + d];
        }
    }
    return FM_OK;
}

/* All four attributes of a slice, or none. */
static int read_slice_attributes(fm_h5_dataset *out, hid_t object, const char *where)
{
    bool there[4] = { false };
    int n_counts = 0;
    if (out->ndim < 1 || out->ndim > FM_MAX_DIMS) {
        return FM_OK;
    }
    FM_TRY(read_pieces(out->start, &there[0], &out->n_pieces, object, "slice_start", out->ndim, where));
    FM_TRY(read_pieces(out->count, &there[1], &n_counts, object, "slice_count", out->ndim, where));
    FM_TRY(read_attribute(out->global_shape, &there[2], object, "global_shape", H5T_NATIVE_INT64, 1, (hsize_t)out->ndim, NULL,
                          where));
    FM_TRY(read_attribute(&out->crc32, &there[3], object, "crc32", H5T_NATIVE_UINT32, 0, 0, NULL, where));
    if (there[0] != there[1] || there[1] != there[2] || there[2] != there[3] || n_counts != out->n_pieces) {
        return fm_fail(FM_ERR_FORMAT, "%s: some of the attributes slice_start, slice_count, global_shape and crc32 are missing",
                       where);
    }
    return FM_OK;
}

/* Extents, and where contiguous data lies inside a file of file_bytes. */
static int read_placement(fm_h5_dataset *out, hid_t object, int64_t file_bytes, const char *where)
{
    hsize_t dims[H5S_MAX_RANK];
    const hid_t space = H5Dget_space(object), plist = H5Dget_create_plist(object);
    const int ndim = H5Sget_simple_extent_dims(space, dims, NULL);
    const H5D_layout_t layout = H5Pget_layout(plist);
    const int n_filters = H5Pget_nfilters(plist), n_external = H5Pget_external_count(plist);
    H5Sclose(space);
    H5Pclose(plist);
    if (ndim < 0 || ndim > FM_H5_DIMS) {
        return fm_fail(FM_ERR_FORMAT, "%s: %d dimensions, at most %d were expected", where, ndim, FM_H5_DIMS);
    }
    out->ndim = ndim;
    out->size_bytes = out->dtype == FM_DTYPES ? 1 : (int64_t)fm_dtype_bytes((enum fm_dtype)out->dtype);
    for (int d = 0; d < ndim; d++) {
        out->shape[d] = (int64_t)dims[d];
        if (out->shape[d] < 0 || __builtin_mul_overflow(out->size_bytes, out->shape[d], &out->size_bytes)) {
            return fm_fail(FM_ERR_FORMAT, "%s: its shape overflows", where);
        }
    }
    out->storage = layout == H5D_VIRTUAL ? FM_H5_VIRTUAL : FM_H5_OTHER;
    if (layout == H5D_CONTIGUOUS && n_filters == 0 && n_external == 0 && out->dtype != FM_DTYPES) {
        const haddr_t offset = H5Dget_offset(object);
        out->storage = FM_H5_CONTIGUOUS;
        out->offset_bytes = offset == HADDR_UNDEF ? 0 : (int64_t)offset;
        if (out->size_bytes > 0 && (offset == HADDR_UNDEF || out->offset_bytes < 0 || out->offset_bytes > file_bytes ||
                                    out->size_bytes > file_bytes - out->offset_bytes)) {
            return fm_fail(FM_ERR_FORMAT, "%s: its %lld bytes of data leave the file's %lld: the file is truncated", where,
                           (long long)out->size_bytes, (long long)file_bytes);
        }
    }
    return FM_OK;
}

/* What one walk over a file gathers. */
typedef struct {
    fm_h5_dataset *datasets;
    int n, capacity, depth;
    int64_t file_bytes;
    const char *path;
    char group[FM_H5_PATH_BYTES];      /* "" or "master/" */
    int rc;
} walk;

static int read_dataset(walk *w, hid_t object, const char *name)
{
    if (w->n == w->capacity) {
        if (w->n >= MOST_DATASETS) {
            return fm_fail(FM_ERR_FORMAT, "%s: more than %d datasets", w->path, MOST_DATASETS);
        }
        const int capacity = w->capacity == 0 ? 64 : 2 * w->capacity;
        fm_h5_dataset *const grown = fm_grow(w->datasets, (size_t)capacity * sizeof *grown, FM_MEMORY_HOST);
        if (grown == NULL) {
            return FM_ERR_MEMORY;
        }
        w->datasets = grown;
        w->capacity = capacity;
    }
    fm_h5_dataset *const out = &w->datasets[w->n];
    *out = (fm_h5_dataset){ .n_pieces = 0 };
    char where[FM_PATH_BYTES + FM_H5_PATH_BYTES + 16];
    snprintf(where, sizeof where, "%s: tensor %s%s", w->path, w->group, name);
    if ((size_t)snprintf(out->path, sizeof out->path, "%s%s", w->group, name) >= sizeof out->path) {
        return fm_fail(FM_ERR_FORMAT, "%s: the name is longer than %d bytes", where, FM_H5_PATH_BYTES - 1);
    }
    const hid_t type = H5Dget_type(object);
    out->dtype = dtype_of(type);
    H5Tclose(type);
    FM_TRY(read_placement(out, object, w->file_bytes, where));
    FM_TRY(read_slice_attributes(out, object, where));
    w->n++;
    return FM_OK;
}

static herr_t visit(hid_t parent, const char *name, const H5L_info_t *info, void *user);

static int compare_paths(const void *left, const void *right)
{
    return strcmp(((const fm_h5_dataset *)left)->path, ((const fm_h5_dataset *)right)->path);
}

/* In the order of the file, and sorted afterwards: for any other order HDF5 1.10 makes a table of as many links as the group says
 * that it has, and frees what it has not filled in where the group is damaged. */
static int read_group(walk *w, hid_t group, const char *name)
{
    const size_t length = strlen(w->group);
    if (w->depth >= MOST_DEPTH || length + strlen(name) + 2 > sizeof w->group) {
        return fm_fail(FM_ERR_FORMAT, "%s: its groups nest deeper than %d levels", w->path, MOST_DEPTH);
    }
    snprintf(w->group + length, sizeof w->group - length, "%s/", name);
    w->depth++;
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit, w) < 0 && w->rc == FM_OK) {
        w->rc = h5_error(w->path, "list a group");
    }
    w->depth--;
    w->group[length] = '\0';
    return w->rc;
}

/* One link of a group: soft and external ones are left alone. */
static herr_t visit(hid_t parent, const char *name, const H5L_info_t *info, void *user)
{
    walk *const w = user;
    if (info->type != H5L_TYPE_HARD) {
        return 0;
    }
    const hid_t object = H5Oopen(parent, name, H5P_DEFAULT);
    if (object < 0) {
        w->rc = h5_error(w->path, "open an object");
        return -1;
    }
    const H5I_type_t type = H5Iget_type(object);
    if (type == H5I_DATASET) {
        w->rc = read_dataset(w, object, name);
    } else if (type == H5I_GROUP) {
        w->rc = read_group(w, object, name);
    }
    H5Oclose(object);
    return w->rc < 0 ? -1 : 0;
}

static int read_header(fm_h5_header *header, bool *has_header, hid_t file, const char *path)
{
    bool there[3];
    FM_TRY(read_attribute(&header->format_version, &there[0], file, "format_version", H5T_NATIVE_INT64, 0, 0, NULL, path));
    FM_TRY(read_attribute(header->mesh_shape, &there[1], file, "mesh_shape", H5T_NATIVE_INT64, 1, FM_DIMS, NULL, path));
    FM_TRY(read_attribute(header->coordinate, &there[2], file, "coordinate", H5T_NATIVE_INT64, 1, FM_DIMS, NULL, path));
    *has_header = there[0] && there[1] && there[2];
    return FM_OK;
}

/* Files whose metadata carry checksums (superblock 2, HDF5 1.8 and newer). The library believes what older ones say, and crashes
 * where they lie or are damaged. */
static int check_signature(const char *path)
{
    enum { VERSION_AT = 8, LEAST_VERSION = 2, BYTES = 9 };
    static const unsigned char signature[] = { 0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n' };
    unsigned char found[BYTES];
    int fd;
    int64_t size_bytes;
    FM_TRY(fm_file_open(&fd, &size_bytes, path));
    const int rc = size_bytes < BYTES ? FM_ERR_FORMAT : fm_file_pread(fd, found, sizeof found, 0, path);
    close(fd);
    if (rc == FM_ERR_FORMAT || (rc == FM_OK && memcmp(found, signature, sizeof signature) != 0)) {
        return fm_fail(FM_ERR_FORMAT, "%s: it does not begin as an HDF5 file does: damaged, or no HDF5 file", path);
    }
    if (rc == FM_OK && found[VERSION_AT] < LEAST_VERSION) {
        return fm_fail(FM_ERR_FORMAT, "%s: an HDF5 file of the format before 1.8 (superblock %d), which has no checksums, "
                       "so finemesh did not write it; h5repack --low=1 makes a new one of it", path, found[VERSION_AT]);
    }
    return rc;
}

int fm_h5_read(fm_h5_header *header, bool *has_header, fm_h5_dataset **datasets, int *n, const char *path)
{
    be_silent();
    fm_file_identity identity;
    FM_TRY(fm_file_stat(&identity, path));
    FM_TRY(check_signature(path));
    const hid_t file = open_to_read(path);
    if (file < 0) {
        return h5_error(path, "open the file (truncated, damaged, or no HDF5 file)");
    }
    walk w = { .file_bytes = identity.size_bytes, .path = path };
    int rc = read_header(header, has_header, file, path);
    if (rc == FM_OK && H5Literate(file, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit, &w) < 0) {
        rc = w.rc < 0 ? w.rc : h5_error(path, "list the file");
    }
    H5Fclose(file);
    if (w.n > 1) {
        qsort(w.datasets, (size_t)w.n, sizeof *w.datasets, compare_paths);
    }
    if (rc < 0) {
        fm_free(w.datasets);
        w.datasets = NULL;
        w.n = 0;
    }
    *datasets = w.datasets;
    *n = w.n;
    return rc;
}

int fm_h5_virtual_open(fm_h5_virtual **out, const char *path, int64_t format_version)
{
    be_silent();
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    snprintf((*out)->path, sizeof (*out)->path, "%s", path);
    (*out)->space = (*out)->plist = -1;
    (*out)->file = open_to_write(path, true, &(*out)->outcome);
    if ((*out)->file < 0 ||
        write_attribute((*out)->file, "format_version", H5T_STD_I64LE, H5T_NATIVE_INT64, 0, NULL, &format_version) < 0) {
        const int rc = h5_error(path, "create the file"), closed = fm_h5_virtual_close(*out);
        *out = NULL;
        return closed < 0 ? closed : rc;
    }
    return FM_OK;
}

int fm_h5_virtual_begin(fm_h5_virtual *file, int ndim, const int64_t *shape)
{
    hsize_t dims[FM_MAX_DIMS];
    for (int d = 0; d < ndim; d++) {
        dims[d] = (hsize_t)shape[d];
    }
    file->ndim = ndim;
    file->space = H5Screate_simple(ndim, dims, NULL);
    file->plist = H5Pcreate(H5P_DATASET_CREATE);
    return file->space < 0 || file->plist < 0 ? h5_error(file->path, "describe a tensor") : FM_OK;
}

int fm_h5_virtual_map(fm_h5_virtual *file, const fm_slab *slab, const int64_t *local_shape, const char *source_file,
                      const char *dataset)
{
    hsize_t start[FM_MAX_DIMS], local_start[FM_MAX_DIMS], count[FM_MAX_DIMS], dims[FM_MAX_DIMS];
    for (int d = 0; d < file->ndim; d++) {
        start[d] = (hsize_t)slab->start[d];
        local_start[d] = (hsize_t)slab->local_start[d];
        count[d] = (hsize_t)slab->count[d];
        dims[d] = (hsize_t)local_shape[d];
    }
    char name[FM_H5_PATH_BYTES + 1];
    snprintf(name, sizeof name, "/%s", dataset);
    const hid_t local = H5Screate_simple(file->ndim, dims, NULL);
    const bool good = local >= 0 && H5Sselect_hyperslab(local, H5S_SELECT_SET, local_start, NULL, count, NULL) >= 0 &&
                      H5Sselect_hyperslab(file->space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
                      H5Pset_virtual(file->plist, file->space, source_file, name, local) >= 0;
    if (local >= 0) {
        H5Sclose(local);
    }
    return good ? FM_OK : h5_error(file->path, "map a slice");
}

int fm_h5_virtual_end(fm_h5_virtual *file, const char *dataset, enum fm_dtype dtype)
{
    H5Sselect_all(file->space);
    const hid_t type = h5_type(dtype), links = link_list();
    const hid_t made = H5Dcreate2(file->file, dataset, type, file->space, links, file->plist, H5P_DEFAULT);
    const int rc = made < 0 ? h5_error(file->path, "make a virtual dataset") : FM_OK;
    if (made >= 0) {
        H5Dclose(made);
    }
    H5Pclose(links);
    H5Tclose(type);
    H5Pclose(file->plist);
    H5Sclose(file->space);
    file->plist = file->space = -1;
    return rc;
}

int fm_h5_virtual_close(fm_h5_virtual *file)
{
    if (file == NULL) {
        return FM_OK;
    }
    if (file->plist >= 0) {
        H5Pclose(file->plist);
    }
    if (file->space >= 0) {
        H5Sclose(file->space);
    }
    const int rc = close_written(file->file, &file->outcome, FM_OK, file->path);
    fm_free(file);
    return rc;
}
