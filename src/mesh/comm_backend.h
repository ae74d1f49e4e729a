/* What a collectives backend provides, and what all of them share. Included by comm.c and the backends, and by
 * ops/cuda_module.h for what a backend in the module shares with the library. */
#ifndef FM_MESH_COMM_BACKEND_H
#define FM_MESH_COMM_BACKEND_H

#include "mesh/watch.h"
#include "tensor/stopwatch.h"

/* A backend is one const table. All entries are as in comm.h, on a communicator of two or more ranks. */
typedef struct {
    const char *name;
    int (*all_reduce)(fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, enum fm_reduce op);
    int (*all_gather)(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype);
    int (*reduce_scatter)(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype);
    int (*broadcast)(fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, int root);
    int (*reduce)(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype, int root);
    int (*send)(fm_comm *comm, fm_request *request, const void *data, int64_t count, enum fm_dtype dtype, int to, int tag);
    int (*receive)(fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, int from, int tag);
    int (*group_begin)(fm_comm *comm); /* NULL, and group_end too: operations never wait for each other's turn */
    int (*group_end)(fm_comm *comm);
    int (*wait)(fm_request *request);
    void (*progress)(fm_comm *comm);
    void (*close)(fm_comm *comm);      /* releases what open made */
} fm_comm_backend;

struct fm_comm {
    const fm_comm_backend *backend;
    char name[24];
    int size, rank;
    fm_comm_traffic traffic;
    fm_watch *watch;                   /* borrowed; NULL: whoever waits here waits as long as it takes */
    void *state;                       /* the backend's own */
    fm_stopwatch *stopwatch;           /* mesh/timed.h; NULL: nobody measures */
    const fm_comm_backend *plain;      /* while somebody does: the backend that is measured */
    int stopwatch_row;
};

extern const fm_comm_backend fm_comm_backend_mpi;

/* Splits the world: ranks that give one `color` >= 0 become a communicator, ordered by `key`; color < 0 joins none. The result is
 * NULL for fewer than two members. Collective on the world. */
int fm_comm_mpi_split(fm_comm **out, const char *name, const void *mpi_comm, int color, int key);

#endif
