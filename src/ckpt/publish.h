/* Folders that are complete or invisible: written under another name, synced, then put in their place. Local: one rank does it,
 * the others wait. */
#ifndef FM_CKPT_PUBLISH_H
#define FM_CKPT_PUBLISH_H

#include "base/file.h"

/* The name under which the folder DIR is written, DIR.tmp, into temporary[FM_PATH_BYTES]. Pure. */
int fm_publish_name(char *temporary, const char *dir);

/* Makes that folder, empty: what an earlier run left there is removed. Where DIR is already there it will be replaced, so it must
 * be empty or `ours` must say that it is a folder of the same kind: nobody's files are removed by mistake. */
int fm_publish_begin(const char *temporary, const char *dir, bool (*ours)(const char *dir));

/* Syncs the folder and gives it the name DIR; a folder that had it is exchanged in one step and removed. The files in it were
 * synced by who wrote them. */
int fm_publish_end(const char *temporary, const char *dir);

/* Removes the temporary folder after a failure; the kept error message stays. */
void fm_publish_abandon(const char *temporary);

#endif
