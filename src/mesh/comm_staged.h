/* Arrays in a device's memory over a communicator that carries the host's: out to the host, over, and back. Slow, and right wherever the
 * other is: for GPUs without a way between them, and for several ranks on one GPU. */
#ifndef FM_MESH_COMM_STAGED_H
#define FM_MESH_COMM_STAGED_H

#include "mesh/comm.h"
#include "tensor/device.h"

/* `inner` (borrowed, as is the device; NULL gives NULL) carries what the device holds. An operation copies out when it begins, which waits
 * for all that the device has queued, and in when it is waited for. The host's memory for it is kept for the next one. What is carried is
 * counted here, not at inner. Local. */
int fm_comm_new_staged(fm_comm **out, fm_comm *inner, fm_device *device);

#endif
