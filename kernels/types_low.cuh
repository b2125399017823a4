// K types of two and three bits: a chunk is 64 values, in four runs of 16 with a scale each.
//
//   q2_K         quants: 16 bytes for 64 values; value 16k + i has its two bits at bits 2k of byte i. scales: 4 bytes
//                for 64 values, of run k a 4-bit scale and above it a 4-bit minimum; behind those of all rows f16 d and
//                f16 dmin for each 256 values. w = d * scale * q - dmin * minimum
//   q3_K         quants: as q2_K's. high: of each 32 values the third bits, placed as types.cuh places fifth ones.
//                scales: for 64 values the low four bits of the four 6-bit scales; behind those of all rows three words
//                of 16 bits for each 256 values: f16 d, and the upper two bits of eight scales and of the other eight.
//                w = d * (scale - 32) * (q - 4)
//
// What a minimum and the 4 are multiplied by is the sum of a run's activations. `sums` has those of 32: four dp4a make
// the first run's, and the other run's is the rest.
#pragma once
#include "types_k.cuh"

constexpr int RUN = 16;  // values that share a scale

struct LowActs {
    uint4 quants[4];  // a run each
    float scales[2];  // of 32 values
    int sums[4];      // of a run
};

struct LowType {
    static constexpr int VALUES = 64;
    static constexpr int SUPER_CHUNKS = SUPER_BLOCKS * BLOCK / VALUES;

    static __device__ __forceinline__ LowActs acts(const Activations& x, int n_in, int row, int chunk) {
        LowActs to;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const BlockActs block = block_acts(x, n_in, row, 2 * chunk + h);
            int first = 0;
#pragma unroll
            for (int i = 0; i < 4; i++) first = dot4(0x01010101u, word(block.low, i), first);
            to.quants[2 * h] = block.low;
            to.quants[2 * h + 1] = block.high;
            to.scales[h] = block.scale;
            to.sums[2 * h] = first;
            to.sums[2 * h + 1] = block.sum - first;
        }
        return to;
    }

    // Values 4i .. 4i + 3 of run k, a byte each.
    static __device__ __forceinline__ uint32_t two_bits(const uint4& quants, int k, int i) {
        return word(quants, i) >> 2 * k & 0x03030303u;
    }

    static __device__ __forceinline__ int two_bits(const Planes& p, size_t i) {
        const int byte = reinterpret_cast<const unsigned char*>(p.quants)[i / VALUES * RUN + i % RUN];
        return byte >> i % VALUES / RUN * 2 & 3;
    }
};

struct Q2_K : LowType {
    struct Chunk {
        uint4 quants;
        uint32_t scales, steps;
    };

    static __device__ __forceinline__ uint32_t steps(const Planes& p, size_t super) {
        return plane_at<uint32_t>(static_cast<const uint32_t*>(p.scales) + p.blocks * BLOCK / VALUES, super);
    }

    static __device__ __forceinline__ Chunk load(const Planes& p, size_t at) {
        return {__ldcs(p.quants + at), plane_at<uint32_t>(p.scales, at), steps(p, at / SUPER_CHUNKS)};
    }

    static __device__ __forceinline__ float fma(const Chunk& w, int, const LowActs& x, float sum) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int total = 0, taken = 0;  // exact: at most 2 * 15 * 16 * 3 * 127
#pragma unroll
            for (int k = 2 * h; k < 2 * h + 2; k++) {
                int dot = 0;
#pragma unroll
                for (int i = 0; i < 4; i++) dot = dot4(two_bits(w.quants, k, i), word(x.quants[k], i), dot);
                total += static_cast<int>(w.scales >> 8 * k & 15) * dot;
                taken += static_cast<int>(w.scales >> (8 * k + 4) & 15) * x.sums[k];
            }
            const float d = __fmul_rn(half_bits(w.steps & 0xffff), x.scales[h]);
            const float m = __fmul_rn(half_bits(w.steps >> 16), x.scales[h]);
            sum = __fmaf_rn(static_cast<float>(total), d, sum);
            sum = __fmaf_rn(static_cast<float>(-taken), m, sum);
        }
        return sum;
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const int byte = plane_at<unsigned char>(p.scales, i / RUN);
        const uint32_t pair = steps(p, i / BLOCK / SUPER_BLOCKS);
        const float s = __fmul_rn(half_bits(pair & 0xffff), static_cast<float>(byte & 15));
        const float m = __fmul_rn(half_bits(pair >> 16), static_cast<float>(byte >> 4));
        return __fadd_rn(__fmul_rn(static_cast<float>(two_bits(p, i)), s), -m);
    }
};

struct Q3_K : LowType {
    struct Chunk {
        uint4 quants;
        uint2 high;
        uint16_t low_scales, high_scales, d;
    };

    static __device__ __forceinline__ const uint16_t* steps(const Planes& p, size_t super) {
        return static_cast<const uint16_t*>(p.scales) + p.blocks * BLOCK / VALUES + 3 * super;
    }

    // The upper two bits of a chunk's four scales.
    static __device__ __forceinline__ uint16_t high_scales(const Planes& p, size_t chunk) {
        const int c = chunk % SUPER_CHUNKS;
        return plane_at<uint16_t>(steps(p, chunk / SUPER_CHUNKS), 1 + c / 2) >> 8 * (c % 2) & 0xff;
    }

    static __device__ __forceinline__ int scale(uint32_t low, uint32_t high, int k) {
        return static_cast<int>((low >> 4 * k & 15) | (high >> 2 * k & 3) << 4) - 32;
    }

    static __device__ __forceinline__ Chunk load(const Planes& p, size_t at) {
        const uint16_t low = plane_at<uint16_t>(p.scales, at), d = plane_at<uint16_t>(steps(p, at / SUPER_CHUNKS), 0);
        return {__ldcs(p.quants + at), plane_at<uint2>(p.high, at), low, high_scales(p, at), d};
    }

    static __device__ __forceinline__ float fma(const Chunk& w, int, const LowActs& x, float sum) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t high = h ? w.high.y : w.high.x;
            int total = 0;  // exact: at most 2 * 32 * 16 * 4 * 127
#pragma unroll
            for (int k = 2 * h; k < 2 * h + 2; k++) {
                int dot = -4 * x.sums[k];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const uint32_t third = (high >> (4 * (k % 2) + i) & 0x01010101u) << 2;
                    dot = dot4(two_bits(w.quants, k, i) | third, word(x.quants[k], i), dot);
                }
                total += scale(w.low_scales, w.high_scales, k) * dot;
            }
            sum = __fmaf_rn(static_cast<float>(total), __fmul_rn(half_bits(w.d), x.scales[h]), sum);
        }
        return sum;
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        const size_t chunk = i / VALUES;
        const int e = i % RUN, run = i % VALUES / RUN, bit = e % 4 * 8 + e / 4 + run % 2 * 4;
        const int q = two_bits(p, i) | (plane_at<uint32_t>(p.high, i / BLOCK) >> bit & 1) << 2;
        const float s = scale(plane_at<uint16_t>(p.scales, chunk), high_scales(p, chunk), run);
        const float d = half_bits(plane_at<uint16_t>(steps(p, chunk / SUPER_CHUNKS), 0));
        return __fmul_rn(static_cast<float>(q - 4), __fmul_rn(d, s));
    }
};
