#include "job/cmd_reshard.h"

#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/convert.h"
#include "ckpt/shard_scan.h"
#include "job/effective.h"
#include "job/placing.h"

/* The names that an explicit mesh of the set's job goes by: they give way to the sizes. */
static const char *const no_mesh[] = {
    "device_mesh.pp=", "device_mesh.dp_replicate=", "device_mesh.dp_shard=", "device_mesh.cp=", "device_mesh.tp=",
};
enum { N_NO_MESH = sizeof no_mesh / sizeof no_mesh[0], DP_REPLICATE = 3, DP = 4 };

typedef struct {
    fm_placing placing;
    char *set, *out, *model;           /* model: an HF directory, NULL: what the set says */
} arguments;

/* What rank 0 finds in the set. */
typedef struct {
    uint8_t has_job, has_config;
} contents;

static int parse_arguments(arguments *a, int argc, char **argv)
{
    static const char usage[] = "finemesh reshard SET --tp-size N ... -o DIR";
    *a = (arguments){ .placing = fm_placing_default() };
    for (int i = 0; i < argc; i++) {
        bool known = true;
        if (strcmp(argv[i], "-o") == 0 || strcmp(argv[i], "--model-name") == 0) {
            *(argv[i][1] == 'o' ? &a->out : &a->model) = i + 1 < argc ? argv[i + 1] : NULL;
            if (++i == argc) {
                return fm_fail(FM_ERR_JOB, "%s: a directory was expected after %s", usage, argv[i - 1]);
            }
        } else if (argv[i][0] == '-') {
            FM_TRY(fm_placing_size_option(&a->placing, &known, &i, argc, argv));
        } else if (a->set != NULL) {
            return fm_fail(FM_ERR_JOB, "%s: \"%s\" is one directory too many", usage, argv[i]);
        } else {
            a->set = argv[i];
        }
        if (!known) {
            return fm_fail(FM_ERR_JOB, "finemesh reshard knows no option %s; there are SET, -o DIR, %s, --model-name MODEL",
                           argv[i], fm_placing_size_list());
        }
    }
    if (a->set == NULL || a->out == NULL) {
        return fm_fail(FM_ERR_JOB, "%s: %s was expected", usage, a->set == NULL ? "a shard set or checkpoint" : "-o DIR");
    }
    if (a->placing.size[DP] == 0) {    /* the new mesh has nothing to do with the ranks that make it */
        a->placing.size[DP] = a->placing.size[DP_REPLICATE];
    }
    return FM_OK;
}

static bool is_same(const char *left, const char *right)
{
    struct stat a, b;
    return stat(left, &a) == 0 && stat(right, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Nothing is written over, and nothing into a checkpoint. */
static int check_target(const arguments *args)
{
    char parent[FM_PATH_BYTES];
    if (is_same(args->set, args->out)) {
        return fm_fail(FM_ERR_JOB, "%s is the set that would be read: choose another directory", args->out);
    }
    if (fm_path_exists(args->out)) {
        return fm_fail(FM_ERR_JOB, "%s: it is there already: remove it or choose another name", args->out);
    }
    FM_TRY(fm_path_join(parent, "", args->out));
    char *end = parent + strlen(parent);
    while (end > parent && end[-1] == '/') {
        end--;
    }
    while (end > parent && end[-1] != '/') {
        end--;
    }
    *end = '\0';
    if (is_same(args->set, parent[0] == '\0' ? "." : parent)) {
        return fm_fail(FM_ERR_JOB, "%s lies in %s, which must stay as it is: choose another directory", args->out, args->set);
    }
    return FM_OK;
}

/* Rank 0, before anything is read. */
static int look(contents *found, const arguments *args)
{
    char path[FM_PATH_BYTES];
    if (!fm_shards_is_set(args->set)) {
        return fm_fail(FM_ERR_JOB, "%s: it has no manifest.json: no shard set and no checkpoint (finemesh convert makes a set "
                       "of a Hugging Face directory)", args->set);
    }
    FM_TRY(check_target(args));
    FM_TRY(fm_path_join(path, args->set, "job.ini"));
    found->has_job = fm_path_exists(path);
    FM_TRY(fm_path_join(path, args->set, "config.json"));
    found->has_config = fm_path_exists(path);
    if (!found->has_job && !found->has_config && args->model == NULL) {
        return fm_fail(FM_ERR_JOB, "%s: it has neither config.json nor job.ini, which say what model it is: add --model-name "
                       "MODEL", args->set);
    }
    return FM_OK;
}

/* The set's own job, or an empty one, with the new sizes. */
static int make_job(fm_assembly *a, const fm_launch *launch, const arguments *args, const contents *found)
{
    enum { N = 1 + FM_PLACING_SIZES + N_NO_MESH };
    char sizes[FM_PLACING_SIZES][FM_PLACING_OVERRIDE_BYTES], path[FM_PATH_BYTES];
    char *list[N];
    FM_TRY(fm_path_join(path, args->set, "job.ini"));
    fm_placing_print_sizes(sizes, &args->placing);
    list[0] = path;
    for (int i = 0; i < FM_PLACING_SIZES; i++) {
        list[1 + i] = sizes[i];
    }
    for (int i = 0; i < N_NO_MESH; i++) {
        list[1 + FM_PLACING_SIZES + i] = (char *)no_mesh[i];
    }
    return found->has_job ? fm_assemble_job(a, launch, N, list, false)
                          : fm_assemble_text(a, launch, "", "finemesh reshard", (const char *const *)list + 1, N - 1, false);
}

static int write_set(fm_convert_report *report, fm_assembly *a, const arguments *args, const contents *found)
{
    const fm_layout layout = fm_assembly_layout(a);
    fm_comm *const tp = a->groups == NULL ? NULL : fm_groups_get(a->groups, FM_GROUP_TP);
    fm_small_file job = { .name = "job.ini" };
    char *text = NULL;
    int rc = found->has_job ? fm_job_write(&text, &job.size_bytes, &a->job) : FM_OK;
    job.data = text;
    rc = fm_comm_agree(a->launch->world, rc);
    if (rc == FM_OK) {
        rc = fm_reshard(report, args->out, args->set, &layout, &job, found->has_job, a->launch->world, tp);
    }
    fm_free(text);
    return rc;
}

static int reshard(fm_assembly *a, const fm_launch *launch, const arguments *args)
{
    contents found = { 0, 0 };
    fm_convert_report report;
    char mesh[128];
    FM_TRY(fm_comm_agree(launch->world, launch->rank == 0 ? look(&found, args) : FM_OK));
    FM_TRY(fm_comm_broadcast(launch->world, &found, sizeof found, FM_U8, 0));
    FM_TRY(make_job(a, launch, args, &found));
    FM_TRY(fm_assemble_shape(a, true));
    FM_TRY(fm_assemble_config_of(a, args->model != NULL ? args->model : found.has_config ? args->set : a->job.model.path));
    if (fm_mesh_ranks(&a->mesh) == launch->n_ranks) {
        FM_TRY(fm_assemble_mesh(a));
    }
    fm_mesh_print(mesh, sizeof mesh, &a->mesh);
    FM_TRY(write_set(&report, a, args, &found));
    fm_log_print("# %s: mesh %s, %.1f MiB\n", args->out, mesh, (double)report.bytes_written / (1 << 20));
    return FM_OK;
}

int fm_cmd_reshard(const fm_launch *launch, int argc, char **argv, bool *started)
{
    (void)started;
    fm_assembly a = { .launch = NULL };
    arguments args;
    FM_TRY(parse_arguments(&args, argc, argv));
    const int rc = reshard(&a, launch, &args);
    fm_assembly_clear(&a);
    return rc;
}
