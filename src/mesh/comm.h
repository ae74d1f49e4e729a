/* Communicators: the groups of ranks of a mesh, and collectives over them.
 *
 * A backend is one const table (comm_mpi.c; for arrays of a GPU comm_staged.c and comm_nccl.c); nothing above this header knows which.
 * Every collective takes (communicator, buffer, count, dtype) with a 64-bit count and has one nonblocking form that
 * returns a request; the blocking form is the same and a wait. A NULL communicator is a group of one rank: every collective
 * over it is a copy or nothing, and is not counted.
 *
 * The order in which one communicator is used must be the same on all of its ranks. */
#ifndef FM_MESH_COMM_H
#define FM_MESH_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "finemesh/mesh.h"
#include "base/error.h"
#include "tensor/dtype.h"

typedef struct fm_comm fm_comm;

enum fm_reduce { FM_SUM, FM_MAX, FM_MIN };

/* X(name, what it is called in tables): the kinds of traffic that are counted */
#define FM_TRAFFIC_LIST(X) \
    X(FM_TRAFFIC_ALL_REDUCE, "all-reduce") \
    X(FM_TRAFFIC_ALL_GATHER, "all-gather") \
    X(FM_TRAFFIC_REDUCE_SCATTER, "reduce-scatter") \
    X(FM_TRAFFIC_BROADCAST, "broadcast") \
    X(FM_TRAFFIC_REDUCE, "reduce") \
    X(FM_TRAFFIC_SEND, "send") \
    X(FM_TRAFFIC_RECEIVE, "receive")

enum fm_traffic {
#define FM_TRAFFIC_ENUM(name, text) name,
    FM_TRAFFIC_LIST(FM_TRAFFIC_ENUM)
#undef FM_TRAFFIC_ENUM
    FM_TRAFFIC_KINDS
};

/* What a communicator has carried: calls, and bytes of this rank's larger buffer (count * dtype for an all-reduce, broadcast,
 * reduce, send or receive; the gathered size for an all-gather; the size before it for a reduce-scatter). */
typedef struct {
    int64_t calls[FM_TRAFFIC_KINDS];
    int64_t bytes[FM_TRAFFIC_KINDS];
} fm_comm_traffic;

/* A pending operation. A request of zeros is complete. Buffers must stay untouched until the wait. */
typedef struct {
    void *handle[2];
} fm_request;

/* Members and my index. NULL: 1 and 0. Local. */
int fm_comm_size(const fm_comm *comm);
int fm_comm_rank(const fm_comm *comm);
const char *fm_comm_name(const fm_comm *comm);
const fm_comm_traffic *fm_comm_get_traffic(const fm_comm *comm);

/* Collective on comm, nonblocking. In place where `out == in`.
 *   all_gather:      in [count], out [size * count]; in place: in == out + rank * count.
 *   reduce_scatter:  in [size * count], out [count]; in place: out == in + rank * count.
 *   broadcast:       data [count] of root to all.
 *   reduce:          in [count] summed into out [count] on root (out ignored elsewhere). */
int fm_comm_begin_all_reduce(fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, enum fm_reduce op);
int fm_comm_begin_all_gather(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype);
int fm_comm_begin_reduce_scatter(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype);
int fm_comm_begin_broadcast(fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, int root);
int fm_comm_begin_reduce(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype, int root);

/* Which way a message goes in a pipeline; other messages are FORWARD. */
enum fm_lane { FM_LANE_FORWARD, FM_LANE_BACKWARD, FM_LANES };

/* The tag of message `number`, 0 to FM_TAG_NUMBERS - 1, of a lane. Local. */
enum { FM_TAG_NUMBERS = 16384 };
static inline int fm_tag(enum fm_lane lane, int number)
{
    return number * FM_LANES + (int)lane;
}

static inline enum fm_lane fm_tag_lane(int tag)
{
    return (enum fm_lane)(tag % FM_LANES);
}

/* Point to point; matched in order per (peer, tag). Both ends must issue the messages of one sender, receiver and lane in the same
 * order: a backend may have but one queue for them. Only in a group (fm_comm_group_begin) may a rank's own receive and send wait
 * for another rank's send and receive. */
int fm_comm_begin_send(fm_comm *comm, fm_request *request, const void *data, int64_t count, enum fm_dtype dtype, int to, int tag);
int fm_comm_begin_receive(fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, int from, int tag);

/* Operations between the two start together at the end: none of them waits for another one's turn. They may be waited for after the
 * end. Groups do not nest. Local; NULL is allowed. */
int fm_comm_group_begin(fm_comm *comm);
int fm_comm_group_end(fm_comm *comm);

/* Completes the request and zeroes it. What is queued on the communicator's device after this comes after the operation; the host
 * itself waits only for communicators of host memory. Local. */
int fm_comm_wait(fm_request *request);

/* Lets pending operations move; cheap. Local. */
void fm_comm_progress(fm_comm *comm);

/* Blocking forms. Collective on comm. */
int fm_comm_all_reduce(fm_comm *comm, void *data, int64_t count, enum fm_dtype dtype, enum fm_reduce op);
int fm_comm_all_gather(fm_comm *comm, void *out, const void *in, int64_t count, enum fm_dtype dtype);
int fm_comm_reduce_scatter(fm_comm *comm, void *out, const void *in, int64_t count, enum fm_dtype dtype);
int fm_comm_broadcast(fm_comm *comm, void *data, int64_t count, enum fm_dtype dtype, int root);
int fm_comm_barrier(fm_comm *comm);

/* The end of a fallible collective phase: every rank gives its own code; all get the worst code and, as their error message,
 * the message of the lowest rank that has that code. Collective on comm. Returns the agreed code. */
int fm_comm_agree(fm_comm *comm, int code);

/* The root's bytes to everyone: *data and *size_bytes are the root's input; elsewhere *data is allocated (fm_free) with a 0 byte
 * after it, and NULL where this fails. Collective on comm. */
int fm_comm_broadcast_text(fm_comm *comm, char **data, size_t *size_bytes, int root);

/* The groups of one rank, made once, by name, in the same order everywhere. A member that would hold one rank is NULL. */
enum fm_group {
    FM_GROUP_PP, FM_GROUP_DP_REPLICATE, FM_GROUP_DP_SHARD, FM_GROUP_CP, FM_GROUP_TP,   /* the five dimensions, as enum fm_dim */
    FM_GROUP_WORLD,
    FM_GROUP_FSDP,        /* dp_shard x cp: parameters are cut over it */
    FM_GROUP_LOSS,        /* dp_replicate x dp_shard x cp: losses and gradients are summed over it */
    FM_GROUP_ENDS,        /* first and last stage of a pipeline: a tied embedding lives on both */
    FM_GROUP_KV_REPLICAS, /* the run of tp ranks that hold one key/value head */
    FM_GROUPS
};

typedef struct fm_groups fm_groups;

/* Makes the groups of a mesh over an MPI communicator (`mpi_comm` points to an MPI_Comm; NULL: one rank and no MPI).
 * kv_run [tp] holds, for each tp rank, the first tp rank of those that hold the same key/value head (NULL: no head is replicated).
 * Collective on mpi_comm. Free with fm_groups_destroy (collective). */
int fm_groups_new(fm_groups **out, const fm_mesh_shape *shape, const int *kv_run, const void *mpi_comm);
void fm_groups_destroy(fm_groups *groups);

/* "pp", .. "world", "fsdp", ...: static storage. Local. */
const char *fm_group_name(enum fm_group which);

/* A group's communicator for numbers of the host. Local. */
fm_comm *fm_groups_get(const fm_groups *groups, enum fm_group which);

/* A group's communicator for arrays in the device's memory: of every group but dp_shard, world and loss. The host's own where
 * fm_groups_open_device was not called. Local. */
fm_comm *fm_groups_device(const fm_groups *groups, enum fm_group which);

/* Makes one group's communicator for arrays in a device's memory: of the ranks that give one color (below 0: none), ordered by key.
 * `host` is the same group for the host's numbers. NULL for fewer than two members. Collective on the world. */
typedef int fm_comm_make_fn(fm_comm **out, void *context, fm_comm *host, enum fm_group which, int color, int key);

/* Makes the groups that exchange arrays (fm_groups_device) a second time, for a device's memory. Collective on the world. On failure
 * some are made: fm_groups_destroy closes them. */
int fm_groups_open_device(fm_groups *groups, fm_comm_make_fn *make, void *context);
const fm_mesh_shape *fm_groups_mesh(const fm_groups *groups);
fm_coord fm_groups_coord(const fm_groups *groups);

/* A communicator over the world alone, before a mesh is known. Collective on mpi_comm. */
int fm_comm_new_world(fm_comm **out, const void *mpi_comm);
void fm_comm_destroy(fm_comm *comm);

/* The MPI library's name and version, a line; MPI need not have been started. Local; static storage. */
const char *fm_comm_mpi_version(void);

/* Ranks of mpi_comm. Local. FM_ERR_COMM where MPI was not started. */
int fm_comm_ranks(int *out, const void *mpi_comm);

/* Ranks of mpi_comm on this machine, and which of them this one is. Collective on mpi_comm. */
int fm_comm_ranks_of_node(int *size, int *rank, const void *mpi_comm);

#endif
