// blocks.cuh for the types of types_more.cuh.
#pragma once
#include "blocks.cuh"
#include "types_more.cuh"

// w = d * (q - 16): q ^ 16 in a byte's upper five bits is 8 * (q - 16).
struct Q5_0Block : FiveBitBlock<uint16_t> {
    static __device__ __forceinline__ uint32_t upper(uint32_t w) { return w << 3 ^ 0x80808080u; }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        to[0] = make_uint4(upper(first(0)), upper(first(1)), upper(first(2)), upper(first(3)));
        to[1] = make_uint4(upper(last(0)), upper(last(1)), upper(last(2)), upper(last(3)));
    }
    __device__ __forceinline__ float factor(int) const { return __fmul_rn(half_bits(scale), 0.125f); }
};

struct Q5_1Block : FiveBitBlock<uint32_t> {
    static constexpr bool MINIMA = true;

    __device__ __forceinline__ float factor(int) const { return half_bits(scale & 0xffff); }
    __device__ __forceinline__ float minimum(int) const { return half_bits(scale >> 16); }
};

// Places in a table of levels L, and a Scale for each BLOCKS blocks.
template <class L, class Scale, int BLOCKS = 1>
struct TableBlock : Block32 {
    uint4 places;
    Scale scale;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        places = __ldg(p.quants + at);
        scale = shared_at<Scale>(p.scales, at / BLOCKS);
    }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        const uint4& q = places;
        to[0] = make_uint4(four_levels<L>(q.x), four_levels<L>(q.y), four_levels<L>(q.z), four_levels<L>(q.w));
        to[1] = make_uint4(four_levels<L>(q.x >> 16), four_levels<L>(q.y >> 16), four_levels<L>(q.z >> 16),
                           four_levels<L>(q.w >> 16));
    }
};

struct IQ4_NLBlock : TableBlock<Iq4Levels, uint16_t> {
    __device__ __forceinline__ float factor(int) const { return half_bits(scale); }
};

struct IQ4_XSBlock : TableBlock<Iq4Levels, uint2, 8> {
    int block;

    __device__ __forceinline__ void load(const Planes& p, size_t at) {
        TableBlock::load(p, at);
        block = static_cast<int>(at % 8);
    }
    __device__ __forceinline__ float factor(int) const { return IQ4_XS::step(scale, block); }
};

struct MXFP4Block : TableBlock<Mxfp4Levels, unsigned char> {
    static constexpr bool LARGE = true;

    __device__ __forceinline__ float factor(int) const { return MXFP4::step(scale); }
};
