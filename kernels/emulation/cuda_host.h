// Runs CUDA kernels on the CPU, so that they can be tested where there is no GPU.
//
//   g++ -x c++ -std=c++20 -fno-strict-aliasing -include emulation/cuda_host.h ...      (x86-64, GCC or Clang)
//
// The same .cu file that nvcc compiles becomes C++: each CUDA thread is a fiber with a small stack of its own, and
// one block runs at a time. A warp runs until every live lane stands at a barrier, a warp operation, or its end.
//
// What it finds: reads of shared memory that nothing wrote (it is filled with 0xff before each block, a NaN as a
// float), barriers that part of a block never reaches, warp operations that part of a warp never reaches, and, run
// again with CUDA_EMU_REV=1 (warps and lanes in reverse order), most missing barriers.
// What it cannot find: races inside one order of execution, launch limits, alignment faults of vector loads.
//
// State is global: one host thread may launch kernels.
#pragma once
#if !defined(__x86_64__)
#error "the emulation switches fibers with x86-64 instructions"
#endif
#define CUDA_HOST_EMU 1

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

// ---- The language -------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
// One block runs at a time, so a static serves; its own section lets it be filled before each block.
#define __shared__ static __attribute__((section("cuda_shared")))

extern "C" {
extern char __start_cuda_shared[] __attribute__((weak));
extern char __stop_cuda_shared[] __attribute__((weak));
}

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) float2 {
    float x, y;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

struct alignas(8) uint2 {
    unsigned x, y;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- Fibers -------------------------------------------------------------------------------------------------------

namespace cuemu {

constexpr int WARP = 32;
constexpr size_t STACK_BYTES = 64 * 1024;

enum class Wait { None, Block, Warp };

// Bytes on their way to shared memory, and the group of copies that they belong to.
struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    int group;
};

struct Fiber {
    void* sp = nullptr;
    char* stack = nullptr;
    uint3 thread{};
    bool done = false;
    Wait wait = Wait::None;
    unsigned exchanges = 0;
    std::vector<Copy> copies;
    int groups = 0;
};

struct Machine {
    dim3 grid, block;
    uint3 block_index{};
    std::vector<Fiber> fibers;
    int current = 0;
    int threads = 0;
    int alive = 0;
    void* scheduler_sp = nullptr;
    std::function<void()> kernel;
    // Two buffers of 32 words a warp, used in turn: a lane writes one again only after all lanes passed the other.
    std::vector<uint64_t> exchange;
    bool reverse = getenv("CUDA_EMU_REV") != nullptr;
};

inline Machine machine;

// Saves the callee-saved registers and the stack pointer, and continues at the other stack.
extern "C" void cuemu_switch(void** save, void* load);
asm(R"(
.pushsection .text
.weak cuemu_switch
cuemu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.popsection
)");

[[noreturn]] inline void die(const char* what) {
    uint3 b = machine.block_index;
    fprintf(stderr, "cuda emulation: %s (block %u, %u, %u)\n", what, b.x, b.y, b.z);
    abort();
}

inline void suspend(Wait why) {
    Fiber& self = machine.fibers[machine.current];
    self.wait = why;
    cuemu_switch(&self.sp, machine.scheduler_sp);
}

inline void fiber_main() {
    machine.kernel();
    Fiber& self = machine.fibers[machine.current];
    self.done = true;
    machine.alive--;
    cuemu_switch(&self.sp, machine.scheduler_sp);
    die("a finished thread was resumed");
}

inline void start_fiber(Fiber& f, uint3 thread) {
    if (!f.stack) f.stack = static_cast<char*>(aligned_alloc(64, STACK_BYTES));
    void** sp = reinterpret_cast<void**>(f.stack + STACK_BYTES);
    *--sp = nullptr;  // the return address of fiber_main, which keeps the stack aligned at its entry
    *--sp = reinterpret_cast<void*>(fiber_main);
    for (int saved_register = 0; saved_register < 6; saved_register++) *--sp = nullptr;
    f.sp = sp;
    f.thread = thread;
    f.done = false;
    f.wait = Wait::None;
    f.exchanges = 0;
    f.copies.clear();
    f.groups = 0;
}

// Runs the lanes first..end until all stand at a block barrier or are done. Returns whether any lane ran.
inline bool run_warp(int first, int end) {
    Machine& m = machine;
    bool ran = false;
    for (;;) {
        for (int k = first; k < end; k++) {
            int i = m.reverse ? end - 1 - (k - first) : k;
            if (m.fibers[i].done || m.fibers[i].wait != Wait::None) continue;
            m.current = i;
            cuemu_switch(&m.scheduler_sp, m.fibers[i].sp);
            ran = true;
        }
        int live = 0, at_warp = 0, at_block = 0;
        for (int i = first; i < end; i++) {
            live += !m.fibers[i].done;
            at_warp += !m.fibers[i].done && m.fibers[i].wait == Wait::Warp;
            at_block += !m.fibers[i].done && m.fibers[i].wait == Wait::Block;
        }
        if (at_warp && at_block) die("a warp diverged: some lanes at __syncthreads, others at a warp operation");
        if (!at_warp) return ran;
        if (at_warp != live) die("a warp operation that not every live lane reached");
        for (int i = first; i < end; i++) m.fibers[i].wait = Wait::None;
    }
}

inline void run_block() {
    Machine& m = machine;
    if (__start_cuda_shared) memset(__start_cuda_shared, 0xff, __stop_cuda_shared - __start_cuda_shared);
    int warps = (m.threads + WARP - 1) / WARP;
    m.exchange.assign(static_cast<size_t>(warps) * 2 * WARP, 0);
    m.alive = m.threads;
    for (int i = 0; i < m.threads; i++) {
        unsigned t = static_cast<unsigned>(i);
        start_fiber(m.fibers[i], {t % m.block.x, t / m.block.x % m.block.y, t / (m.block.x * m.block.y)});
    }
    while (m.alive) {
        bool progress = false;
        for (int k = 0; k < warps; k++) {
            int warp = m.reverse ? warps - 1 - k : k;
            int end = (warp + 1) * WARP < m.threads ? (warp + 1) * WARP : m.threads;
            progress |= run_warp(warp * WARP, end);
        }
        // A thread that has returned no longer counts at a barrier, as on sm_70 and later.
        int waiting = 0;
        for (int i = 0; i < m.threads; i++) waiting += !m.fibers[i].done && m.fibers[i].wait == Wait::Block;
        if (waiting && waiting == m.alive) {
            for (int i = 0; i < m.threads; i++) m.fibers[i].wait = Wait::None;
            progress = true;
        }
        if (!progress) die("deadlock");
    }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, dim3 grid, dim3 block, Args... args) {
    Machine& m = machine;
    m.grid = grid;
    m.block = block;
    m.threads = static_cast<int>(block.x * block.y * block.z);
    if (m.threads < 1 || m.threads > 1024) die("a block of fewer than 1 or more than 1024 threads");
    if (static_cast<int>(m.fibers.size()) < m.threads) m.fibers.resize(m.threads);
    m.kernel = [=] { kernel(args...); };
    for (unsigned z = 0; z < grid.z; z++) {
        for (unsigned y = 0; y < grid.y; y++) {
            for (unsigned x = 0; x < grid.x; x++) {
                m.block_index = {x, y, z};
                run_block();
            }
        }
    }
}

inline int lane() { return machine.current % WARP; }
inline int warp_first() { return machine.current / WARP * WARP; }

// This lane's word goes in; after the barrier the words of the whole warp can be read.
template <class T>
uint64_t* post(T value) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    unsigned turn = machine.fibers[machine.current].exchanges++ & 1;
    uint64_t* words = &machine.exchange[static_cast<size_t>(warp_first()) * 2 + turn * WARP];
    memcpy(&words[lane()], &value, sizeof value);
    suspend(Wait::Warp);
    return words;
}

template <class T>
T shuffle(T value, int source) {
    uint64_t* words = post(value);
    if (source < 0 || source >= WARP || warp_first() + source >= machine.threads) return value;
    T result;
    memcpy(&result, &words[source], sizeof result);
    return result;
}

}  // namespace cuemu

#define threadIdx (cuemu::machine.fibers[cuemu::machine.current].thread)
#define blockIdx (cuemu::machine.block_index)
#define blockDim (cuemu::machine.block)
#define gridDim (cuemu::machine.grid)

// ---- Barriers, shuffles, intrinsics -------------------------------------------------------------------------------

inline void __syncthreads() { cuemu::suspend(cuemu::Wait::Block); }
inline void __syncwarp(unsigned = ~0u) { cuemu::suspend(cuemu::Wait::Warp); }

template <class T>
T __shfl_sync(unsigned, T value, int source) {
    return cuemu::shuffle(value, source & (cuemu::WARP - 1));
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return cuemu::shuffle(value, cuemu::lane() ^ mask);
}

inline unsigned __ballot_sync(unsigned, int predicate) {
    uint64_t* words = cuemu::post(static_cast<uint64_t>(predicate != 0));
    unsigned bits = 0;
    for (int i = 0; i < cuemu::WARP && cuemu::warp_first() + i < cuemu::machine.threads; i++) {
        if (!cuemu::machine.fibers[cuemu::warp_first() + i].done) bits |= static_cast<unsigned>(words[i] & 1) << i;
    }
    return bits;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
    return c;
}

inline float __fmaf_rn(float a, float b, float c) { return std::fmaf(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline double __dmul_rn(double a, double b) { return a * b; }

inline void sincospif(float x, float* sine, float* cosine) {
    *sine = static_cast<float>(std::sin(M_PI * x));
    *cosine = static_cast<float>(std::cos(M_PI * x));
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }

// Byte i of the result is byte selector[4i + 2 : 4i] of y:x; no sign replication.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}

// Blocks run one after the other, and what one wrote the next sees.
inline void __threadfence() {}

inline unsigned atomicAdd(unsigned* p, unsigned add) {
    unsigned before = *p;
    *p += add;
    return before;
}

inline int __float_as_int(float x) {
    int bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __int_as_float(int bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// Round half to even; NaN gives 0 and large values saturate, as cvt.rni.s32.f32 does.
inline int __float2int_rn(float x) {
    if (std::isnan(x)) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    if (x < -2147483648.0f) return INT32_MIN;
    return static_cast<int>(std::nearbyint(x));
}

template <class T>
T __ldcs(const T* p) {
    return *p;
}

template <class T>
T __ldcg(const T* p) {
    return *p;
}

template <class T>
T __ldg(const T* p) {
    return *p;
}

// ---- f16: a storage type ------------------------------------------------------------------------------------------

struct __half {
    uint16_t bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }

inline float __half2float(__half h) {
    uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000) << 16;
    uint32_t magnitude = h.bits & 0x7fff;
    float scaled;
    if (magnitude >= 0x7c00) {  // infinity and NaN
        uint32_t bits = sign | 0x7f800000 | (magnitude & 0x3ff) << 13;
        memcpy(&scaled, &bits, sizeof scaled);
        return scaled;
    }
    // The exponent is off by 112 when the fields are moved up; one exact product mends that, subnormals included.
    uint32_t bits = magnitude << 13;
    memcpy(&scaled, &bits, sizeof scaled);
    scaled *= 0x1p112f;
    return sign ? -scaled : scaled;
}

inline __half __float2half_rn(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
    float magnitude = std::fabs(x);
    if (std::isnan(x)) return {static_cast<uint16_t>(sign | 0x7e00)};
    if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00)};
    int exponent = magnitude == 0.0f ? -25 : std::ilogb(magnitude);
    if (exponent < -14) {  // subnormal: units of 2^-24
        return {static_cast<uint16_t>(sign | static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, 24))))};
    }
    // Mantissa in units of its last place, 1024..2048; a carry into 2048 moves the exponent up by itself.
    unsigned mantissa = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    return {static_cast<uint16_t>(sign | (static_cast<unsigned>(exponent + 14) * 1024 + mantissa))};
}

// ---- The few runtime calls that a test driver needs ---------------------------------------------------------------

typedef int cudaError_t;
typedef void* cudaStream_t;
constexpr cudaError_t cudaSuccess = 0;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

inline const char* cudaGetErrorString(cudaError_t e) { return e == cudaSuccess ? "no error" : "out of memory"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

inline cudaError_t cudaMalloc(void** p, size_t bytes) {
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    return *p ? cudaSuccess : 2;
}

inline cudaError_t cudaFree(void* p) {
    free(p);
    return cudaSuccess;
}

inline cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
    memcpy(to, from, bytes);
    return cudaSuccess;
}

#define CUDA_LAUNCH(kernel, grid, block, stream, ...) ((void)(stream), cuemu::launch(kernel, grid, block, __VA_ARGS__))

#include "tensor.h"
