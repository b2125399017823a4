// Keys and values as they lie in the cache: loads of 8 or 16 bytes, several of which can be in flight before the
// first is unpacked.
#pragma once
#include "rows.cuh"

// Bytes of a value, without the scale of its block.
template <int TYPE>
constexpr int STORED_BYTES = TYPE == CACHE_F32 ? 4 : TYPE == CACHE_F16 ? 2 : 1;

template <int BYTES>
struct Words;

template <>
struct Words<8> {
    uint2 raw;

    __device__ __forceinline__ void load(const char* p) { raw = __ldcs(reinterpret_cast<const uint2*>(p)); }
    __device__ __forceinline__ void clear() { raw.x = raw.y = 0; }
    __device__ __forceinline__ uint32_t word(int i) const { return i == 0 ? raw.x : raw.y; }
};

template <>
struct Words<16> {
    uint4 raw;

    __device__ __forceinline__ void load(const char* p) { raw = __ldcs(reinterpret_cast<const uint4*>(p)); }
    __device__ __forceinline__ void clear() { raw = make_uint4(0, 0, 0, 0); }
    __device__ __forceinline__ uint32_t word(int i) const {
        return i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w;
    }
};

// Four signed bytes as floats, exactly: byte b + 128 in the last place of 2^23.
static __device__ __forceinline__ void signed_bytes(uint32_t word, float* to) {
    const uint32_t biased = word ^ 0x80808080u;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t bits = __byte_perm(biased, 0x4b000000u, 0x7440u | i);
        to[i] = __fadd_rn(__int_as_float(static_cast<int>(bits)), -8388736.0f);
    }
}

// One position's keys or values of a head.
struct StoredRow {
    const char* data;
    int to_scales;  // bytes from there to the scales of its blocks, of q8_0
};

template <int TYPE>
static __device__ __forceinline__ StoredRow stored_row(const char* strip, int page_len, int head_dim, int slot) {
    const int at = slot * head_dim * STORED_BYTES<TYPE>;
    return {strip + at, page_len * head_dim + slot * (head_dim / BLOCK) * 2 - at};
}

// BYTES of a stored row, the `part`th such piece.
template <int TYPE, int BYTES>
struct Piece {
    static constexpr int VALUES = BYTES / STORED_BYTES<TYPE>;

    Words<BYTES> words;
    uint16_t scale;  // of q8_0

    __device__ __forceinline__ void load(const char* data, int to_scales, int part) {
        words.load(data + part * BYTES);
        if (TYPE != CACHE_Q8_0) return;
        scale = __ldcs(reinterpret_cast<const uint16_t*>(data + to_scales) + part * BYTES / BLOCK);
    }
    __device__ __forceinline__ void clear() {
        words.clear();
        scale = 0;
    }
    __device__ __forceinline__ void unpack(float* to) const {
#pragma unroll
        for (int i = 0; i < BYTES / 4; i++) {
            const uint32_t word = words.word(i);
            if (TYPE == CACHE_F32) {
                to[i] = __int_as_float(static_cast<int>(word));
            } else if (TYPE == CACHE_F16) {
                to[2 * i] = half_bits(word & 0xffff);
                to[2 * i + 1] = half_bits(word >> 16);
            } else {
                signed_bytes(word, &to[4 * i]);
            }
        }
        if (TYPE != CACHE_Q8_0) return;
        const float d = half_bits(scale);
#pragma unroll
        for (int i = 0; i < VALUES; i++) to[i] = __fmul_rn(to[i], d);
    }
};
