/* Writing shard sets: what `convert`, checkpoints and dumps of gradients have in common.
 *
 *   begin   makes rank-NNNNN.h5 with all its datasets (HDF5: main thread)
 *   write   puts bytes where they belong (any thread: plain pwrites, no HDF5 and no MPI)
 *   sync    brings them to the disk (any thread)
 *   end     writes the checksums (HDF5: main thread) and gives the file's size and CRC
 *   fm_shards_finish: when all ranks have ended, model.h5 and manifest.json
 *
 * The folder itself is the caller's: it is written under a temporary name and published when all is done (ckpt/publish.h). */
#ifndef FM_CKPT_SHARDS_H
#define FM_CKPT_SHARDS_H

#include <jansson.h>

#include "mesh/comm.h"
#include "parallel/layout.h"

/* One array to be written: a tensor of the layout under a group of its own. */
typedef struct {
    const char *group;                 /* "": weights; "master", "exp_avg", "exp_avg_sq", "gradient" ... */
    int tensor;                        /* of the layout */
    enum fm_dtype dtype;
    const void *data;                  /* this rank's local array (local_shape of its slice), for fm_shard_file_write_all;
                                        * borrowed until the end. NULL: the caller gives the bytes with fm_shard_file_write */
} fm_shard_item;

/* What became of a rank's file. size_bytes 0: the rank owns nothing and has none. */
typedef struct {
    int64_t size_bytes;
    uint32_t crc32;
} fm_shard_summary;

typedef struct fm_shard_file fm_shard_file;

/* Makes DIR/rank-NNNNN.h5 for what the coordinate owns of the items. *out is NULL, without error, where it owns nothing. Of what
 * is written up to stage_bytes are held back, to be written together. Main thread. */
int fm_shard_file_begin(fm_shard_file **out, const char *dir, const fm_layout *layout, const fm_coord *coord,
                        const fm_shard_item *items, int n_items, size_t stage_bytes);

/* Bytes of the local array of an item, that the file expects: 0 where this coordinate owns nothing of it. Local. */
int64_t fm_shard_file_item_bytes(const fm_shard_file *file, int item);

/* The next bytes of an item's local array, in C order; what this coordinate owns of them is written, and summed.
 * Any one thread. */
int fm_shard_file_write(fm_shard_file *file, int item, const void *data, size_t size_bytes);

/* Every item that carries its data. Any one thread. */
int fm_shard_file_write_all(fm_shard_file *file);

/* fsync. Any thread. */
int fm_shard_file_sync(fm_shard_file *file);

/* Checks that every item is complete, writes the checksums and syncs them. Frees the file, after an error too. NULL: a summary of
 * zeros. Main thread. */
int fm_shard_file_end(fm_shard_file *file, fm_shard_summary *summary);

/* Closes and frees without finishing; NULL is allowed. The half-written file stays. Any thread. */
void fm_shard_file_abandon(fm_shard_file *file);

/* Writes a small file into the folder of a set and adds it to the "files" of `extra` (an object). Local: rank 0 calls it. */
int fm_shards_add_file(json_t *extra, const char *dir, const char *name, const void *data, size_t size_bytes);

/* Adds model.h5 and manifest.json to the folder and syncs it. `items` are as every rank gave them. summaries [mesh ranks] holds
 * what this process wrote at the ranks' places and zeros elsewhere. `extra` (an object or NULL; rank 0's counts) is merged into
 * the manifest: the source's identity under "source", a checkpoint's own state; entries of its "files" come
 * behind the set's own. Collective on world (NULL: one rank). */
int fm_shards_finish(const char *dir, const fm_layout *layout, const fm_shard_item *items, int n_items,
                     const fm_shard_summary *summaries, const json_t *extra, fm_comm *world);

#endif
