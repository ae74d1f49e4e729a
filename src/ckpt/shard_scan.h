/* Reading what a shard set says of itself: manifest.json, then the attributes of the files that it names.
 * All functions are local. */
#ifndef FM_CKPT_SHARD_SCAN_H
#define FM_CKPT_SHARD_SCAN_H

#include <jansson.h>

#include "ckpt/index.h"
#include "finemesh/mesh.h"

/* The end of every manifest.json: the CRC of all bytes before it. */
#define FM_MANIFEST_SEAL ",\n \"crc32\": %u\n}\n"

/* Whether the directory holds a shard set (a manifest.json). */
bool fm_shards_is_set(const char *dir);

/* Reads and checks manifest.json: its format_version, its list of files. The caller releases *out with json_decref. */
int fm_shards_read_manifest(json_t **out, const char *dir);

/* Whether a file of that name belongs to the tensors of a set: a rank's, or model.h5. */
bool fm_shards_holds_tensors(const char *name);

/* Adds part `part` of `n_parts` of the set's rank files to the index, which the caller seals. Each file must be there and as long
 * as the manifest says. */
int fm_shards_scan(fm_index *index, const char *dir, int part, int n_parts);

/* One HDF5 file alone: a rank's (its slices), or any other (its datasets, each as one whole slice where it is contiguous). */
int fm_shards_scan_file(fm_index *index, const char *path);

/* Whether the set was made from a source of this identity (fm_hf_identity) and its files are still there as they were written; then
 * *mesh is the one that it was made for. */
bool fm_shards_are_current(fm_mesh_shape *mesh, const char *dir, const json_t *identity);

#endif
