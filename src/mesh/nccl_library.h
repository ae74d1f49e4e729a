/* libnccl.so.2, opened when it is wanted: for the CUDA module. */
#ifndef FM_MESH_NCCL_LIBRARY_H
#define FM_MESH_NCCL_LIBRARY_H

#include <nccl.h>

#include "base/error.h"

/* X(function): what is used, without its prefix */
#define FM_NCCL_FUNCTIONS(X) \
    X(GetVersion) X(GetUniqueId) X(CommInitRankConfig) X(CommSplit) X(CommFinalize) X(CommDestroy) X(CommAbort) \
    X(CommGetAsyncError) X(GetErrorString) X(GetLastError) X(AllReduce) X(AllGather) X(ReduceScatter) X(Broadcast) X(Reduce) \
    X(Send) X(Recv) X(GroupStart) X(GroupEnd)

typedef struct {
#define FM_NCCL_POINTER(name) __typeof__(&nccl##name) name;
    FM_NCCL_FUNCTIONS(FM_NCCL_POINTER)
#undef FM_NCCL_POINTER
} fm_nccl_library;

/* Opens the library; it stays open. FM_ERR_COMM where it is not there, or too old. Local. */
int fm_nccl_library_open(fm_nccl_library *out);

#endif
