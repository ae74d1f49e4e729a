#include "ckpt/h5_driver.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

#include "base/file.h"
#include "base/memory.h"

/* What the access properties carry: HDF5 copies it. */
typedef struct {
    fm_h5_outcome *outcome;
} access_info;

typedef struct {
    H5FD_t common;                     /* HDF5's own part, first */
    int fd;
    haddr_t end, size_bytes;           /* of what HDF5 has given out; of the file */
    fm_h5_outcome *outcome;
    char path[FM_PATH_BYTES];
} driven_file;

static void note(fm_h5_outcome *outcome, int rc)
{
    if (rc < 0 && outcome->rc == FM_OK) {
        outcome->rc = rc;
        snprintf(outcome->why, sizeof outcome->why, "%s", fm_error_message());
    }
}

static H5FD_t *open_driven(const char *path, unsigned flags, hid_t access, haddr_t limit)
{
    const access_info *const info = H5Pget_driver_info(access);
    const bool is_new = (flags & H5F_ACC_CREAT) != 0;      /* open_to_write has no new file that keeps what was there */
    driven_file *const f = fm_alloc(sizeof *f, FM_MEMORY_HOST);
    struct stat st;
    if (f == NULL) {
        note(info->outcome, FM_ERR_MEMORY);
        return NULL;
    }
    f->outcome = info->outcome;
    snprintf(f->path, sizeof f->path, "%s", path);
    f->fd = open(path, O_RDWR | O_CLOEXEC | (is_new ? O_CREAT | O_TRUNC : 0), 0666);
    if (f->fd < 0 || fstat(f->fd, &st) != 0) {
        note(f->outcome, fm_fail(FM_ERR_IO, "%s: cannot %s: %s", path, is_new ? "create" : "open", strerror(errno)));
        if (f->fd >= 0) {
            close(f->fd);
        }
        fm_free(f);
        return NULL;
    }
    f->size_bytes = (haddr_t)st.st_size;
    return &f->common;
}

static herr_t close_driven(H5FD_t *file)
{
    driven_file *const f = (driven_file *)file;
    if (close(f->fd) != 0) {
        note(f->outcome, fm_fail(FM_ERR_IO, "%s: cannot close: %s", f->path, strerror(errno)));
    }
    fm_free(f);
    return 0;
}

/* As HDF5's own driver for plain files: the layout of a file depends on it. */
static herr_t query(const H5FD_t *file, unsigned long *flags)
{
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE | H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t get_end(const H5FD_t *file, H5FD_mem_t type)
{
    return ((const driven_file *)file)->end;
}

static herr_t set_end(H5FD_t *file, H5FD_mem_t type, haddr_t end)
{
    ((driven_file *)file)->end = end;
    return 0;
}

static haddr_t get_size(const H5FD_t *file, H5FD_mem_t type)
{
    return ((const driven_file *)file)->size_bytes;
}

/* What lies behind the file's end reads as zeros. */
static herr_t read_driven(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t size_bytes, void *out)
{
    driven_file *const f = (driven_file *)file;
    const size_t there_bytes = at >= f->size_bytes ? 0 : f->size_bytes - at < size_bytes ? (size_t)(f->size_bytes - at) : size_bytes;
    memset((char *)out + there_bytes, 0, size_bytes - there_bytes);
    const int rc = fm_file_pread(f->fd, out, there_bytes, (int64_t)at, f->path);
    note(f->outcome, rc);
    return rc < 0 ? -1 : 0;
}

static herr_t write_driven(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t size_bytes, const void *data)
{
    driven_file *const f = (driven_file *)file;
    if (f->outcome->rc == FM_OK) {
        note(f->outcome, fm_file_pwrite(f->fd, data, size_bytes, (int64_t)at, f->path));
    }
    if (at + size_bytes > f->size_bytes) {
        f->size_bytes = at + size_bytes;
    }
    return 0;
}

/* The file ends where HDF5 has given out its last byte. */
static herr_t truncate_driven(H5FD_t *file, hid_t transfer, hbool_t closing)
{
    driven_file *const f = (driven_file *)file;
    if (f->end != f->size_bytes && f->outcome->rc == FM_OK) {
        note(f->outcome, ftruncate(f->fd, (off_t)f->end) == 0 ? FM_OK
                         : fm_fail(FM_ERR_IO, "%s: cannot give it its size: %s", f->path, strerror(errno)));
    }
    f->size_bytes = f->end;
    return 0;
}

static const H5FD_class_t driver = {
#ifdef H5FD_CLASS_VERSION
    .version = H5FD_CLASS_VERSION, .value = 512,       /* a number that the HDF5 group leaves to others */
#endif
    .name = "finemesh", .maxaddr = INT64_MAX, .fc_degree = H5F_CLOSE_WEAK, .fapl_size = sizeof(access_info), .open = open_driven,
    .close = close_driven, .query = query, .get_eoa = get_end, .set_eoa = set_end, .get_eof = get_size, .read = read_driven,
    .write = write_driven, .truncate = truncate_driven, .fl_map = H5FD_FLMAP_DICHOTOMY,
};

int fm_h5_use_driver(hid_t access, fm_h5_outcome *outcome)
{
    const access_info info = { outcome };
    outcome->driver = H5FDregister(&driver);
    if (outcome->driver < 0 || H5Pset_driver(access, outcome->driver, &info) < 0) {
        fm_h5_end_driver(outcome);
        return fm_fail(FM_ERR_IO, "HDF5 takes no driver for files");
    }
    return FM_OK;
}

void fm_h5_end_driver(fm_h5_outcome *outcome)
{
    if (outcome->driver > 0) {
        H5FDunregister(outcome->driver);
    }
    outcome->driver = 0;
}
