// Float types: quants has the values as they are, [n_out, n_in]; they meet the f32 activations.
#pragma once
#include "types.cuh"

// N activations, 16 bytes of weights.
template <int N>
struct FloatActs {
    float4 x[N / 4];
};

template <int N>
static __device__ __forceinline__ FloatActs<N> float_acts(const Activations& x, int n_in, int row, int chunk) {
    const float4* from = reinterpret_cast<const float4*>(x.floats + static_cast<size_t>(row) * n_in) + chunk * (N / 4);
    FloatActs<N> acts;
#pragma unroll
    for (int i = 0; i < N / 4; i++) acts.x[i] = from[i];
    return acts;
}

static __device__ __forceinline__ float part(const float4& v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// A type of which 16 bytes are N values.
template <int N>
struct FloatType {
    static constexpr int VALUES = N;

    struct Chunk {
        uint4 quants;
    };

    static __device__ __forceinline__ Chunk load(const Planes& p, size_t at) { return {__ldcs(p.quants + at)}; }

    static __device__ __forceinline__ FloatActs<N> acts(const Activations& x, int n_in, int row, int chunk) {
        return float_acts<N>(x, n_in, row, chunk);
    }
};

// Types of 16 bits; W widens one.
template <class W>
struct SixteenBits : FloatType<8> {
    static __device__ __forceinline__ float fma(const Chunk& w, int, const FloatActs<8>& x, float sum) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const uint32_t bits = word(w.quants, i / 2) >> 16 * (i % 2) & 0xffff;
            sum = __fmaf_rn(W::widen(bits), part(x.x[i / 4], i % 4), sum);
        }
        return sum;
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        return W::widen(reinterpret_cast<const uint16_t*>(p.quants)[i]);
    }
};

struct F16 : SixteenBits<F16> {
    static __device__ __forceinline__ float widen(uint32_t bits) { return half_bits(bits); }
};

struct BF16 : SixteenBits<BF16> {
    static __device__ __forceinline__ float widen(uint32_t bits) {
        return __int_as_float(static_cast<int>(bits << 16));
    }
};

struct F32 : FloatType<4> {
    static __device__ __forceinline__ float fma(const Chunk& w, int, const FloatActs<4>& x, float sum) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sum = __fmaf_rn(__int_as_float(static_cast<int>(word(w.quants, i))), part(x.x[0], i), sum);
        }
        return sum;
    }

    static __device__ __forceinline__ float value(const Planes& p, size_t i) {
        return reinterpret_cast<const float*>(p.quants)[i];
    }
};
