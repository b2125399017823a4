// K types, of 256 values that share a step.
//
//   q4_K, q5_K   quants: as q4_0's. high (q5_K): a word for 32 values. scales: 16 bytes for 256 values: f16 d, f16
//                dmin, then for each 32 values a 6-bit scale and above it a 6-bit minimum, 12 bits after 12 bits.
//                w = d * scale * q - dmin * minimum
//   q6_K         quants: as q4_0's. high: two words for 32 values, of the first 16 and of the last 16; value 4i + j has
//                its two bits at 8j + 2i. scales: for each 32 values two int8, one for each 16; behind those of all
//                rows an f16 d for each 256 values. w = d * scale * (q - 32)
#pragma once
#include "types.cuh"

constexpr int SUPER_BLOCKS = 8;  // blocks of 32 values in one of 256

// What d and dmin of a chunk's 32 values are multiplied by.
struct SixBits {
    float scale, minimum;
};

static __device__ __forceinline__ SixBits six_bits(const uint4& scales, int block) {
    const int at = 12 * (block % SUPER_BLOCKS), first = at / 32;
    const uint32_t low = first == 0 ? scales.y : first == 1 ? scales.z : scales.w;
    const uint32_t high = first == 0 ? scales.z : scales.w;
    const uint32_t both = static_cast<uint32_t>((static_cast<unsigned long long>(high) << 32 | low) >> at % 32);
    return {static_cast<float>(both & 63), static_cast<float>(both >> 6 & 63)};
}

// sum + (d * scale * dot - dmin * minimum * x.sum) * x.scale
static __device__ __forceinline__ float k_fma(int dot, const uint4& scales, int block, const BlockActs& x, float sum) {
    const SixBits six = six_bits(scales, block);
    const float d = __fmul_rn(__fmul_rn(half_bits(scales.x & 0xffff), six.scale), x.scale);
    const float m = __fmul_rn(__fmul_rn(half_bits(scales.x >> 16), six.minimum), x.scale);
    sum = __fmaf_rn(static_cast<float>(dot), d, sum);
    return __fmaf_rn(static_cast<float>(-x.sum), m, sum);
}

static __device__ __forceinline__ float k_value(int q, const Planes& p, size_t block) {
    const uint4 scales = plane_at<uint4>(p.scales, block / SUPER_BLOCKS);
    const SixBits six = six_bits(scales, static_cast<int>(block % SUPER_BLOCKS));
    const float s = __fmul_rn(half_bits(scales.x & 0xffff), six.scale);
    const float m = __fmul_rn(half_bits(scales.x >> 16), six.minimum);
    return __fadd_rn(__fmul_rn(static_cast<float>(q), s), -m);
}

struct Q4_K : BlockType<uint4, SUPER_BLOCKS> {
    static __device__ __forceinline__ float fma(const Chunk& w, int chunk, const BlockActs& x, float sum) {
        return k_fma(nibble_dot(w.quants, x), w.scale, chunk, x, sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        return k_value(nibble(p, i), p, i / BLOCK);
    }
};

struct Q5_K : FiveBitType<uint4, SUPER_BLOCKS> {
    static __device__ __forceinline__ float fma(const Chunk& w, int chunk, const BlockActs& x, float sum) {
        return k_fma(five_bit_dot(w.quants, w.high, x), w.scale, chunk, x, sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        return k_value(five_bits(p, i), p, i / BLOCK);
    }
};

struct Q6_K : BlockType<uint16_t> {
    struct Chunk {
        uint4 quants;
        uint2 high;
        uint16_t scales, d;
    };

    static __device__ __forceinline__ const uint16_t* steps(const Planes& p) {
        return static_cast<const uint16_t*>(p.scales) + p.blocks;
    }

    static __device__ __forceinline__ Chunk load(const Planes& p, size_t at) {
        const uint16_t scales = plane_at<uint16_t>(p.scales, at), d = plane_at<uint16_t>(steps(p), at / SUPER_BLOCKS);
        return {__ldcs(p.quants + at), plane_at<uint2>(p.high, at), scales, d};
    }

    // Four nibbles and two bits above each, less 32: six bits with the top one turned, spread over the byte.
    static __device__ __forceinline__ uint32_t centred(uint32_t nibbles, uint32_t high, int i) {
        const uint32_t q = (nibbles | (high >> 2 * i & 0x03030303u) << 4) ^ 0x20202020u;
        return q | (q & 0x20202020u) * 6;
    }

    static __device__ __forceinline__ float fma(const Chunk& w, int, const BlockActs& x, float sum) {
        int first = 0, last = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            first = dot4(centred(low_nibbles(word(w.quants, i)), w.high.x, i), word(x.low, i), first);
            last = dot4(centred(high_nibbles(word(w.quants, i)), w.high.y, i), word(x.high, i), last);
        }
        // Exact: at most 2 * 128 * 32 * 127 * 16.
        const int dot = static_cast<int8_t>(w.scales & 0xff) * first + static_cast<int8_t>(w.scales >> 8) * last;
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(half_bits(w.d), x.scale), sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const int e = i % (BLOCK / 2), is_last = i % BLOCK / (BLOCK / 2);
        const uint32_t high = plane_at<uint32_t>(p.high, i / BLOCK * 2 + is_last);
        const int q = nibble(p, i) | (high >> (e % 4 * 8 + e / 4 * 2) & 3) << 4;
        const float scale = plane_at<int8_t>(p.scales, i / BLOCK * 2 + is_last);
        const float d = half_bits(plane_at<uint16_t>(steps(p), i / BLOCK / SUPER_BLOCKS));
        return __fmul_rn(static_cast<float>(q - 32), __fmul_rn(d, scale));
    }
};
