/* Whether a shard set or checkpoint is byte for byte what was written. */
#ifndef FM_CKPT_VERIFY_H
#define FM_CKPT_VERIFY_H

#include "mesh/comm.h"

/* Reads manifest.json, whose last member is its own CRC, and every file that it names, and compares sizes and CRCs; the ranks
 * of `world` share the files. The error (FM_ERR_FORMAT, FM_ERR_IO) names the file, and the tensor where one is hit. *bytes
 * (NULL: not wanted): what was read, on all ranks. Collective on world (NULL: one rank). */
int fm_verify(int64_t *bytes, const char *dir, fm_comm *world);

#endif
