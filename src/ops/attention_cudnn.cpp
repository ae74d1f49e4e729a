/* cuDNN's fused attention through NVIDIA's cudnn-frontend, which is headers only. libcudnn.so.9 is opened when it is wanted: the module
 * does not link it. */
#include "ops/attention_cudnn.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <cudnn_frontend.h>

#include "tensor/cuda.h"

/* Where the frontend looks for cuDNN's functions: it wants a variable of this name. */
namespace cudnn_frontend {
void *cudnn_dlhandle = nullptr;
}

namespace {

namespace fe = cudnn_frontend;

/* 9.10 is the first whose supported shapes the frontend's checks describe without long lists of exceptions. */
enum { OLDEST_VERSION = 91000 };

enum { Q = 1, K, V, OUT, STATS, DOUT, DQ, DK, DV };

struct library {
    cudnnHandle_t handle = nullptr;

    ~library()
    {
        if (handle != nullptr) {
            fe::detail::destroy_handle(handle);
        }
    }
};

struct plan {
    fe::graph::Graph graph;
    bool backward;
};

/* ---- the library's files ---- */

void *open_file(void)
{
    void *handle = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
#ifdef FM_CUDNN_LIBDIR
    handle = handle != nullptr ? handle : dlopen(FM_CUDNN_LIBDIR "/libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
#endif
    return handle;
}

/* 0 where the library has no such function. */
size_t number_from(void *handle, const char *function)
{
    size_t (*const ask)(void) = reinterpret_cast<size_t (*)(void)>(dlsym(handle, function));
    return ask == nullptr ? 0 : ask();
}

/* Whether a file that cuDNN opens by itself is there: in one of the folders, or where the loader looks. */
bool is_there(const std::string &name, const std::vector<std::string> &folders)
{
    for (const std::string &folder : folders) {
        if (access((folder + "/" + name).c_str(), R_OK) == 0) {
            return true;
        }
    }
    return dlopen(name.c_str(), RTLD_LAZY | RTLD_LOCAL) != nullptr;
}

/* cuDNN ends the process where one of its other files is missing: so they are looked for before it does. */
int check_files(void *handle)
{
    static const char *const parts[] = { "graph", "heuristic", "engines_precompiled", "engines_runtime_compiled" };
    char origin[PATH_MAX] = "";
    if (dlinfo(handle, RTLD_DI_ORIGIN, origin) != 0) {
        origin[0] = '\0';
    }
    const std::string folder = origin, cuda = std::to_string(CUDART_VERSION / 1000), nvrtc = "libnvrtc.so." + cuda;
    for (const char *part : parts) {
        const std::string name = std::string("libcudnn_") + part + ".so.9";
        if (!is_there(name, { folder })) {
            return fm_fail(FM_ERR_DEVICE, "libcudnn.so.9 is in %s, but %s is missing: install all of cuDNN", origin, name.c_str());
        }
    }
    if (!is_there(nvrtc, { folder, folder + "/../../cu" + cuda + "/lib", folder + "/../../cuda_nvrtc/lib" })) {
        return fm_fail(FM_ERR_DEVICE, "%s was not found, which cuDNN needs: install NVRTC of this CUDA version", nvrtc.c_str());
    }
    return FM_OK;
}

int open_library(void)
{
    void *const handle = open_file();
    if (handle == nullptr) {
        return fm_fail(FM_ERR_DEVICE, "libcudnn.so.9 was not found");
    }
    const int version = (int)number_from(handle, "cudnnGetVersion"), cuda = (int)number_from(handle, "cudnnGetCudartVersion");
    if (version < OLDEST_VERSION) {
        return fm_fail(FM_ERR_DEVICE, "libcudnn.so.9 is version %d.%d: 9.10 or later is needed", version / 10000, version / 100 % 100);
    }
    if (cuda / 1000 != CUDART_VERSION / 1000) {
        return fm_fail(FM_ERR_DEVICE, "libcudnn.so.9 is for CUDA %d, and this finemesh for CUDA %d", cuda / 1000, CUDART_VERSION / 1000);
    }
    FM_TRY(check_files(handle));
    fe::cudnn_dlhandle = handle;
    return FM_OK;
}

int find_version(int *built, int *found)
{
    void *const handle = open_file();
    *built = CUDNN_VERSION;
    *found = handle == nullptr ? 0 : (int)number_from(handle, "cudnnGetVersion");
    return FM_OK;
}

/* ---- graphs ---- */

/* The first line says what, the others are every kernel's reasons. */
int refuse(fe::error_t error)
{
    const std::string said = error.get_message();
    return fm_fail(FM_ERR_UNSUPPORTED, "%s", said.substr(0, said.find('\n')).c_str());
}

/* What the body returns, or what an exception said. */
template <class F>
int guarded(F body)
{
    try {
        return (int)body();
    } catch (const std::exception &error) {
        return fm_fail(FM_ERR_UNSUPPORTED, "%s", error.what());
    }
}

std::shared_ptr<fe::graph::Tensor_attributes> declare(fe::graph::Graph &graph, int uid, const char *name, int heads, int64_t row,
                                                      int64_t ld, const fm_fused_shape *s)
{
    return graph.tensor(fe::graph::Tensor_attributes().set_uid(uid).set_name(name).set_dim({ s->B, heads, s->T, s->D })
                            .set_stride({ row * ld, s->D, ld, 1 }));
}

void define(const std::shared_ptr<fe::graph::Tensor_attributes> &result, int uid, int heads, int64_t row, int64_t ld,
            const fm_fused_shape *s)
{
    result->set_output(true).set_uid(uid).set_dim({ s->B, heads, s->T, s->D }).set_stride({ row * ld, s->D, ld, 1 });
}

/* Queries see no later key, and (left bound) a key where its place + window is greater than theirs. */
template <class Attributes>
Attributes mask(Attributes attributes, const fm_fused_shape *s)
{
    attributes.set_attn_scale(s->scale).set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
    if (s->window > 0) {
        attributes.set_diagonal_band_left_bound((int)s->window);
    }
    return attributes;
}

void describe_forward(fe::graph::Graph &graph, const fm_fused_shape *s)
{
    const auto q = declare(graph, Q, "q", s->H, s->q_row, s->ldq, s), k = declare(graph, K, "k", s->K, s->k_row, s->ldk, s);
    const auto v = declare(graph, V, "v", s->K, s->k_row, s->ldk, s);
    const auto results = graph.sdpa(q, k, v, mask(fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true), s));
    define(results[0], OUT, s->H, s->q_row, s->ldo, s);
    results[1]->set_output(true).set_uid(STATS).set_data_type(fe::DataType_t::FLOAT).set_dim({ s->B, s->H, s->T, 1 })
        .set_stride({ s->H * s->T, s->T, 1, 1 });
}

void describe_backward(fe::graph::Graph &graph, const fm_fused_shape *s)
{
    const auto q = declare(graph, Q, "q", s->H, s->q_row, s->ldq, s), k = declare(graph, K, "k", s->K, s->k_row, s->ldk, s);
    const auto v = declare(graph, V, "v", s->K, s->k_row, s->ldk, s), out = declare(graph, OUT, "out", s->H, s->q_row, s->ldo, s);
    const auto dout = declare(graph, DOUT, "dout", s->H, s->q_row, s->ldo, s);
    const auto stats = graph.tensor(fe::graph::Tensor_attributes().set_uid(STATS).set_name("stats").set_dim({ s->B, s->H, s->T, 1 })
                                        .set_stride({ s->H * s->T, s->T, 1, 1 }).set_data_type(fe::DataType_t::FLOAT));
    const auto results = graph.sdpa_backward(q, k, v, out, dout, stats,
                                             mask(fe::graph::SDPA_backward_attributes().set_name("attention_backward"), s));
    define(results[0], DQ, s->H, s->q_row, s->ldq, s);
    define(results[1], DK, s->K, s->k_row, s->ldk, s);
    define(results[2], DV, s->K, s->k_row, s->ldk, s);
}

void describe(fe::graph::Graph &graph, const fm_fused_shape *s)
{
    graph.set_io_data_type(s->dtype == FM_BF16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
    if (s->backward) {
        describe_backward(graph, s);
    } else {
        describe_forward(graph, s);
    }
}

/* ---- the table ---- */

void close_cudnn(void *state)
{
    delete static_cast<library *>(state);
}

int open_cudnn(void **out, fm_device *device)
{
    const fm_cuda *const cuda = fm_cuda_of(device);
    *out = nullptr;
    FM_TRY(open_library());
    return guarded([&]() -> int {
        std::unique_ptr<library> l(new library{});
        cudnnStatus_t status = fe::detail::create_handle(&l->handle);
        if (status == CUDNN_STATUS_SUCCESS) {
            status = fe::detail::set_stream(l->handle, cuda->stream);
        }
        if (status != CUDNN_STATUS_SUCCESS) {
            return fm_fail(FM_ERR_DEVICE, "cuDNN cannot be opened: status %d", (int)status);
        }
        *out = l.release();
        return FM_OK;
    });
}

void destroy_plan(void *state)
{
    delete static_cast<plan *>(state);
}

int new_plan(void **out, size_t *workspace_bytes, void *state, const fm_fused_shape *shape)
{
    library *const l = static_cast<library *>(state);
    *out = nullptr;
    return guarded([&]() -> int {
        std::unique_ptr<plan> p(new plan);
        int64_t bytes = 0;
        p->backward = shape->backward != 0;
        describe(p->graph, shape);
        fe::error_t error = p->graph.build(l->handle, { fe::HeurMode_t::A });
        if (error.is_bad()) {
            return refuse(error);
        }
        error = p->graph.get_workspace_size(bytes);
        if (error.is_bad()) {
            return refuse(error);
        }
        *workspace_bytes = (size_t)bytes;
        *out = p.release();
        return FM_OK;
    });
}

int run_plan(void *state, void *which, const fm_fused_arrays *a, void *workspace)
{
    library *const l = static_cast<library *>(state);
    plan *const p = static_cast<plan *>(which);
    return guarded([&]() -> int {
        std::unordered_map<int64_t, void *> at = {
            { Q, const_cast<void *>(a->q) }, { K, const_cast<void *>(a->k) }, { V, const_cast<void *>(a->v) }, { OUT, a->out },
            { STATS, a->stats },
        };
        if (p->backward) {
            at.insert({ { DOUT, const_cast<void *>(a->dout) }, { DQ, a->dq }, { DK, a->dk }, { DV, a->dv } });
        }
        fe::error_t error = p->graph.execute(l->handle, at, workspace);
        return error.is_good() ? FM_OK : fm_fail(FM_ERR_DEVICE, "cuDNN's attention failed: %s", error.get_message().c_str());
    });
}

}

extern const fm_fused_library fm_cudnn = { "cuDNN", find_version, open_cudnn, close_cudnn, new_plan, destroy_plan, run_plan };
