/* HDF5, all of it from the main thread (its calls stand in h5.c and, for the files that it writes, h5_driver.c): making shard files and the
 * virtual file over them, and reading what such files say of themselves. Data never goes through here: it is written and read at the
 * offsets that these functions give. All functions are local; the library's own error printing is off, its reason stands in the
 * message. */
#ifndef FM_CKPT_H5_H
#define FM_CKPT_H5_H

#include <stdint.h>

#include "parallel/layout.h"

enum { FM_H5_PATH_BYTES = FM_NAME_BYTES + 32, FM_H5_DIMS = 8, FM_SHARD_FORMAT_VERSION = 1 };

/* The attributes of a shard file. */
typedef struct {
    int64_t format_version;
    int64_t mesh_shape[FM_DIMS];
    int64_t coordinate[FM_DIMS];
} fm_h5_header;

enum fm_h5_storage { FM_H5_CONTIGUOUS, FM_H5_VIRTUAL, FM_H5_OTHER };

/* A dataset and its attributes: the local array, and the hyperslabs of the global tensor that it consists of. Several lie one
 * after another along the axis on which their counts add up to the local extent. */
typedef struct {
    char path[FM_H5_PATH_BYTES];       /* without the leading '/': NAME or master/NAME */
    int dtype;                         /* enum fm_dtype; FM_DTYPES (only read): another type */
    int ndim;
    int64_t shape[FM_H5_DIMS];         /* of the local array */
    int64_t global_shape[FM_MAX_DIMS];
    int n_pieces;                      /* 0 (only read): it carries no slice attributes */
    int64_t start[FM_MAX_PIECES][FM_MAX_DIMS], count[FM_MAX_PIECES][FM_MAX_DIMS];
    uint32_t crc32;
    int64_t offset_bytes, size_bytes;  /* of the data in the file; FM_H5_CONTIGUOUS alone */
    enum fm_h5_storage storage;
} fm_h5_dataset;

/* Makes the file with all its datasets (contiguous, allocated, not filled) and sets offset_bytes and size_bytes of each; the file
 * is closed again and complete but for data and CRCs. */
int fm_h5_create(const char *path, const fm_h5_header *header, fm_h5_dataset *datasets, int n);

/* Writes the crc32 attributes. Changes no size and no offset. */
int fm_h5_set_crcs(const char *path, const fm_h5_dataset *datasets, int n);

/* Everything that a file says: its header (has_header: false where it has none, as foreign files) and datasets; links are not
 * followed. Hostile files: data outside the file, shapes that overflow and attributes of another type or length are errors, and
 * so are files of the formats before 1.8, on which the library itself cannot be trusted.
 * The caller frees *datasets [*n] with fm_free. */
int fm_h5_read(fm_h5_header *header, bool *has_header, fm_h5_dataset **datasets, int *n, const char *path);

/* A file of virtual datasets. begin .. map .. end for each, then close (which also gives up after an error). */
typedef struct fm_h5_virtual fm_h5_virtual;
int fm_h5_virtual_open(fm_h5_virtual **out, const char *path, int64_t format_version);
int fm_h5_virtual_begin(fm_h5_virtual *file, int ndim, const int64_t *shape);

/* A slab of the global tensor is a slab of the array [local_shape] in dataset `dataset` of `source_file` (a name relative to the
 * virtual file's own directory). */
int fm_h5_virtual_map(fm_h5_virtual *file, const fm_slab *slab, const int64_t *local_shape, const char *source_file,
                      const char *dataset);
int fm_h5_virtual_end(fm_h5_virtual *file, const char *dataset, enum fm_dtype dtype);
int fm_h5_virtual_close(fm_h5_virtual *file);

#endif
