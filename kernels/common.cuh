// What every kernel shares: integer types, warp reductions, 16-byte loads of halves and floats.
#pragma once

#ifndef CUDA_HOST_EMU
#include <cuda_fp16.h>
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
#else
#include <stdint.h>
#endif
#endif

constexpr int WARP = 32;
// Values in a quantization block, of weights and of activations alike.
constexpr int BLOCK = 32;

// ---- Programmatic dependent launch: a kernel may start while the one before it in the stream still runs -----------
//
// Every kernel first calls release_next, so that the next one's blocks take their places as this one's leave. What it
// may read before await_previous is what no kernel writes: weights and tables. await_previous returns when the kernel
// before has ended and what it wrote can be read; every thread calls it before its first write, so that "ended" holds
// for all the kernels before that one too. Below compute capability 9.0, and in a launch without the attribute, both
// do nothing and the order of the stream holds.

static __device__ __forceinline__ void release_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Asks for the 128 bytes about p to come to the L2 cache: for weights, while await_previous waits.
static __device__ __forceinline__ void prefetch_l2(const void* p) {
#ifdef __CUDA_ARCH__
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
    static_cast<void>(p);
#endif
}

constexpr int LINE_BYTES = 128;

// Asks for `bytes` from p on, by a whole warp.
static __device__ __forceinline__ void prefetch_l2(const void* p, size_t bytes) {
    const size_t step = static_cast<size_t>(WARP) * LINE_BYTES;
    for (size_t at = threadIdx.x % WARP * LINE_BYTES; at < bytes; at += step) {
        prefetch_l2(static_cast<const char*>(p) + at);
    }
}

// ---- Reductions ---------------------------------------------------------------------------------------------------

// The sum over the warp, in every lane: pairs at distance 16, 8, 4, 2, 1, so its bits depend on the lanes' values
// alone.
static __device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        x = __fadd_rn(x, __shfl_xor_sync(0xffffffffu, x, distance));
    }
    return x;
}

static __device__ __forceinline__ int warp_sum(int x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

static __device__ __forceinline__ int warp_max(int x) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        x = max(x, __shfl_xor_sync(0xffffffffu, x, distance));
    }
    return x;
}

static __device__ __forceinline__ float half_bits(uint32_t bits) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// Eight consecutive elements of a matrix of T as loaded: 16 bytes of halves or 32 of floats, so that several loads
// can be in flight before the first is unpacked.
template <class T>
struct Eight;

template <>
struct Eight<__half> {
    uint4 raw;

    __device__ __forceinline__ void load(const void* base, size_t eighth) {
        raw = __ldcs(static_cast<const uint4*>(base) + eighth);
    }
    __device__ __forceinline__ void clear() { raw = make_uint4(0, 0, 0, 0); }
    __device__ __forceinline__ void unpack(float (&to)[8]) const {
        const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[2 * i] = half_bits(words[i] & 0xffff);
            to[2 * i + 1] = half_bits(words[i] >> 16);
        }
    }
};

template <>
struct Eight<float> {
    float4 low, high;

    __device__ __forceinline__ void load(const void* base, size_t eighth) {
        low = __ldcs(static_cast<const float4*>(base) + 2 * eighth);
        high = __ldcs(static_cast<const float4*>(base) + 2 * eighth + 1);
    }
    __device__ __forceinline__ void clear() { low = high = make_float4(0, 0, 0, 0); }
    __device__ __forceinline__ void unpack(float (&to)[8]) const {
        to[0] = low.x, to[1] = low.y, to[2] = low.z, to[3] = low.w;
        to[4] = high.x, to[5] = high.y, to[6] = high.z, to[7] = high.w;
    }
};
