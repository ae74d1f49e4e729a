/* The groups of a mesh: made once, by name, in the same order everywhere. */
#include "base/memory.h"
#include "mesh/comm.h"
#include "mesh/comm_backend.h"

struct fm_groups {
    fm_mesh_shape shape;
    fm_coord coord;
    int colors[FM_GROUPS];
    fm_comm *members[FM_GROUPS];
    bool has_device;
    fm_comm *device_members[FM_GROUPS];
};

static const char *const names[FM_GROUPS] = {
    "pp", "dp_replicate", "dp_shard", "cp", "tp", "world", "fsdp", "loss", "ends", "kv_replicas",
};

/* The dimensions that vary inside each group; all others are the same for its members. */
static const unsigned varies[FM_GROUPS] = {
    [FM_GROUP_PP] = 1u << FM_PP,
    [FM_GROUP_DP_REPLICATE] = 1u << FM_DP_REPLICATE,
    [FM_GROUP_DP_SHARD] = 1u << FM_DP_SHARD,
    [FM_GROUP_CP] = 1u << FM_CP,
    [FM_GROUP_TP] = 1u << FM_TP,
    [FM_GROUP_WORLD] = ~0u,
    [FM_GROUP_FSDP] = 1u << FM_DP_SHARD | 1u << FM_CP,
    [FM_GROUP_LOSS] = 1u << FM_DP_REPLICATE | 1u << FM_DP_SHARD | 1u << FM_CP,
    [FM_GROUP_ENDS] = 1u << FM_PP,
    [FM_GROUP_KV_REPLICAS] = 1u << FM_TP,
};

/* The groups whose ranks exchange arrays of the device; over the others only numbers of the host go. */
static const bool carries_arrays[FM_GROUPS] = {
    [FM_GROUP_PP] = true, [FM_GROUP_DP_REPLICATE] = true, [FM_GROUP_CP] = true, [FM_GROUP_TP] = true, [FM_GROUP_FSDP] = true,
    [FM_GROUP_ENDS] = true, [FM_GROUP_KV_REPLICAS] = true,
};

/* Rank of the lowest member of the coordinate's group: its color. */
static int color_of(const fm_mesh_shape *shape, const fm_coord *coord, enum fm_group group, const int *kv_run)
{
    fm_coord lowest = *coord;
    for (int d = 0; d < FM_DIMS; d++) {
        if (varies[group] >> d & 1u) {
            lowest.at[d] = 0;
        }
    }
    if (group == FM_GROUP_ENDS && coord->at[FM_PP] != 0 && coord->at[FM_PP] != shape->size[FM_PP] - 1) {
        return -1;
    }
    if (group == FM_GROUP_KV_REPLICAS) {
        if (kv_run == NULL) {
            return -1;
        }
        lowest.at[FM_TP] = kv_run[coord->at[FM_TP]];
    }
    return fm_mesh_rank(shape, &lowest);
}

static void close_members(fm_groups *groups)
{
    for (int g = FM_GROUPS - 1; g >= 0; g--) {
        fm_comm_destroy(groups->device_members[g]);
        fm_comm_destroy(groups->members[g]);
    }
}

/* Every rank makes all of the calls that are collective, also when something has failed on it: who left early would leave the others
 * waiting. The struct itself comes last for the same reason. */
int fm_groups_new(fm_groups **out, const fm_mesh_shape *shape, const int *kv_run, const void *mpi_comm)
{
    fm_groups made = { .shape = *shape };
    int rc = mpi_comm == NULL ? FM_OK : fm_comm_new_world(&made.members[FM_GROUP_WORLD], mpi_comm);
    const int rank = fm_comm_rank(made.members[FM_GROUP_WORLD]);
    made.coord = mpi_comm == NULL ? made.coord : fm_mesh_coord(shape, rank);
    for (int g = 0; g < FM_GROUPS && mpi_comm != NULL; g++) {
        if (g != FM_GROUP_WORLD) {
            made.colors[g] = color_of(shape, &made.coord, (enum fm_group)g, kv_run);
            const int split = fm_comm_mpi_split(&made.members[g], names[g], mpi_comm, made.colors[g], rank);
            rc = rc < 0 ? rc : split;
        }
    }
    fm_groups *const groups = fm_alloc(sizeof *groups, FM_MEMORY_HOST);
    rc = rc < 0 ? rc : groups == NULL ? FM_ERR_MEMORY : FM_OK;
    *out = rc < 0 ? NULL : groups;
    if (rc < 0) {
        close_members(&made);
        fm_free(groups);
        return rc;
    }
    *groups = made;
    return FM_OK;
}

int fm_groups_open_device(fm_groups *groups, fm_comm_make_fn *make, void *context)
{
    fm_comm *const world = groups->members[FM_GROUP_WORLD];
    groups->has_device = true;
    for (int g = 0; g < FM_GROUPS && world != NULL; g++) {
        if (carries_arrays[g]) {
            FM_TRY(make(&groups->device_members[g], context, groups->members[g], (enum fm_group)g, groups->colors[g], world->rank));
        }
    }
    return FM_OK;
}

void fm_groups_destroy(fm_groups *groups)
{
    if (groups == NULL) {
        return;
    }
    close_members(groups);
    fm_free(groups);
}

const char *fm_group_name(enum fm_group which)
{
    return names[which];
}

fm_comm *fm_groups_get(const fm_groups *groups, enum fm_group which)
{
    return groups->members[which];
}

fm_comm *fm_groups_device(const fm_groups *groups, enum fm_group which)
{
    return groups->has_device && carries_arrays[which] ? groups->device_members[which] : groups->members[which];
}

const fm_mesh_shape *fm_groups_mesh(const fm_groups *groups)
{
    return &groups->shape;
}

fm_coord fm_groups_coord(const fm_groups *groups)
{
    return groups->coord;
}
