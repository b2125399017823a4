// The weight types as matmul.cuh has them: 32 values as they are loaded from the planes of types.cuh, and as 32 int8
// with a factor and a minimum. This file has q8_0, q4_0 and q4_1; blocks_k.cuh and blocks_more.cuh have the others. A
// block has
//
//   BYTES             of quants
//   RUNS              1, or 2 where each 16 values have a factor of their own
//   MINIMA            whether a weight is factor * quant + minimum, and not factor * quant
//   LARGE             whether a factor can be 2^104 or more
//   load(planes, at)  block `at`, counted over all rows
//   unpack(to)        the quants, in order
//   factor(run), minimum(run)
//
// A factor has at most 22 significant bits: see FLOAT_OF in matmul.cuh. So has a sum of 32 quants times activations.
#pragma once
#include "types.cuh"

// Element i of a plane of Ts that other blocks read too.
template <class T>
static __device__ __forceinline__ T shared_at(const void* plane, size_t i) {
    return __ldg(static_cast<const T*>(plane) + i);
}

// What most types have.
struct Block32 {
    static constexpr int BYTES = 16;
    static constexpr int RUNS = 1;
    static constexpr bool MINIMA = false;
    static constexpr bool LARGE = false;

    __device__ __forceinline__ float minimum(int) const { return 0.0f; }
};

struct Q8_0Block : Block32 {
    static constexpr int BYTES = 32;
    uint4 quants[2];
    uint16_t scale;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        quants[0] = __ldg(p.quants + 2 * at);
        quants[1] = __ldg(p.quants + 2 * at + 1);
        scale = shared_at<uint16_t>(p.scales, at);
    }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const { to[0] = quants[0], to[1] = quants[1]; }
    __device__ __forceinline__ float factor(int) const { return half_bits(scale); }
};

// Nibbles and a Scale.
template <class Scale>
struct NibbleBlock : Block32 {
    uint4 quants;
    Scale scale;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        quants = __ldg(p.quants + at);
        scale = shared_at<Scale>(p.scales, at);
    }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        const uint4& q = quants;
        to[0] = make_uint4(low_nibbles(q.x), low_nibbles(q.y), low_nibbles(q.z), low_nibbles(q.w));
        to[1] = make_uint4(high_nibbles(q.x), high_nibbles(q.y), high_nibbles(q.z), high_nibbles(q.w));
    }
};

// w = d * (nibble - 8): nibble ^ 8 in a byte's upper half is 16 * (nibble - 8).
struct Q4_0Block : NibbleBlock<uint16_t> {
    static __device__ __forceinline__ uint32_t upper(uint32_t w) { return (w & 0xf0f0f0f0u) ^ 0x80808080u; }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        const uint4& q = quants;
        to[0] = make_uint4(upper(q.x << 4), upper(q.y << 4), upper(q.z << 4), upper(q.w << 4));
        to[1] = make_uint4(upper(q.x), upper(q.y), upper(q.z), upper(q.w));
    }
    __device__ __forceinline__ float factor(int) const { return __fmul_rn(half_bits(scale), 0.0625f); }
};

// w = d * nibble + m
struct Q4_1Block : NibbleBlock<uint32_t> {
    static constexpr bool MINIMA = true;

    __device__ __forceinline__ float factor(int) const { return half_bits(scale & 0xffff); }
    __device__ __forceinline__ float minimum(int) const { return half_bits(scale >> 16); }
};

// ---- A fifth bit --------------------------------------------------------------------------------------------------

// Nibbles with fifth bits, as types.cuh places them, and a Scale for each BLOCKS blocks.
template <class Scale, int BLOCKS = 1>
struct FiveBitBlock : Block32 {
    uint4 quants;
    Scale scale;
    uint32_t high;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        quants = __ldg(p.quants + at);
        scale = shared_at<Scale>(p.scales, at / BLOCKS);
        high = shared_at<uint32_t>(p.high, at);
    }
    __device__ __forceinline__ uint32_t first(int i) const {
        return low_nibbles(word(quants, i)) | (high >> i & 0x01010101u) << 4;
    }
    __device__ __forceinline__ uint32_t last(int i) const {
        return high_nibbles(word(quants, i)) | (high >> (i + 4) & 0x01010101u) << 4;
    }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        to[0] = make_uint4(first(0), first(1), first(2), first(3));
        to[1] = make_uint4(last(0), last(1), last(2), last(3));
    }
};
