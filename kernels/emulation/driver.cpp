// A stand-in for NVIDIA's driver library: the calls that src/cuda makes, over the emulated kernels. With it the whole
// CUDA backend runs where there is no GPU (tests/cuda_device.rs), but for the compiled code in prebuilt/, which it
// does not execute: a kernel is found by its name.
//
//   c++ -x c++ -std=c++17 -O2 -shared -fPIC -include cuda_host.h driver.cpp -o libcuda.so
#include <map>
#include <mutex>
#include <string>

#include "../expand.cu"
#include "../matvec.cu"
#include "../quantize.cu"

typedef int CUresult;
typedef unsigned long long CUdeviceptr;
typedef void* Handle;  // contexts, modules, streams and events: nothing but an address that is not null

namespace {

constexpr CUresult SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500;
char handle;  // what every Handle points to

typedef void (*Launcher)(dim3 grid, dim3 block, const void* args);

template <class Args, void (*KERNEL)(Args)>
void launcher(dim3 grid, dim3 block, const void* args) {
    Args copy;
    memcpy(&copy, args, sizeof copy);
    cuemu::launch(KERNEL, grid, block, copy);
}

#define KERNEL(args, name) {#name, launcher<args, name>}
#define MATVECS_OF(type)                                                                                          \
    KERNEL(MatvecArgs, matvec_##type##_r1_o1), KERNEL(MatvecArgs, matvec_##type##_r1_o2),                         \
        KERNEL(MatvecArgs, matvec_##type##_r1_o4), KERNEL(MatvecArgs, matvec_##type##_r2_o1),                     \
        KERNEL(MatvecArgs, matvec_##type##_r2_o2), KERNEL(MatvecArgs, matvec_##type##_r4_o2),                     \
        KERNEL(MatvecArgs, matvec_##type##_r8_o2)

const std::map<std::string, Launcher> KERNELS = {
    MATVECS_OF(q8_0),
    MATVECS_OF(q4_0),
    MATVECS_OF(q4_1),
    KERNEL(ResidualArgs, residual_r1),
    KERNEL(ResidualArgs, residual_r2),
    KERNEL(ResidualArgs, residual_r4),
    KERNEL(ResidualArgs, residual_r8),
    KERNEL(QuantizeArgs, quantize_rows),
    KERNEL(GatedArgs, quantize_gated_r1),
    KERNEL(GatedArgs, quantize_gated_r2),
    KERNEL(GatedArgs, quantize_gated_r4),
    KERNEL(GatedArgs, quantize_gated_r8),
};

void* at(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

// Memory starts as 0xff, a NaN as a float: a read of what nothing wrote shows.
CUresult allocate(CUdeviceptr* p, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
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
    memcpy(at(to), from, bytes);
    return SUCCESS;
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, Handle) {
    memcpy(to, at(from), bytes);
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
    *function = reinterpret_cast<Handle>(found->second);
    return SUCCESS;
}

CUresult cuLaunchKernel(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned, Handle, void** args, void**) {
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> guard(one_at_a_time);
    if (gx == 0 || gy == 0 || gz == 0) return INVALID_VALUE;
    reinterpret_cast<Launcher>(function)(dim3(gx, gy, gz), dim3(bx, by, bz), args[0]);
    return SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
    *text = error == NOT_FOUND       ? "named symbol not found"
            : error == OUT_OF_MEMORY ? "out of memory"
                                     : "invalid argument";
    return SUCCESS;
}

}  // extern "C"
