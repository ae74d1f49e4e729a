/* The graphs of src/ops/attention_cudnn.cpp before cuDNN itself, without a GPU: the shapes that attention_fused_cuda.c gives it must
 * pass cuDNN's checks for three generations of GPUs, and where there is a driver (a GPU is not needed) it must have kernels for them;
 * shapes that are not given must be refused. A line a graph. Exit status 0, 1, or 77 where there is no usable libcudnn.so.9. */
#include "ops/attention_cudnn.cpp"

#include <cstdio>

namespace {

struct sample {
    const char *what;
    bool good;
    int capability, B, H, K, D;
    int64_t T, window;
    int gap;                           /* bytes between tokens that are not q, k and v */
};

const sample samples[] = {
    { "Llama-3.2-1B", true, 80, 4, 32, 8, 64, 4096, 0, 0 },
    { "Llama-3.2-1B", true, 90, 4, 32, 8, 64, 4096, 0, 0 },
    { "Llama-3.2-1B", true, 100, 4, 32, 8, 64, 4096, 0, 0 },
    { "Llama-3.1-8B", true, 90, 1, 32, 8, 128, 4096, 0, 0 },
    { "every head its own keys", true, 90, 2, 9, 9, 64, 2048, 0, 0 },
    { "an odd number of tokens", true, 90, 1, 9, 3, 64, 1237, 0, 0 },
    { "a window", true, 80, 1, 32, 8, 128, 4096, 1024, 0 },
    { "a window", true, 90, 1, 32, 8, 128, 4096, 1024, 0 },
    { "a window", true, 100, 1, 32, 8, 128, 4096, 1024, 0 },
    { "a window of one", true, 90, 1, 2, 1, 64, 300, 1, 0 },
    { "gaps between tokens", true, 90, 2, 8, 4, 96, 512, 0, 16 },
    { "width 8", true, 90, 2, 4, 2, 8, 256, 0, 0 },
    { "width 12", false, 90, 2, 4, 2, 12, 256, 0, 0 },
    { "groups that do not divide", false, 90, 2, 5, 2, 64, 256, 0, 0 },
};

/* A GPU as cuDNN describes one to itself, about an A100 or an H100 in what matters to the choice of kernels. */
std::shared_ptr<fe::DeviceProperties> device_of(int capability)
{
    const bool is_ampere = capability == 80;
    const std::string text = "{\"maxGridSize\": [2147483647, 65535, 65535], \"maxBlockSize\": [1024, 1024, 64], \"regsPerBlock\": 65536, "
                             "\"multiProcessorCount\": " + std::to_string(is_ampere ? 108 : 132) + ", \"warpSize\": 32, "
                             "\"maxSharedMemoryPerBlock\": 49152, \"maxSharedMemoryPerBlockOptin\": "
                             + std::to_string(is_ampere ? 166912 : 232448) + ", \"reservedSharedMemoryPerBlock\": 1024, "
                             "\"maxRegistersPerSM\": 65536, \"maxCtasPerSM\": 32, \"maxThreadsPerBlock\": 1024, "
                             "\"maxThreadsPerSM\": 2048, \"pciDeviceId\": 0, \"isTccDriver\": 0, \"supportCoopLaunch\": 1, "
                             "\"smClockRateKHz\": 1500000, \"memClockRateKHz\": 2000000, \"l2CacheSize\": 41943040, "
                             "\"deviceName\": \"GPU\", \"deviceVer\": " + std::to_string(capability * 10) + ", \"driverVer\": 13000, "
                             "\"totalGlobalMem\": 80000000000, \"cudaDeviceId\": 0}";
    auto device = std::make_shared<fe::DeviceProperties>();
    const fe::error_t error = device->deserialize(std::vector<uint8_t>(text.begin(), text.end()));
    return error.is_good() ? device : nullptr;
}

/* Whether cuDNN takes a graph: by its rules, or (engines) by what it finds for it. */
fe::error_t try_graph(fe::graph::Graph &graph, bool engines)
{
    fe::error_t error = graph.validate();
    if (engines && error.is_good()) {
        error = graph.build_operation_graph();
        error = error.is_good() ? graph.create_execution_plans({ fe::HeurMode_t::A }) : error;
        error = error.is_good() ? graph.check_support() : error;
    }
    return error;
}

int check_one(const sample &c, int dtype, int backward, bool engines)
{
    const int64_t q = (int64_t)c.H * c.D, row = q + 2 * (int64_t)c.K * c.D + c.gap / 2;
    const fm_fused_shape shape = { dtype, backward, c.B, c.H, c.K, c.D, c.T, c.T, c.T, row, row, q, c.window, 0.125f, 0 };
    std::string said;
    const int rc = guarded([&]() -> int {
        fe::graph::Graph graph;
        graph.set_sm_version(c.capability);
        if (engines) {
            graph.set_device_properties(device_of(c.capability));
        }
        describe(graph, &shape);
        fe::error_t error = try_graph(graph, engines);
        said = error.get_message().substr(0, error.get_message().find('\n'));
        return error.is_good() ? FM_OK : FM_ERR_UNSUPPORTED;
    });
    const bool as_expected = (rc == FM_OK) == c.good;
    std::printf("%-4s sm_%-3d %-4s %-8s %d x %5lld  %2d/%-2d of %-3d window %4lld  %s%s%s\n", as_expected ? "ok" : "BAD",
                c.capability, dtype == FM_BF16 ? "bf16" : "fp16", backward ? "backward" : "forward", c.B, (long long)c.T, c.H, c.K, c.D,
                (long long)c.window, c.what, said.empty() ? "" : ": ", said.c_str());
    return !as_expected;
}

}

int main()
{
    if (open_library() < 0) {
        std::printf("%s\n", fm_error_message());
        return 77;
    }
    const bool engines = dlopen("libcuda.so.1", RTLD_NOW) != nullptr;
    std::printf("cuDNN %d, frontend %d, %s\n", (int)number_from(fe::cudnn_dlhandle, "cudnnGetVersion"), CUDNN_FRONTEND_VERSION,
                engines ? "rules and kernels" : "rules alone: there is no driver");
    int wrong = 0;
    for (const sample &c : samples) {
        for (int variant = 0; variant < 4; variant++) {
            wrong += check_one(c, variant / 2 == 0 ? FM_BF16 : FM_F16, variant % 2, engines);
        }
    }
    std::printf("%d wrong\n", wrong);
    return wrong > 0;
}
