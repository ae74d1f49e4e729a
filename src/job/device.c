#include "job/device.h"

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include "base/log.h"
#include "job/slurm.h"
#include "mesh/comm_staged.h"

/* OpenMP threads of this rank: what the job says, else its share of the cores that Slurm gave to the job here, else of those that the
 * process may use. A launcher that binds ranks to cores has shared them already. */
static int choose_threads(const fm_assembly *a)
{
    if (a->job.device.threads > 0) {
        return a->job.device.threads;
    }
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t allowed;
    const int usable = sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : (int)online;
    const int given = fm_slurm_cores_of_node();
    int threads = usable < online ? usable : usable / a->ranks_of_node;
    if (given > 0 && given / a->ranks_of_node < usable) {
        threads = given / a->ranks_of_node;
    }
    return threads > 0 ? threads : 1;
}

/* The module, and how many devices this rank sees. *is_broken: both a module and a driver are there, and they do not work. */
static int find_gpus(const fm_cuda_module **module, int *count, bool *is_broken)
{
    *count = 0;
    *is_broken = fm_cuda_module_is_built(NULL) && fm_cuda_module_has_driver();
    FM_TRY(fm_cuda_module_open(module));
    const int rc = (*module)->count(count);
    *is_broken = rc < 0 && rc != FM_ERR_UNSUPPORTED;
    FM_TRY(rc);
    if (*count == 0) {
        return fm_fail(FM_ERR_DEVICE, "no GPU is visible to this rank: does the machine have one, was one asked for (--gpus-per-node), and "
                       "what is CUDA_VISIBLE_DEVICES?");
    }
    return FM_OK;
}

static int open_cpu(fm_assembly *a)
{
    FM_TRY(fm_device_open_cpu(&a->device, choose_threads(a)));
    return fm_compute_new(&a->compute, a->device, NULL);
}

static void tell(const char *line)
{
    fm_log_print("# %s\n", line);
}

static void say(const fm_assembly *a, const char *line)
{
    if (a->tells == FM_TELL_ALL) {
        tell(line);
    }
}

static int open_gpu(fm_assembly *a, int ordinal)
{
    const fm_cuda_options options = {
        .ordinal = ordinal, .deterministic = a->job.deterministic, .threads = choose_threads(a),
        .own_attention = a->job.device.own_attention, .tell = a->tells == FM_TELL_ALL ? tell : NULL,
    };
    FM_TRY(a->cuda->open(&a->device, &options));
    return fm_compute_new(&a->compute, a->device, a->cuda->ops);
}

static int make_staged(fm_comm **out, void *context, fm_comm *host, enum fm_group which, int color, int key)
{
    (void)which, (void)color, (void)key;
    return fm_comm_new_staged(out, host, context);
}

/* Whether NCCL carries the groups: asked for, or there without being asked; `why` not, where that was not the job's wish. */
static int choose_nccl(bool *out, char *why, size_t why_bytes, const fm_assembly *a)
{
    int built, found;
    const fm_cuda_module *const m = a->cuda;
    const bool is_built = m->nccl_open != NULL;
    *out = false;
    *why = '\0';
    if (a->job.distributed.backend == FM_BACKEND_MPI) {
        return FM_OK;
    }
    *out = is_built && m->nccl_version(&built, &found) == FM_OK;
    if (!*out) {
        snprintf(why, why_bytes, "%s", is_built ? fm_error_message() : "this finemesh was built without NCCL");
    }
    if (!*out && a->job.distributed.backend == FM_BACKEND_NCCL) {
        return fm_fail(FM_ERR_JOB, "[distributed] backend=nccl: %s. Choose backend=mpi (slower: through the host's memory), or %s", why,
                       is_built ? "install an NCCL that can be used (libnccl2)" : "configure --with-nccl");
    }
    return FM_OK;
}

static int connect_gpus(fm_assembly *a, int ordinal)
{
    fm_comm *const world = a->launch->world;
    bool nccl;
    char why[512], line[640];
    a->ranks_of_device = 1;
    if (a->launch->n_ranks == 1) {
        return FM_OK;
    }
    FM_TRY(fm_comm_agree(world, choose_nccl(&nccl, why, sizeof why, a)));
    int32_t all = nccl;                /* ranks may stand on machines of different kinds */
    FM_TRY(fm_comm_all_reduce(world, &all, 1, FM_I32, FM_MIN));
    if (all == 0) {
        FM_TRY(a->cuda->ranks_of_gpu(&a->ranks_of_device, world, ordinal));
        snprintf(line, sizeof line, "between GPUs: MPI, through the host's memory%s%s", *why != '\0' ? ", as " : "", why);
        say(a, line);
        return fm_groups_open_device(a->groups, make_staged, a->device);
    }
    FM_TRY(a->cuda->nccl_open(&a->nccl, world, a->device));   /* two ranks on one GPU are refused */
    say(a, "between GPUs: NCCL");
    return fm_groups_open_device(a->groups, a->cuda->nccl_make, a->nccl);
}

int fm_assemble_device(fm_assembly *a)
{
    fm_comm *const world = a->launch->world;
    const int type = a->job.device.type;
    int count = 0, rc = FM_OK;
    int32_t has_gpu = 0;
    bool is_broken = false;
    a->ranks_of_device = a->ranks_of_node;
    if (type != FM_DEVICE_TYPE_CPU) {
        rc = find_gpus(&a->cuda, &count, &is_broken);
        has_gpu = rc == FM_OK;
    }
    if (type == FM_DEVICE_TYPE_AUTO) {
        if (fm_comm_agree(world, is_broken ? rc : FM_OK) < 0 && a->tells != FM_TELL_NOTHING) {
            fm_log_warning("device.type=auto: the CPU computes, as %s", fm_error_message());
        }
        rc = FM_OK;
    }
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_all_reduce(world, &has_gpu, 1, FM_I32, FM_MIN));
    const int ordinal = has_gpu ? a->rank_of_node % count : 0;
    FM_TRY(fm_comm_agree(world, has_gpu ? open_gpu(a, ordinal) : open_cpu(a)));
    if (!has_gpu && a->job.distributed.backend == FM_BACKEND_NCCL) {
        return fm_fail(FM_ERR_JOB, "[distributed] backend=nccl is for GPUs, and the device of this job is the CPU: choose "
                       "device.type=cuda, or backend=mpi");
    }
    return has_gpu ? fm_comm_agree(world, connect_gpus(a, ordinal)) : FM_OK;
}

void fm_assembly_close_device(fm_assembly *a)
{
    fm_compute_destroy(a->compute);
    fm_groups_destroy(a->groups);
    if (a->nccl != NULL) {
        a->cuda->nccl_close(a->nccl);
    }
    fm_device_close(a->device);
    a->compute = NULL;
    a->groups = NULL;
    a->nccl = NULL;
    a->device = NULL;
}

void fm_print_gpu_version(void)
{
    const fm_cuda_module *module;
    int count = 0, built = 0, found = 0;
    char text[512] = "";
    if (!fm_cuda_module_is_built(NULL)) {
        fm_log_print("CUDA: not built\nNCCL: not built\ncuDNN: not built\n");
        return;
    }
    if (fm_cuda_module_open(&module) < 0) {
        fm_log_print("CUDA: built, not usable: %s\nNCCL: not usable without CUDA\ncuDNN: not usable without CUDA\n", fm_error_message());
        return;
    }
    fm_log_print("CUDA %d.%d: built, ", module->toolkit / 1000, module->toolkit % 1000 / 10);
    if (module->count(&count) < 0 || (count > 0 && module->describe(text, sizeof text, 0) < 0)) {
        fm_log_print("not usable: %s\n", fm_error_message());
    } else if (count == 0) {
        fm_log_print("not usable: driver found, no GPU visible\n");
    } else {
        fm_log_print("usable: driver found, %d x %s\n", count, text);
    }
    if (module->nccl_open == NULL) {
        fm_log_print("NCCL: not built\n");
    } else if (module->nccl_version(&built, &found) < 0) {
        fm_log_print("NCCL %d.%d: built, not usable: %s\n", built / 10000, built % 10000 / 100, fm_error_message());
    } else {
        fm_log_print("NCCL %d.%d: built, usable: %d.%d found\n", built / 10000, built % 10000 / 100, found / 10000, found % 10000 / 100);
    }
    if (module->cudnn_version == NULL) {
        fm_log_print("cuDNN: not built\n");
    } else if (module->cudnn_version(&built, &found) < 0 || found == 0) {
        fm_log_print("cuDNN %d.%d: built, not usable: libcudnn.so.9 was not found\n", built / 10000, built / 100 % 100);
    } else {
        fm_log_print("cuDNN %d.%d: built, usable: %d.%d found\n", built / 10000, built / 100 % 100, found / 10000, found / 100 % 100);
    }
}
