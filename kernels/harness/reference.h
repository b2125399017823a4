// Scalar truth for every kernel, in double precision, from the file formats' blocks; and the layouts a device wants.
#pragma once
#include "host.h"

// ---- f16, for the host side of both builds ------------------------------------------------------------------------

inline float from_half(uint16_t bits) {
    double magnitude = bits & 0x3ff, exponent = bits >> 10 & 31;
    double value = exponent == 0    ? std::ldexp(magnitude, -24)
                   : exponent == 31 ? (magnitude == 0 ? HUGE_VAL : NAN)
                                    : std::ldexp(magnitude + 1024, static_cast<int>(exponent) - 25);
    return static_cast<float>(bits & 0x8000 ? -value : value);
}

// Rounds toward zero: it makes test data.
inline uint16_t to_half(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    double magnitude = std::fabs(x);
    if (magnitude >= 65536) return sign | 0x7c00;
    if (magnitude < 0x1p-14) return sign | static_cast<uint16_t>(std::ldexp(magnitude, 24));
    int exponent = std::ilogb(magnitude);
    int mantissa = static_cast<int>(std::ldexp(magnitude, 10 - exponent));  // 1024..2048
    return sign | static_cast<uint16_t>((exponent + 14) * 1024 + mantissa);
}

// ---- Weights ------------------------------------------------------------------------------------------------------

// A weight as a file holds it: n_out rows of n_in / 32 blocks of 34 (q8_0), 18 (q4_0) or 20 (q4_1) bytes.
struct Weight {
    WeightType type;
    int n_out, n_in;
    std::vector<uint8_t> file;

    int blocks() const { return n_in / BLOCK; }
    int head_bytes() const { return type == TYPE_Q4_1 ? 4 : 2; }
    int quant_bytes() const { return type == TYPE_Q8_0 ? 32 : 16; }
    const uint8_t* block(int out, int b) const {
        return &file[(static_cast<size_t>(out) * blocks() + b) * (head_bytes() + quant_bytes())];
    }
    float d(int out, int b) const { return half_at(block(out, b)); }
    float m(int out, int b) const { return type == TYPE_Q4_1 ? half_at(block(out, b) + 2) : 0.0f; }
    // The integer of element i of a block, so that w = d * quant + m.
    int quant(int out, int b, int i) const {
        const uint8_t* q = block(out, b) + head_bytes();
        if (type == TYPE_Q8_0) return static_cast<int8_t>(q[i]);
        int nibble = i < 16 ? q[i] & 15 : q[i - 16] >> 4;
        return type == TYPE_Q4_0 ? nibble - 8 : nibble;
    }

private:
    static float half_at(const uint8_t* p) { return from_half(static_cast<uint16_t>(p[0] | p[1] << 8)); }
};

inline Weight random_weight(WeightType type, int n_out, int n_in, Rng& rng) {
    Weight w{type, n_out, n_in, {}};
    for (int b = 0; b < n_out * w.blocks(); b++) {
        for (int i = 0; i < w.head_bytes(); i += 2) {
            uint16_t half = to_half(0.02f * rng.uniform());
            w.file.push_back(half & 0xff);
            w.file.push_back(half >> 8);
        }
        for (int i = 0; i < w.quant_bytes(); i++) w.file.push_back(static_cast<uint8_t>(rng.bits() >> 24));
    }
    return w;
}

// The planes that matvec.cu reads.
struct WeightPlanes {
    std::vector<uint8_t> quants, scales;
};

inline WeightPlanes repack(const Weight& w) {
    WeightPlanes planes;
    for (int out = 0; out < w.n_out; out++) {
        for (int b = 0; b < w.blocks(); b++) {
            const uint8_t* block = w.block(out, b);
            planes.scales.insert(planes.scales.end(), block, block + w.head_bytes());
            planes.quants.insert(planes.quants.end(), block + w.head_bytes(),
                                 block + w.head_bytes() + w.quant_bytes());
        }
    }
    return planes;
}

// ---- A float matrix in f16 or f32: A of a valve -------------------------------------------------------------------

struct FloatMatrix {
    int rows, cols;
    bool f32;
    std::vector<float> values;  // exactly what the bytes hold

    std::vector<uint8_t> encode(const std::vector<float>& v) const {
        std::vector<uint8_t> bytes(v.size() * (f32 ? 4 : 2));
        for (size_t i = 0; i < v.size(); i++) {
            uint16_t half = f32 ? 0 : to_half(v[i]);
            if (f32) memcpy(&bytes[4 * i], &v[i], 4);
            else memcpy(&bytes[2 * i], &half, 2);
        }
        return bytes;
    }
    std::vector<uint8_t> row_major() const { return encode(values); }
    // The tiles that expand.cuh reads: [tile of 32 rows][eighth of the columns][row in tile][8].
    std::vector<uint8_t> tiles() const {
        int eighths = ceil_div(cols, 8);
        std::vector<float> v(static_cast<size_t>(ceil_div(rows, WARP)) * WARP * eighths * 8, 0.0f);
        for (int o = 0; o < rows; o++) {
            for (int k = 0; k < cols; k++) {
                size_t at = ((static_cast<size_t>(o / WARP) * eighths + k / 8) * WARP + o % WARP) * 8 + k % 8;
                v[at] = values[static_cast<size_t>(o) * cols + k];
            }
        }
        return encode(v);
    }
};

inline FloatMatrix random_matrix(int rows, int cols, bool f32, float scale, Rng& rng) {
    FloatMatrix m{rows, cols, f32, std::vector<float>(static_cast<size_t>(rows) * cols)};
    for (float& v : m.values) {
        v = scale * rng.uniform();
        if (!f32) v = from_half(to_half(v));
    }
    return m;
}

// ---- The formulas -------------------------------------------------------------------------------------------------

// A value and the sum of the magnitudes that went into it, the unit of its rounding error.
struct Truth {
    double value = 0, magnitude = 0;

    void add(double term) {
        value += term;
        magnitude += std::fabs(term);
    }
};

struct Acts {
    std::vector<int8_t> quants;
    std::vector<float> scales;
    std::vector<int32_t> sums;
};

// Rows of blocks: d = max|x| / 127, q = round(x * (127 / max|x|)), ties to even. A block that is not finite has d = NaN
// and q = 0; one where 127 / max|x| is not finite has d = 0 and q = 0.
inline Acts quantize(const std::vector<float>& x) {
    Acts a;
    for (size_t at = 0; at < x.size(); at += BLOCK) {
        float largest = 0;
        bool finite = true;
        for (int i = 0; i < BLOCK; i++) {
            largest = std::fmax(largest, std::fabs(x[at + i]));
            finite = finite && std::isfinite(x[at + i]);
        }
        float step = 127.0f / largest;
        bool representable = finite && std::isfinite(step);
        int sum = 0;
        for (int i = 0; i < BLOCK; i++) {
            float scaled = representable ? std::nearbyint(x[at + i] * step) : 0.0f;
            int q = static_cast<int>(std::fmin(127.0f, std::fmax(-127.0f, scaled)));
            a.quants.push_back(static_cast<int8_t>(q));
            sum += q;
        }
        int nan = 0x7fffffff;
        float scale = representable ? largest / 127.0f : 0.0f;
        if (!finite) memcpy(&scale, &nan, 4);
        a.scales.push_back(scale);
        a.sums.push_back(sum);
    }
    return a;
}

// The terms are what a kernel adds: the exact integer dot of a block, for q8_0 of each half block.
inline Truth matvec_truth(const Weight& w, const Acts& x, int row, int out) {
    Truth y;
    const int chunk = w.type == TYPE_Q8_0 ? 16 : 32;
    for (int b = 0; b < w.blocks(); b++) {
        size_t at = static_cast<size_t>(row) * w.blocks() + b;
        for (int first = 0; first < BLOCK; first += chunk) {
            int dot = 0;
            for (int i = first; i < first + chunk; i++) dot += w.quant(out, b, i) * x.quants[at * BLOCK + i];
            y.add(static_cast<double>(w.d(out, b)) * x.scales[at] * dot);
        }
        y.add(static_cast<double>(w.m(out, b)) * x.scales[at] * x.sums[at]);
    }
    return y;
}

inline Truth dot_truth(const float* a, const float* x, int n) {
    Truth y;
    for (int i = 0; i < n; i++) y.add(static_cast<double>(a[i]) * x[i]);
    return y;
}
