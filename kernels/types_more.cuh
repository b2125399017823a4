// Types with a fifth bit, and types whose quants are places in a table of 16 levels.
//
//   q5_0, q5_1      quants, scales: as of q4_0 and q4_1. high: a word for 32 values. w = d * (q - 16); d * q + m
//   iq4_nl, iq4_xs, mxfp4
//                   quants: 16 bytes for 32 values. Nibble k of word i is value 4i + k, for k >= 4 value
//                   16 + 4i + k - 4, so that a byte permutation finds the levels of four values in their order.
//                   w = step * level
//     iq4_nl        scales: f16 d for 32 values; step = d
//     iq4_xs        scales: 8 bytes for 256 values: f16 d, then s for each 32 values, 6 bits after 6 bits;
//                   step = d * (s - 32)
//     mxfp4         scales: a byte e for 32 values; step = 2^(e - 128)
#pragma once
#include "types.cuh"

struct Q5_0 : FiveBitType<uint16_t> {
    static __device__ __forceinline__ float fma(const Chunk& w, int, const BlockActs& x, float sum) {
        const int dot = five_bit_dot(w.quants, w.high, x) - 16 * x.sum;
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(half_bits(w.scale), x.scale), sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const float d = half_bits(plane_at<uint16_t>(p.scales, i / BLOCK));
        return __fmul_rn(static_cast<float>(five_bits(p, i) - 16), d);
    }
};

struct Q5_1 : FiveBitType<uint32_t> {
    static __device__ __forceinline__ float fma(const Chunk& w, int, const BlockActs& x, float sum) {
        return affine_fma(five_bit_dot(w.quants, w.high, x), w.scale, x, sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        return affine_value(five_bits(p, i), plane_at<uint32_t>(p.scales, i / BLOCK));
    }
};

// ---- Tables -------------------------------------------------------------------------------------------------------

// Sixteen int8 levels, four a word, in the order of their places.
struct Iq4Levels {
    static constexpr uint32_t A = 0xbfad9881u, B = 0xf6eaddcfu, C = 0x26190d01u, D = 0x71594535u;
};
struct Mxfp4Levels {
    static constexpr uint32_t A = 0x03020100u, B = 0x0c080604u, C = 0xfdfeff00u, D = 0xf4f8fafcu;
};

// The levels of the four places in the low 16 bits.
template <class L>
static __device__ __forceinline__ uint32_t four_levels(uint32_t places) {
    const uint32_t in_half = places & 0x7777u;
    const uint32_t lower = __byte_perm(L::A, L::B, in_half);
    const uint32_t upper = __byte_perm(L::C, L::D, in_half);
    // Byte j of the result is byte j of lower or, where the place is 8 or more, of upper.
    return __byte_perm(lower, upper, 0x3210u | (places & 0x8888u) >> 1);
}

template <class L>
static __device__ __forceinline__ int table_dot(const uint4& places, const BlockActs& x) {
    int dot = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        dot = dot4(four_levels<L>(word(places, i)), word(x.low, i), dot);
        dot = dot4(four_levels<L>(word(places, i) >> 16), word(x.high, i), dot);
    }
    return dot;
}

template <class L>
static __device__ __forceinline__ float table_level(const Planes& p, size_t i) {
    const int e = i % (BLOCK / 2), k = e % 4 + (i % BLOCK < BLOCK / 2 ? 0 : 4);
    const uint32_t places = reinterpret_cast<const uint32_t*>(p.quants)[i / BLOCK * 4 + e / 4];
    return static_cast<float>(static_cast<int8_t>(four_levels<L>(places >> 4 * k & 0xf) & 0xff));
}

struct IQ4_NL : BlockType<uint16_t> {
    static __device__ __forceinline__ float fma(const Chunk& w, int, const BlockActs& x, float sum) {
        const int dot = table_dot<Iq4Levels>(w.quants, x);
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(half_bits(w.scale), x.scale), sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const float d = half_bits(plane_at<uint16_t>(p.scales, i / BLOCK));
        return __fmul_rn(table_level<Iq4Levels>(p, i), d);
    }
};

struct IQ4_XS : BlockType<uint2, 8> {
    // Exact: 11 bits times 6.
    static __device__ __forceinline__ float step(const uint2& scales, int block) {
        const unsigned long long bits = static_cast<unsigned long long>(scales.y) << 32 | scales.x;
        const int s = static_cast<int>(bits >> (16 + 6 * (block % 8)) & 63) - 32;
        return __fmul_rn(half_bits(scales.x & 0xffff), static_cast<float>(s));
    }

    static __device__ __forceinline__ float fma(const Chunk& w, int chunk, const BlockActs& x, float sum) {
        const int dot = table_dot<Iq4Levels>(w.quants, x);
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(step(w.scale, chunk), x.scale), sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const size_t block = i / BLOCK;
        const uint2 scales = plane_at<uint2>(p.scales, block / 8);
        return __fmul_rn(table_level<Iq4Levels>(p, i), step(scales, static_cast<int>(block % 8)));
    }
};

struct MXFP4 : BlockType<unsigned char> {
    // 2^(e - 128); the two smallest are subnormal.
    static __device__ __forceinline__ float step(int e) {
        return __int_as_float(e < 2 ? 1 << (21 + e) : (e - 1) << 23);
    }

    static __device__ __forceinline__ float fma(const Chunk& w, int, const BlockActs& x, float sum) {
        const int dot = table_dot<Mxfp4Levels>(w.quants, x);
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(step(w.scale), x.scale), sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        return __fmul_rn(table_level<Mxfp4Levels>(p, i), step(plane_at<unsigned char>(p.scales, i / BLOCK)));
    }
};
