// blocks.cuh for the types of types_k.cuh and types_low.cuh.
#pragma once
#include "blocks.cuh"
#include "types_low.cuh"

// d times a scale of six bits is exact, and dmin times a minimum.
static __device__ __forceinline__ float k_factor(const uint4& scales, int block) {
    return __fmul_rn(half_bits(scales.x & 0xffff), six_bits(scales, block).scale);
}

static __device__ __forceinline__ float k_minimum(const uint4& scales, int block) {
    return __fmul_rn(half_bits(scales.x >> 16), -six_bits(scales, block).minimum);
}

struct Q4_KBlock : NibbleBlock<uint4> {
    static constexpr bool MINIMA = true;
    int block;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        quants = __ldg(p.quants + at);
        scale = shared_at<uint4>(p.scales, at / SUPER_BLOCKS);
        block = static_cast<int>(at % SUPER_BLOCKS);
    }
    __device__ __forceinline__ float factor(int) const { return k_factor(scale, block); }
    __device__ __forceinline__ float minimum(int) const { return k_minimum(scale, block); }
};

struct Q5_KBlock : FiveBitBlock<uint4, SUPER_BLOCKS> {
    static constexpr bool MINIMA = true;
    int block;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        FiveBitBlock::load(p, at);
        block = static_cast<int>(at % SUPER_BLOCKS);
    }
    __device__ __forceinline__ float factor(int) const { return k_factor(scale, block); }
    __device__ __forceinline__ float minimum(int) const { return k_minimum(scale, block); }
};

// w = d * scale * (q - 32): q ^ 32 in a byte's upper six bits is 4 * (q - 32).
struct Q6_KBlock : Block32 {
    static constexpr int RUNS = 2;
    uint4 quants;
    uint2 high;
    uint16_t scales, d;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        quants = __ldg(p.quants + at);
        high = shared_at<uint2>(p.high, at);
        scales = shared_at<uint16_t>(p.scales, at);
        d = __ldg(Q6_K::steps(p) + at / SUPER_BLOCKS);
    }
    static __device__ __forceinline__ uint32_t upper(uint32_t nibbles, uint32_t high, int i) {
        return (nibbles | (high >> 2 * i & 0x03030303u) << 4) << 2 ^ 0x80808080u;
    }
    __device__ __forceinline__ uint32_t first(int i) const { return upper(low_nibbles(word(quants, i)), high.x, i); }
    __device__ __forceinline__ uint32_t last(int i) const { return upper(high_nibbles(word(quants, i)), high.y, i); }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        to[0] = make_uint4(first(0), first(1), first(2), first(3));
        to[1] = make_uint4(last(0), last(1), last(2), last(3));
    }
    __device__ __forceinline__ float factor(int run) const {
        const float scale = static_cast<int8_t>(scales >> 8 * run & 0xff);
        return __fmul_rn(half_bits(d), __fmul_rn(scale, 0.25f));
    }
};

// ---- Two bits, and a third: half of a chunk of types_low.cuh -------------------------------------------------------

struct LowBlock : Block32 {
    static constexpr int BYTES = 8;
    static constexpr int RUNS = 2;
    uint4 quants;  // of 64 values
    int block;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        quants = __ldg(p.quants + at / 2);
        block = static_cast<int>(at % SUPER_BLOCKS);
    }
    __device__ __forceinline__ uint32_t two_bits(int run, int i) const {
        return LowType::two_bits(quants, block % 2 * 2 + run, i);
    }
};

// w = d * scale * q - dmin * minimum
struct Q2_KBlock : LowBlock {
    static constexpr bool MINIMA = true;
    uint16_t scales;  // of two runs
    uint32_t steps;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        LowBlock::load(p, at);
        scales = shared_at<uint16_t>(p.scales, at);
        steps = shared_at<uint32_t>(p.scales, p.blocks / 2 + at / SUPER_BLOCKS);
    }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        to[0] = make_uint4(two_bits(0, 0), two_bits(0, 1), two_bits(0, 2), two_bits(0, 3));
        to[1] = make_uint4(two_bits(1, 0), two_bits(1, 1), two_bits(1, 2), two_bits(1, 3));
    }
    __device__ __forceinline__ float factor(int run) const {
        return __fmul_rn(half_bits(steps & 0xffff), static_cast<float>(scales >> 8 * run & 15));
    }
    __device__ __forceinline__ float minimum(int run) const {
        return __fmul_rn(half_bits(steps >> 16), -static_cast<float>(scales >> (8 * run + 4) & 15));
    }
};

// w = d * (scale - 32) * (q - 4): q ^ 4 in a byte's upper three bits is 32 * (q - 4).
struct Q3_KBlock : LowBlock {
    uint32_t high;
    uint16_t high_scales, d;
    unsigned char low_scales;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        LowBlock::load(p, at);
        const uint16_t* steps = Q3_K::steps(p, at / SUPER_BLOCKS);
        high = shared_at<uint32_t>(p.high, at);
        low_scales = shared_at<unsigned char>(p.scales, at);
        high_scales = __ldg(steps + 1 + block / 4);
        d = __ldg(steps);
    }
    __device__ __forceinline__ uint32_t upper(int run, int i) const {
        const uint32_t third = (high >> (4 * run + i) & 0x01010101u) << 2;
        return (two_bits(run, i) | third) << 5 ^ 0x80808080u;
    }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        to[0] = make_uint4(upper(0, 0), upper(0, 1), upper(0, 2), upper(0, 3));
        to[1] = make_uint4(upper(1, 0), upper(1, 1), upper(1, 2), upper(1, 3));
    }
    __device__ __forceinline__ float factor(int run) const {
        const float scale = Q3_K::scale(low_scales, high_scales >> 4 * (block % 4) & 15, run);
        return __fmul_rn(half_bits(d), __fmul_rn(scale, 0.03125f));
    }
};
