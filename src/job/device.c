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

/* The module, and how many devices this rank sees. */
static int find_gpus(const fm_cuda_module **module, int *count)
{
    *count = 0;
    FM_TRY(fm_cuda_module_open(module));
    FM_TRY((*module)->count(count));
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

static int open_gpu(fm_assembly *a, int count)
{
    const fm_cuda_options options = {
        .ordinal = a->rank_of_node % count, .deterministic = a->job.deterministic, .threads = choose_threads(a),
        .own_attention = a->job.device.own_attention,
    };
    FM_TRY(a->cuda->open(&a->device, &options));
    a->ranks_of_device = (a->ranks_of_node + count - 1) / count;
    return fm_compute_new(&a->compute, a->device, a->cuda->ops);
}

static int make_staged(fm_comm **out, void *context, fm_comm *host, enum fm_group which, int color, int key)
{
    (void)which, (void)color, (void)key;
    return fm_comm_new_staged(out, host, context);
}

/* Whether NCCL carries the groups: asked for, or there without being asked. */
static int choose_nccl(bool *out, const fm_assembly *a)
{
    int built = 0, found = 0;
    const fm_cuda_module *const m = a->cuda;
    *out = false;
    if (m->nccl_open != NULL) {
        FM_TRY(m->nccl_version(&built, &found));
    }
    if (found == 0 && a->job.distributed.backend == FM_BACKEND_NCCL) {
        return fm_fail(FM_ERR_JOB, "[distributed] backend=nccl: %s. Choose backend=mpi (slower: through the host's memory), or %s",
                       built == 0 ? "this finemesh was built without NCCL" : "libnccl.so.2 was not found",
                       built == 0 ? "configure --with-nccl" : "install NCCL");
    }
    *out = found > 0 && a->job.distributed.backend != FM_BACKEND_MPI;
    return FM_OK;
}

static int connect_gpus(fm_assembly *a)
{
    fm_comm *const world = a->launch->world;
    bool nccl;
    if (a->launch->n_ranks == 1) {
        return FM_OK;
    }
    FM_TRY(fm_comm_agree(world, choose_nccl(&nccl, a)));
    int32_t all = nccl;                /* ranks may stand on machines of different kinds */
    FM_TRY(fm_comm_all_reduce(world, &all, 1, FM_I32, FM_MIN));
    if (all == 0) {
        fm_log_print("# between GPUs: MPI, through the host's memory\n");
        return fm_groups_open_device(a->groups, make_staged, a->device);
    }
    a->ranks_of_device = 1;            /* two on one are refused */
    FM_TRY(a->cuda->nccl_open(&a->nccl, world, a->device));
    fm_log_print("# between GPUs: NCCL\n");
    return fm_groups_open_device(a->groups, a->cuda->nccl_make, a->nccl);
}

int fm_assemble_device(fm_assembly *a)
{
    fm_comm *const world = a->launch->world;
    const int type = a->job.device.type;
    int count = 0, rc = FM_OK;
    int32_t has_gpu = 0;
    a->ranks_of_device = a->ranks_of_node;
    if (type != FM_DEVICE_TYPE_CPU) {
        rc = find_gpus(&a->cuda, &count);
        has_gpu = rc == FM_OK;
        rc = type == FM_DEVICE_TYPE_AUTO ? FM_OK : rc;
    }
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_all_reduce(world, &has_gpu, 1, FM_I32, FM_MIN));
    FM_TRY(fm_comm_agree(world, has_gpu ? open_gpu(a, count) : open_cpu(a)));
    if (!has_gpu && a->job.distributed.backend == FM_BACKEND_NCCL) {
        return fm_fail(FM_ERR_JOB, "[distributed] backend=nccl is for GPUs, and the device of this job is the CPU: choose "
                       "device.type=cuda, or backend=mpi");
    }
    return has_gpu ? fm_comm_agree(world, connect_gpus(a)) : FM_OK;
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
    } else if (module->nccl_version(&built, &found) < 0 || found == 0) {
        fm_log_print("NCCL %d.%d: built, not usable: libnccl.so.2 was not found\n", built / 10000, built % 10000 / 100);
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
