/* How HDF5 reaches the files that it writes. A write that the disk refuses is kept here and HDF5 is told that it was made: told otherwise,
 * it is left with a file that it can neither close nor forget, and dies at the end of the program. */
#ifndef FM_CKPT_H5_DRIVER_H
#define FM_CKPT_H5_DRIVER_H

#include <hdf5.h>

/* What became of a file: zeros before it is opened; to be looked at when it is closed, and to stay where it is until then. */
typedef struct {
    hid_t driver;                      /* 0: none */
    int rc;                            /* of the first write that failed */
    char why[1024];                    /* its sentence */
} fm_h5_outcome;

/* Lets files that are opened for writing with these access properties tell their outcome. Local. FM_ERR_IO where HDF5 has no room for
 * another driver. */
int fm_h5_use_driver(hid_t access, fm_h5_outcome *outcome);

/* Lets the driver go, after the file was closed: HDF5 1.10 looks into a driver once more after the file has let go of it. Local. */
void fm_h5_end_driver(fm_h5_outcome *outcome);

#endif
