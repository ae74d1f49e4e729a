/* Long runs of bytes into a file that is there and has its length, past the page cache where the file system lets them go straight to
 * the disk: what is written once and read much later would only push other things out, and copying it there costs the processor as
 * much as training can spare. Threads wait for the disk while the caller goes on. Each function is local; a writer belongs to one
 * thread at a time. */
#ifndef FM_BASE_WRITER_H
#define FM_BASE_WRITER_H

#include "base/error.h"

/* Addresses, offsets and lengths that are multiples of it go to the disk as they are; others by way of a stage. */
enum { FM_WRITER_ALIGN_BYTES = 4096 };

typedef struct fm_writer fm_writer;

/* Opens PATH for writing, with so many bytes (at least 128 KiB are taken) for what was put and is not on the disk yet. */
int fm_writer_open(fm_writer **out, const char *path, size_t stages_bytes);

/* The next fm_writer_put goes to this offset. */
void fm_writer_seek(fm_writer *writer, int64_t offset_bytes);

/* The next bytes, one after another; each byte of the file is put once at most. `data` is the caller's own again on return. Errors:
 * those of earlier bytes too. */
int fm_writer_put(fm_writer *writer, const void *data, size_t size_bytes);

/* Everything that was put is on the disk. */
int fm_writer_sync(fm_writer *writer);

/* Closes and frees; what was put since the last sync may be lost. NULL is allowed. */
void fm_writer_close(fm_writer *writer);

#endif
