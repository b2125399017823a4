// The weight types: how they lie on the device, and how 16 bytes of quants meet activations.
//
// Weights lie in planes, not in the file's blocks, so that each lane loads 16 aligned bytes, its chunk. A row has
// n_in / VALUES chunks; plane after plane is [n_out, blocks of a row]. This file has those of
//
//   q8_0         quants: int8 [n_out, n_in]. scales: f16 d for each 32 values
//   q4_0, q4_1   quants: 16 bytes for 32 values, byte i = value i (low nibble) and value i + 16 (high).
//                scales: f16 d; pairs (d, m)
//
// and types_k.cuh, types_low.cuh, types_more.cuh, types_float.cuh the others. A type has
//
//   VALUES                      in a chunk
//   Chunk load(planes, at)      chunk `at`, counted over all rows, with its scales
//   acts(x, n_in, row, chunk)   the activations that meet chunk `chunk` of a row
//   fma(w, chunk, acts, sum)    sum + w . acts, in a fixed order of operations
//   value(planes, i)            weight i, counted over all rows: the bits of quant::dequantize
#pragma once
#include "common.cuh"

struct Planes {
    const uint4* quants;
    const void* high;
    const void* scales;
    size_t blocks;  // of 32 values, in all rows
};

struct Activations {
    const uint4* quants;  // int8 [rows, n_in]
    const float* scales;  // [rows, n_in / 32]
    const int32_t* sums;  // [rows, n_in / 32]: the sum of a block's quants
    const float* floats;  // f32 [rows, n_in]; null where no weight is float
};

// Element i of a plane of Ts.
template <class T>
static __device__ __forceinline__ T plane_at(const void* plane, size_t i) {
    return __ldcs(static_cast<const T*>(plane) + i);
}

struct Q8_0 {
    static constexpr int VALUES = 16;

    struct Chunk {
        uint4 quants;
        uint16_t d;
    };
    struct Acts {
        uint4 quants;
        float scale;
    };

    static __device__ __forceinline__ Chunk load(const Planes& p, size_t at) {
        return {__ldcs(p.quants + at), plane_at<uint16_t>(p.scales, at / 2)};
    }

    static __device__ __forceinline__ Acts acts(const Activations& x, int n_in, int row, int chunk) {
        const size_t at = static_cast<size_t>(row) * (n_in / VALUES) + chunk;
        return {x.quants[at], x.scales[at / 2]};
    }

    static __device__ __forceinline__ float fma(const Chunk& w, int, const Acts& x, float sum) {
        int dot = __dp4a(static_cast<int>(w.quants.x), static_cast<int>(x.quants.x), 0);
        dot = __dp4a(static_cast<int>(w.quants.y), static_cast<int>(x.quants.y), dot);
        dot = __dp4a(static_cast<int>(w.quants.z), static_cast<int>(x.quants.z), dot);
        dot = __dp4a(static_cast<int>(w.quants.w), static_cast<int>(x.quants.w), dot);
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(half_bits(w.d), x.scale), sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const float q = reinterpret_cast<const int8_t*>(p.quants)[i];
        return __fmul_rn(q, half_bits(plane_at<uint16_t>(p.scales, i / BLOCK)));
    }
};

// ---- Types whose chunk is 32 values of 4 bits, perhaps with more bits in `high` ------------------------------------

struct BlockActs {
    uint4 low, high;  // values 0 .. 15, 16 .. 31
    float scale;
    int sum;
};

static __device__ __forceinline__ BlockActs block_acts(const Activations& x, int n_in, int row, int block) {
    const size_t at = static_cast<size_t>(row) * (n_in / BLOCK) + block;
    return {x.quants[2 * at], x.quants[2 * at + 1], x.scales[at], x.sums[at]};
}

static __device__ __forceinline__ uint32_t word(const uint4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

static __device__ __forceinline__ int dot4(uint32_t w, uint32_t x, int sum) {
    return __dp4a(static_cast<int>(w), static_cast<int>(x), sum);
}

// The four low nibbles of a word's bytes, and the four high ones.
static __device__ __forceinline__ uint32_t low_nibbles(uint32_t w) { return w & 0x0f0f0f0fu; }
static __device__ __forceinline__ uint32_t high_nibbles(uint32_t w) { return w >> 4 & 0x0f0f0f0fu; }

static __device__ __forceinline__ int nibble_dot(const uint4& w, const BlockActs& x) {
    int dot = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        dot = dot4(low_nibbles(word(w, i)), word(x.low, i), dot);
        dot = dot4(high_nibbles(word(w, i)), word(x.high, i), dot);
    }
    return dot;
}

static __device__ __forceinline__ int nibble(const Planes& p, size_t i) {
    const int byte = reinterpret_cast<const unsigned char*>(p.quants)[i / BLOCK * (BLOCK / 2) + i % (BLOCK / 2)];
    return i % BLOCK < BLOCK / 2 ? byte & 0xf : byte >> 4;
}

// A type of such chunks with a Scale for each run of BLOCKS of them.
template <class Scale, int BLOCKS = 1>
struct BlockType {
    static constexpr int VALUES = BLOCK;

    struct Chunk {
        uint4 quants;
        Scale scale;
    };

    static __device__ __forceinline__ Chunk load(const Planes& p, size_t at) {
        return {__ldcs(p.quants + at), plane_at<Scale>(p.scales, at / BLOCKS)};
    }

    static __device__ __forceinline__ BlockActs acts(const Activations& x, int n_in, int row, int chunk) {
        return block_acts(x, n_in, row, chunk);
    }
};

// w = d * (nibble - 8)
struct Q4_0 : BlockType<uint16_t> {
    static __device__ __forceinline__ float fma(const Chunk& w, int, const BlockActs& x, float sum) {
        const int dot = nibble_dot(w.quants, x) - 8 * x.sum;
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(half_bits(w.scale), x.scale), sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const float d = half_bits(plane_at<uint16_t>(p.scales, i / BLOCK));
        return __fmul_rn(static_cast<float>(nibble(p, i) - 8), d);
    }
};

// sum + (d * dot + m * x.sum) * x.scale, where `pair` is (d, m) in f16.
static __device__ __forceinline__ float affine_fma(int dot, uint32_t pair, const BlockActs& x, float sum) {
    const float d = __fmul_rn(half_bits(pair & 0xffff), x.scale);
    const float m = __fmul_rn(half_bits(pair >> 16), x.scale);
    sum = __fmaf_rn(static_cast<float>(dot), d, sum);
    return __fmaf_rn(static_cast<float>(x.sum), m, sum);
}

static __device__ __forceinline__ float affine_value(int q, uint32_t pair) {
    return __fadd_rn(__fmul_rn(static_cast<float>(q), half_bits(pair & 0xffff)), half_bits(pair >> 16));
}

// w = d * nibble + m
struct Q4_1 : BlockType<uint32_t> {
    static __device__ __forceinline__ float fma(const Chunk& w, int, const BlockActs& x, float sum) {
        return affine_fma(nibble_dot(w.quants, x), w.scale, x, sum);
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        return affine_value(nibble(p, i), plane_at<uint32_t>(p.scales, i / BLOCK));
    }
};

// ---- A fifth bit --------------------------------------------------------------------------------------------------
//
// high: a word for 32 values. Value 4i + j of the first 16 has its bit at 8j + i, of the last 16 at 8j + i + 4, so that
// one shift and one mask lay four bits above four nibbles.

static __device__ __forceinline__ int five_bit_dot(const uint4& w, uint32_t high, const BlockActs& x) {
    int dot = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t low_bits = (high >> i & 0x01010101u) << 4, high_bits = (high >> (i + 4) & 0x01010101u) << 4;
        dot = dot4(low_nibbles(word(w, i)) | low_bits, word(x.low, i), dot);
        dot = dot4(high_nibbles(word(w, i)) | high_bits, word(x.high, i), dot);
    }
    return dot;
}

static __device__ __forceinline__ int five_bits(const Planes& p, size_t i) {
    const int e = i % (BLOCK / 2), bit = e % 4 * 8 + e / 4 + (i % BLOCK < BLOCK / 2 ? 0 : 4);
    return nibble(p, i) | (plane_at<uint32_t>(p.high, i / BLOCK) >> bit & 1) << 4;
}

// BlockType with fifth bits.
template <class Scale, int BLOCKS = 1>
struct FiveBitType : BlockType<Scale, BLOCKS> {
    struct Chunk {
        uint4 quants;
        Scale scale;
        uint32_t high;
    };

    static __device__ __forceinline__ Chunk load(const Planes& p, size_t at) {
        const Scale scale = plane_at<Scale>(p.scales, at / BLOCKS);
        return {__ldcs(p.quants + at), scale, plane_at<uint32_t>(p.high, at)};
    }
};
