#include "train/traffic.h"

#include "base/log.h"

static const char *const kinds[FM_TRAFFIC_KINDS] = {
#define KIND_TEXT(name, text) [name] = text,
    FM_TRAFFIC_LIST(KIND_TEXT)
#undef KIND_TEXT
};

void fm_traffic_read(fm_traffic_table *out, const fm_groups *groups, const fm_traffic_table *since)
{
    for (int g = 0; g < FM_GROUPS; g++) {
        const fm_comm *const host = fm_groups_get(groups, (enum fm_group)g), *const device = fm_groups_device(groups, (enum fm_group)g);
        out->group[g] = *fm_comm_get_traffic(host);
        for (int k = 0; device != host && k < FM_TRAFFIC_KINDS; k++) {
            out->group[g].calls[k] += fm_comm_get_traffic(device)->calls[k];
            out->group[g].bytes[k] += fm_comm_get_traffic(device)->bytes[k];
        }
        for (int k = 0; since != NULL && k < FM_TRAFFIC_KINDS; k++) {
            out->group[g].calls[k] -= since->group[g].calls[k];
            out->group[g].bytes[k] -= since->group[g].bytes[k];
        }
    }
}

static double mib(int64_t bytes)
{
    return (double)bytes / (1 << 20);
}

int fm_traffic_print(const fm_traffic_table *table, const fm_groups *groups)
{
    fm_traffic_table most = *table;
    FM_TRY(fm_comm_all_reduce(fm_groups_get(groups, FM_GROUP_WORLD), &most, sizeof most / sizeof(int64_t), FM_I64, FM_MAX));
    fm_log_print("# traffic of the steps            rank 0                  most of a rank\n"
                 "# %-12s %-14s %9s %11s  %9s %11s\n", "group", "kind", "calls", "MiB", "calls", "MiB");
    for (int g = 0; g < FM_GROUPS; g++) {
        const fm_comm_traffic *const own = &table->group[g], *const all = &most.group[g];
        for (int k = 0; k < FM_TRAFFIC_KINDS; k++) {
            if (all->calls[k] > 0) {
                fm_log_print("# %-12s %-14s %9lld %11.3f  %9lld %11.3f\n", fm_group_name((enum fm_group)g), kinds[k],
                             (long long)own->calls[k], mib(own->bytes[k]), (long long)all->calls[k], mib(all->bytes[k]));
            }
        }
    }
    return FM_OK;
}
