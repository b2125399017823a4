// A stand-in for NVIDIA's driver library: the calls that src/cuda makes, over the emulated kernels. With it the whole
// CUDA backend runs where there is no GPU (tests/cuda_device.rs), but for the compiled code in prebuilt/, which it
// does not execute: a kernel is found by its name.
//
//   c++ -x c++ -std=c++17 -O2 -shared -fPIC -include cuda_host.h driver.cpp -o libcuda.so
#include <map>
#include <mutex>
#include <string>

#include "../attend.cu"
#include "../attend_many.cu"
#include "../embed.cu"
#include "../expand.cu"
#include "../matmul.cu"
#include "../matmul_k.cu"
#include "../matmul_more.cu"
#include "../matvec.cu"
#include "../matvec_float.cu"
#include "../matvec_k.cu"
#include "../matvec_more.cu"
#include "../quantize.cu"
#include "../rope.cu"
#include "../likeliest.cu"
#include "../rows.cu"
#include "../shrink_many.cu"

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
typedef void* Handle;  // contexts, modules, streams and events: nothing but an address that is not null

namespace {

constexpr CUresult SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900;
char handle;  // what every Handle points to

struct Kernel {
    void (*run)(dim3 grid, dim3 block, const void* args);
    size_t args_bytes;
};

// A launch, with the arguments as they were.
struct Launch {
    const Kernel* kernel;
    dim3 grid, block;
    std::vector<char> args;

    void run() const { kernel->run(grid, block, args.data()); }
};
typedef std::vector<Launch> Graph;

// While a stream captures, what its thread launches goes here: a thread uses one stream.
thread_local Graph* captured = nullptr;
// The emulation runs one kernel at a time.
std::mutex running;

template <class Args, void (*KERNEL)(Args)>
void launcher(dim3 grid, dim3 block, const void* args) {
    Args copy;
    memcpy(&copy, args, sizeof copy);
    cuemu::launch(KERNEL, grid, block, copy);
}

#define KERNEL(args, name) {#name, {launcher<args, name>, sizeof(args)}}
#define TYPE(type)                                                                                                \
    KERNEL(EmbedArgs, embed_##type), KERNEL(MatvecArgs, matvec_##type##_r1_o1),                                   \
        KERNEL(MatvecArgs, matvec_##type##_r1_o2), KERNEL(MatvecArgs, matvec_##type##_r1_o4),                     \
        KERNEL(MatvecArgs, matvec_##type##_r2_o1), KERNEL(MatvecArgs, matvec_##type##_r2_o2),                     \
        KERNEL(MatvecArgs, matvec_##type##_r4_o2), KERNEL(MatvecArgs, matvec_##type##_r8_o2)
#define MATMULS_OF(type)                                                                                          \
    KERNEL(MatmulArgs, matmul_##type##_r32), KERNEL(MatmulArgs, matmul_##type##_r64),                             \
        KERNEL(MatmulArgs, matmul_##type##_r128)
#define ROWS_OF(args, name)                                                                                      \
    KERNEL(args, name##_r1), KERNEL(args, name##_r2), KERNEL(args, name##_r4), KERNEL(args, name##_r8)
#define ATTENDS_OF(type)                                                                                          \
    KERNEL(AttendArgs, attend_d64_##type), KERNEL(AttendArgs, attend_d96_##type),                                 \
        KERNEL(AttendArgs, attend_d128_##type), KERNEL(AttendArgs, attend_d256_##type)

const std::map<std::string, Kernel> KERNELS = {
    TYPE(q8_0),
    TYPE(q4_0),
    TYPE(q4_1),
    TYPE(q2_K),
    TYPE(q3_K),
    TYPE(q4_K),
    TYPE(q5_K),
    TYPE(q6_K),
    TYPE(q5_0),
    TYPE(q5_1),
    TYPE(iq4_nl),
    TYPE(iq4_xs),
    TYPE(mxfp4),
    TYPE(f16),
    TYPE(bf16),
    TYPE(f32),
    MATMULS_OF(q8_0),
    MATMULS_OF(q4_0),
    MATMULS_OF(q4_1),
    MATMULS_OF(q2_K),
    MATMULS_OF(q3_K),
    MATMULS_OF(q4_K),
    MATMULS_OF(q5_K),
    MATMULS_OF(q6_K),
    MATMULS_OF(q5_0),
    MATMULS_OF(q5_1),
    MATMULS_OF(iq4_nl),
    MATMULS_OF(iq4_xs),
    MATMULS_OF(mxfp4),
    KERNEL(ShrinkManyArgs, shrink_many),
    ROWS_OF(ResidualArgs, residual),
    ROWS_OF(ResidualArgs, settle),
    KERNEL(QuantizeArgs, quantize_rows),
    ROWS_OF(GatedArgs, quantize_gated),
    ROWS_OF(RopeStoreArgs, rope_store),
    KERNEL(GatherArgs, gather_rows),
    KERNEL(LikeliestArgs, likeliest_logits),
    KERNEL(LikeliestArgs, likeliest_keys),
    ATTENDS_OF(f32),
    ATTENDS_OF(f16),
    ATTENDS_OF(q8_0),
    KERNEL(AttendArgs, attend_d80_f32),
    KERNEL(AttendArgs, attend_d80_f16),
    KERNEL(AttendManyArgs, attend_many_d64),
    KERNEL(AttendManyArgs, attend_many_d80),
    KERNEL(AttendManyArgs, attend_many_d96),
    KERNEL(AttendManyArgs, attend_many_d128),
    KERNEL(AttendManyArgs, attend_many_d256),
};

void* at(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

// Memory starts as 0xff, a NaN as a float: a read of what nothing wrote shows.
CUresult allocate(CUdeviceptr* p, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (captured) return CAPTURE_UNSUPPORTED;
    void* memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return OUT_OF_MEMORY;
    memset(memory, 0xff, bytes);
    *p = reinterpret_cast<CUdeviceptr>(memory);
    return SUCCESS;
}

CUresult make(Handle* h) {
    *h = &handle;
    return SUCCESS;
}

// A copy now; none belongs to a step that is recorded.
CUresult copy(void* to, const void* from, size_t bytes) {
    if (captured) return CAPTURE_UNSUPPORTED;
    memcpy(to, from, bytes);
    return SUCCESS;
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned) { return SUCCESS; }

CUresult cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal == 0 ? SUCCESS : 101;
}

CUresult cuDeviceGetName(char* name, int length, int) {
    snprintf(name, static_cast<size_t>(length), "emulated device");
    return SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, int attribute, int) {
    enum { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, MEMORY_POOLS = 115 };
    *value = attribute == MULTIPROCESSORS ? 2 : attribute == MAJOR ? 9 : attribute == MEMORY_POOLS ? 1 : 0;
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(Handle* context, int) { return make(context); }
CUresult cuDevicePrimaryCtxRelease(int) { return SUCCESS; }
CUresult cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
CUresult cuCtxSetCurrent(Handle) { return SUCCESS; }
CUresult cuCtxGetCurrent(Handle* context) { return make(context); }
CUresult cuCtxSynchronize() { return SUCCESS; }
CUresult cuStreamCreate(Handle* stream, unsigned) { return make(stream); }
CUresult cuStreamDestroy_v2(Handle) { return SUCCESS; }
CUresult cuStreamSynchronize(Handle) { return SUCCESS; }
CUresult cuStreamWaitEvent(Handle, Handle, unsigned) { return SUCCESS; }
CUresult cuEventCreate(Handle* event, unsigned) { return make(event); }
CUresult cuEventRecord(Handle, Handle) { return SUCCESS; }
CUresult cuEventSynchronize(Handle) { return SUCCESS; }
CUresult cuEventDestroy_v2(Handle) { return SUCCESS; }

CUresult cuMemAllocAsync(CUdeviceptr* p, size_t bytes, Handle) { return allocate(p, bytes); }

CUresult cuMemFreeAsync(CUdeviceptr p, Handle) {
    free(at(p));
    return SUCCESS;
}

CUresult cuMemHostAlloc(void** p, size_t bytes, unsigned) { return allocate(reinterpret_cast<CUdeviceptr*>(p), bytes); }

CUresult cuMemFreeHost(void* p) {
    free(p);
    return SUCCESS;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, Handle) {
    return copy(at(to), from, bytes);
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, Handle) { return copy(to, at(from), bytes); }

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, Handle) {
    return copy(at(to), at(from), bytes);
}

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    *free = size_t(3) << 30;
    *total = size_t(4) << 30;
    return SUCCESS;
}

CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char value, size_t bytes, Handle) {
    memset(at(p), value, bytes);
    return SUCCESS;
}

// Takes machine code of an ELF file alone, as a device whose capability it was built for would.
CUresult cuModuleLoadData(Handle* module, const void* image) {
    return memcmp(image, "\x7f" "ELF", 4) == 0 ? make(module) : INVALID_VALUE;
}

CUresult cuModuleUnload(Handle) { return SUCCESS; }

CUresult cuModuleGetFunction(Handle* function, Handle, const char* name) {
    auto found = KERNELS.find(name);
    if (found == KERNELS.end()) return NOT_FOUND;
    *function = const_cast<Kernel*>(&found->second);
    return SUCCESS;
}

// CUlaunchConfig of the driver's interface. The one attribute in use lets a kernel start early; here none does.
struct Config {
    unsigned grid[3], block[3], shared_bytes;
    Handle stream;
    void* attributes;
    unsigned n_attributes;
};

CUresult cuLaunchKernelEx(const Config* config, Handle function, void** args, void**) {
    std::lock_guard<std::mutex> guard(running);
    const unsigned *g = config->grid, *b = config->block;
    if (g[0] == 0 || g[1] == 0 || g[2] == 0 || g[1] > 65535 || config->shared_bytes) return INVALID_VALUE;
    const Kernel* kernel = static_cast<const Kernel*>(function);
    const char* from = static_cast<const char*>(args[0]);
    const Launch launch{kernel, dim3(g[0], g[1], g[2]), dim3(b[0], b[1], b[2]), {from, from + kernel->args_bytes}};
    if (captured) captured->push_back(launch);
    else launch.run();
    return SUCCESS;
}

CUresult cuStreamBeginCapture_v2(Handle, int) {
    if (captured) return INVALID_VALUE;
    captured = new Graph;
    return SUCCESS;
}

CUresult cuStreamEndCapture(Handle, Handle* graph) {
    if (!captured) return INVALID_VALUE;
    *graph = captured;
    captured = nullptr;
    return SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(Handle* executable, Handle graph, unsigned long long) {
    *executable = new Graph(*static_cast<Graph*>(graph));
    return SUCCESS;
}

CUresult cuGraphLaunch(Handle executable, Handle) {
    if (captured) return CAPTURE_UNSUPPORTED;
    std::lock_guard<std::mutex> guard(running);
    for (const Launch& launch : *static_cast<Graph*>(executable)) launch.run();
    return SUCCESS;
}

CUresult cuGraphDestroy(Handle graph) {
    delete static_cast<Graph*>(graph);
    return SUCCESS;
}

CUresult cuGraphExecDestroy(Handle executable) { return cuGraphDestroy(executable); }

CUresult cuGetErrorString(CUresult error, const char** text) {
    *text = error == NOT_FOUND             ? "named symbol not found"
            : error == OUT_OF_MEMORY       ? "out of memory"
            : error == CAPTURE_UNSUPPORTED ? "operation not permitted when stream is capturing"
                                           : "invalid argument";
    return SUCCESS;
}

}  // extern "C"
