/* What the groups of a mesh carry: calls and bytes by kind, between two moments. */
#ifndef FM_TRAIN_TRAFFIC_H
#define FM_TRAIN_TRAFFIC_H

#include "mesh/comm.h"

/* Of each group; zeros where this rank is alone in it. */
typedef struct {
    fm_comm_traffic group[FM_GROUPS];
} fm_traffic_table;

/* What the groups have carried since they were made; or, with `since`, since that was read. Local. */
void fm_traffic_read(fm_traffic_table *out, const fm_groups *groups, const fm_traffic_table *since);

/* Prints a table: a row for each group and kind that was used, with this table's numbers on rank 0 and the most of any rank.
 * Collective on world. */
int fm_traffic_print(const fm_traffic_table *table, const fm_groups *groups);

#endif
