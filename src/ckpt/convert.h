/* An HF directory -> shards of a mesh; a shard set or checkpoint of one mesh -> another. */
#ifndef FM_CKPT_CONVERT_H
#define FM_CKPT_CONVERT_H

#include "mesh/comm.h"
#include "parallel/layout.h"

/* What was done, on all ranks together. */
typedef struct {
    bool reused;                       /* the shards of an unchanged source were there, */
    fm_mesh_shape mesh;                /* made for this mesh; written anew: the layout's */
    int64_t bytes_read, requests;      /* of the source's files */
    int64_t bytes_written;             /* of tensors */
} fm_convert_report;

/* Writes the layout's tensors and a copy of config.json into SHARDS_DIR (complete or not at all), each in the source's dtype,
 * which is also set in `tensors` (layout->tensors without the const). With `reuse`, shards that were made from the same state of
 * the source, by whatever mesh, are left as they are.
 *
 * Any number of ranks does it: where `world` is as large as the mesh each rank writes its own file, and its tp peers (`tp`) share
 * what is read; else whole groups of tp coordinates are dealt out to the ranks, and `tp` is ignored. A rank streams what it
 * keeps, in bands: its memory does not grow with the model. Errors: fm_match_tensors', files'; then nothing is left behind.
 * Collective on world (NULL: one rank). */
int fm_convert(fm_convert_report *report, const char *shards_dir, const char *source_dir, const fm_layout *layout,
               fm_tensor_spec *tensors, bool reuse, fm_comm *world, fm_comm *tp);

/* A file of a set beside its tensors. */
typedef struct {
    const char *name;
    const char *data;
    size_t size_bytes;
} fm_small_file;

/* Writes the set or checkpoint SET_DIR again for the layout, as a run on that mesh would have: every array of every group, bit
 * for bit, the state, and its other files but for `instead` (rank 0's), which stand beside them or for those of the same name.
 * SET_DIR is verified first. Ranks and memory as above. Errors: damage, by file and tensor; tensors that are not those of the
 * layout; files'. Collective on world (NULL: one rank). */
int fm_reshard(fm_convert_report *report, const char *out_dir, const char *set_dir, const fm_layout *layout,
               const fm_small_file *instead, int n_instead, fm_comm *world, fm_comm *tp);

#endif
