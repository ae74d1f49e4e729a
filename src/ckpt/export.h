/* Tensors on the mesh -> an HF directory that transformers loads: names, shapes and dtypes as in the source, files cut as large
 * models are, configuration and tokenizer carried along. */
#ifndef FM_CKPT_EXPORT_H
#define FM_CKPT_EXPORT_H

#include "ckpt/source.h"
#include "mesh/comm.h"
#include "parallel/layout.h"
#include "tensor/device.h"

/* Where the numbers come from: rows [first_row, first_row + n_rows) of this rank's local array of a tensor, in the layout's dtype
 * of it, into out. Local: it must not communicate. */
typedef struct {
    int (*read)(void *user, void *out, int tensor, int64_t first_row, int64_t n_rows);
    void *user;
} fm_tensor_feed;

/* A feed from arrays in a device's memory: data[t] is the local array of tensor t in dtypes[t]; rounded to nearest even where the layout's
 * dtype is narrower. The struct must outlive the feed; all is borrowed. */
typedef struct {
    const fm_layout *layout;
    fm_coord coord;
    const void *const *data;           /* [n_tensors] */
    const enum fm_dtype *dtypes;       /* [n_tensors] */
    fm_device *device;                 /* NULL: the host */
} fm_array_feed;
fm_tensor_feed fm_feed_arrays(fm_array_feed *arrays);

/* A feed from a source (a shard set, a checkpoint), each rank reading alone; tensor_of as fm_match_tensors gives it. With a
 * layout of dp_shard = ranks nothing is read twice. Rounded to nearest even where the layout's dtype is narrower. The struct must
 * outlive the feed; all is borrowed. */
typedef struct {
    fm_source *source;
    const int *tensor_of;              /* [n_tensors] */
    const fm_layout *layout;
    fm_coord coord;
} fm_source_feed;
fm_tensor_feed fm_feed_source(fm_source_feed *source);

typedef struct {
    const char *source_dir;            /* the HF directory that the model came from: config.json and tokenizer files */
    int64_t max_file_bytes;            /* of tensors in one file; 0: 5 GB */
} fm_export_options;

/* Writes OUT_DIR, complete or not at all. Every rank of the mesh writes what it owns straight to its place in the files; tp peers
 * exchange columns, so that whole rows are written. layout->tensors[].dtype is what is written. Memory: bands of a few MiB.
 * `world` must be as large as the mesh (NULL: a mesh of one rank), `tp` this rank's tp peers (NULL: none). Collective on world.
 * Errors: files'; OUT_DIR is the source itself, or is there and holds something else than a model. */
int fm_export(const char *out_dir, const fm_layout *layout, const fm_tensor_feed *feed, const fm_export_options *options,
              fm_comm *world, fm_comm *tp);

/* The same in two parts and without tp peers: a thread of each rank writes its part while the main one does something else.
 * `layout` and `feed` are borrowed until the end; that thread alone reads the feed. The error is agreed. Collective on world. */
typedef struct fm_exporting fm_exporting;
int fm_exporting_begin(fm_exporting **out, const char *out_dir, const fm_layout *layout, const fm_tensor_feed *feed,
                       const fm_export_options *options, fm_comm *world);

/* Whether fm_exporting_end would not wait for this rank's thread. Local. */
bool fm_exporting_is_written(const fm_exporting *exporting);

/* Waits for the thread; when all ranks are done the directory gets its name. Frees the export, after an error too. Collective on
 * world. */
int fm_exporting_end(fm_exporting *exporting, fm_comm *world);

/* Stops the thread, removes what was written and frees; NULL is allowed. The kept error message stays. Local. */
void fm_exporting_abandon(fm_exporting *exporting);

#endif
