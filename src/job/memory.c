#include "job/memory.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t mem_available(void)
{
    FILE *const file = fopen("/proc/meminfo", "r");
    char line[256];
    long long kib = -1;
    while (file != NULL && kib < 0 && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "MemAvailable: %lld kB", &kib) != 1) {
            kib = -1;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kib < 0 ? INT64_MAX : kib * 1024;
}

/* A number in a file of its own; "max" and absence are no limit. */
static int64_t read_number(const char *path)
{
    FILE *const file = fopen(path, "r");
    long long value = -1;
    if (file != NULL) {
        if (fscanf(file, "%lld", &value) != 1) {
            value = -1;
        }
        fclose(file);
    }
    return value < 0 ? INT64_MAX : value;
}

/* A named number of the group's memory.stat; 0 where there is none. */
static int64_t read_stat(const char *path, const char *name)
{
    FILE *const file = fopen(path, "r");
    char line[256], key[64];
    long long value, found = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "%63s %lld", key, &value) == 2 && strcmp(key, name) == 0) {
            found = value;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* What is left under the limits of this process's cgroup (version 2) and of all above it, cached files counted as free. */
static int64_t cgroup_available(void)
{
    FILE *const file = fopen("/proc/self/cgroup", "r");
    char group[2048] = "";
    int64_t least = INT64_MAX;
    while (file != NULL && fgets(group, sizeof group, file) != NULL && strncmp(group, "0::", 3) != 0) {
        group[0] = '\0';
    }
    if (file != NULL) {
        fclose(file);
    }
    group[strcspn(group, "\n")] = '\0';
    for (char *end = group[0] == '\0' ? NULL : group + strlen(group); end != NULL; end = strrchr(group + 3, '/')) {
        char path[2304];
        *end = '\0';
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group + 3);
        const int64_t limit = read_number(path);
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", group + 3);
        int64_t used = read_number(path);
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", group + 3);
        if (limit != INT64_MAX && used != INT64_MAX) {
            used -= smaller(used, read_stat(path, "inactive_file"));       /* cached files give way */
            least = smaller(least, used < limit ? limit - used : 1);
        }
    }
    return least;
}

int64_t fm_memory_available_bytes(void)
{
    const int64_t available = smaller(mem_available(), cgroup_available());
    return available == INT64_MAX ? 0 : available;
}

static double mib(size_t bytes)
{
    return (double)bytes / (1 << 20);
}

int fm_memory_check(const size_t bytes[FM_MEMORY_KINDS], const fm_memory_room *room)
{
    char sum[512] = "";
    size_t all = 0, at = 0;
    for (int k = 0; k < FM_MEMORY_KINDS; k++) {
        all += bytes[k];
        if (bytes[k] > 0) {
            at += (size_t)snprintf(sum + at, sizeof sum - at, "%s%s %.1f", at > 0 ? " + " : "", fm_memory_name((enum fm_memory)k),
                                   mib(bytes[k]));
        }
    }
    fm_log_print("# memory of the largest rank, MiB: %s = %.1f\n", sum, mib(all));
    if (room->bytes > 0 && (int64_t)all > room->bytes / room->ranks) {
        return fm_fail(FM_ERR_JOB, "the run does not fit into memory: %s = %.1f MiB a rank, %d rank%s on this %s, %.1f MiB available. "
                       "Use more ranks (dp_size, tp_size), a smaller batch.local_batch_size or data.seq_length, "
                       "distributed.activation_checkpointing=full, or bfloat16.",
                       sum, mib(all), room->ranks, room->ranks == 1 ? "" : "s", room->place, mib((size_t)room->bytes));
    }
    return FM_OK;
}
