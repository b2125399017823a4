// matmul of the types that host.h has no blocks of: against the weights that embed.cu makes of the same planes, which
// are the bits of quant::dequantize.
#pragma once
#include "check.h"
#include "check_rows.h"
#include "host_matmul.h"

#include "../matmul_k.cu"
#include "../matmul_more.cu"

// Units of a plane: each for so many blocks, so many bytes, of which the first are so many f16.
struct Units {
    int blocks, bytes, halves;
};

struct TypeChecked {
    const char* name;
    int quant_bytes, high_bytes;  // of a block
    Units scales, steps;          // those of steps behind all those of scales
    int sums;                     // of a block: how many rounded terms it adds
    bool exponents;               // a scale is an exponent
    void (*embed)(const EmbedArgs);
    void (*matmul[3])(const MatmulArgs);
};

#define MATMULS_OF(T) { matmul_##T##_r32, matmul_##T##_r64, matmul_##T##_r128 }

static const TypeChecked TYPES_CHECKED[] = {
    {"q2_K", 8, 0, {1, 2, 0}, {8, 4, 2}, 4, false, embed_q2_K, MATMULS_OF(q2_K)},
    {"q3_K", 8, 4, {1, 1, 0}, {8, 6, 1}, 2, false, embed_q3_K, MATMULS_OF(q3_K)},
    {"q4_K", 16, 0, {8, 16, 2}, {}, 2, false, embed_q4_K, MATMULS_OF(q4_K)},
    {"q5_K", 16, 4, {8, 16, 2}, {}, 2, false, embed_q5_K, MATMULS_OF(q5_K)},
    {"q6_K", 16, 8, {1, 2, 0}, {8, 2, 1}, 2, false, embed_q6_K, MATMULS_OF(q6_K)},
    {"q5_0", 16, 4, {1, 2, 1}, {}, 1, false, embed_q5_0, MATMULS_OF(q5_0)},
    {"q5_1", 16, 4, {1, 4, 2}, {}, 2, false, embed_q5_1, MATMULS_OF(q5_1)},
    {"iq4_nl", 16, 0, {1, 2, 1}, {}, 1, false, embed_iq4_nl, MATMULS_OF(iq4_nl)},
    {"iq4_xs", 16, 0, {8, 8, 1}, {}, 1, false, embed_iq4_xs, MATMULS_OF(iq4_xs)},
    {"mxfp4", 16, 0, {1, 1, 0}, {}, 1, true, embed_mxfp4, MATMULS_OF(mxfp4)},
};

#undef MATMULS_OF

inline std::vector<uint8_t> random_bytes(size_t n, Rng& rng) {
    std::vector<uint8_t> bytes(n);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng.bits() >> 24);
    return bytes;
}

inline void add_units(const Units& units, size_t blocks, std::vector<uint8_t>& plane, Rng& rng) {
    for (size_t unit = 0; units.blocks && unit < blocks / units.blocks; unit++) {
        std::vector<uint8_t> bytes = random_bytes(units.bytes, rng);
        for (int h = 0; h < units.halves; h++) {
            const uint16_t half = to_half(0.02f * rng.uniform());
            memcpy(&bytes[2 * h], &half, 2);
        }
        plane.insert(plane.end(), bytes.begin(), bytes.end());
    }
}

inline std::vector<uint8_t> random_scales(const TypeChecked& type, size_t blocks, Rng& rng) {
    std::vector<uint8_t> scales;
    add_units(type.scales, blocks, scales, rng);
    add_units(type.steps, blocks, scales, rng);
    // 2^(e - 128), here and there one whose product with FLOAT_OF_ZERO is infinite.
    for (uint8_t& e : scales) {
        if (type.exponents) e = rng.bits() % 40 ? 100 + rng.bits() % 40 : 235;
    }
    return scales;
}

// A weight of random planes, on the device, and its values.
struct CheckedWeight {
    Device<uint8_t> quants, high, scales;
    std::vector<float> values;

    CheckedWeight(const TypeChecked& type, int n_out, int n_in, Rng& rng)
        : CheckedWeight(type, n_out, n_in, static_cast<size_t>(n_out) * n_in / BLOCK, rng) {}

private:
    CheckedWeight(const TypeChecked& type, int n_out, int n_in, size_t blocks, Rng& rng)
        : quants(random_bytes(blocks * type.quant_bytes, rng)), high(random_bytes(blocks * type.high_bytes, rng)),
          scales(random_scales(type, blocks, rng)) {
        std::vector<uint32_t> rows(n_out);
        for (int o = 0; o < n_out; o++) rows[o] = o;
        Device<uint32_t> tokens(rows);
        Device<float> on_device(static_cast<size_t>(n_out) * n_in);
        EmbedArgs args = {};
        args.rows.tokens = tokens.get();
        args.quants = reinterpret_cast<const uint4*>(quants.get());
        args.high = high.get(), args.scales = scales.get(), args.h = on_device.get();
        args.cols = n_in, args.vocab = n_out;
        CUDA_LAUNCH(type.embed, dim3(ceil_div(n_in, EMBED_THREADS), n_out), dim3(EMBED_THREADS), 0, args);
        CUDA(cudaGetLastError());
        CUDA(cudaDeviceSynchronize());
        values = on_device.download();
    }
};

// A minimum is at most as large as a block's largest weight, whose quant may be 0, and so is what is added to it less
// twice that: three times the largest weight bounds the terms of every weight of its block.
inline Truth checked_truth(const CheckedWeight& w, const Acts& x, int n_in, int row, int out, bool minima) {
    Truth y;
    for (int b = 0; b < n_in / BLOCK; b++) {
        const float* weights = &w.values[static_cast<size_t>(out) * n_in + b * BLOCK];
        const size_t at = static_cast<size_t>(row) * (n_in / BLOCK) + b;
        double largest = 0, value = 0, magnitude = 0;
        for (int i = 0; i < BLOCK; i++) largest = std::fmax(largest, std::fabs(weights[i]));
        for (int i = 0; i < BLOCK; i++) {
            const double act = static_cast<double>(x.scales[at]) * x.quants[at * BLOCK + i];
            value += weights[i] * act;
            magnitude += (minima ? 3 * largest : std::fabs(weights[i])) * std::fabs(act);
        }
        y.value += value, y.magnitude += magnitude;
    }
    return y;
}

// A fan of two weights, so that each finds its own planes.
inline std::vector<std::vector<float>> run_matmul_type(const TypeChecked& type, int n_in, int rows, const Acts& acts,
                                                       const CheckedWeight* weights, const int* outs, int variant) {
    Device<int8_t> x_quants(acts.quants);
    Device<float> x_scales(acts.scales);
    Device<int32_t> x_sums(acts.sums);
    Device<float> y0(static_cast<size_t>(rows) * outs[0]), y1(static_cast<size_t>(rows) * outs[1]);
    MatmulArgs args = {};
    int tiles = 0;
    for (int p = 0; p < 2; p++) {
        const CheckedWeight& w = weights[p];
        const uint4* quants = reinterpret_cast<const uint4*>(w.quants.get());
        const int part_tiles = ceil_div(outs[p], TILE_OUTS);
        args.parts[p] = {quants, w.high.get(), w.scales.get(), p ? y1.get() : y0.get(), {}, outs[p], part_tiles};
        tiles += part_tiles;
    }
    args.x_quants = reinterpret_cast<const uint4*>(x_quants.get());
    args.x_scales = x_scales.get(), args.x_sums = x_sums.get();
    args.n_in = n_in, args.rows = rows;
    const dim3 grid(ceil_div(rows, MATMUL_TABLE[variant].rows), tiles);
    CUDA_LAUNCH(type.matmul[variant], grid, dim3(MATMUL_THREADS), 0, args);
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    return {y0.download(), y1.download()};
}

inline void check_matmul_type(const TypeChecked& type, int n_in, int n_out, int rows, uint64_t seed) {
    Rng rng(seed);
    char name[96];
    snprintf(name, sizeof name, "matmul %s [%d x %d] rows %d", type.name, n_out, n_in, rows);
    const int outs[2] = {n_out, 37};
    const CheckedWeight weights[2] = {{type, outs[0], n_in, rng}, {type, outs[1], n_in, rng}};
    const Acts acts = quantize(random_floats(static_cast<size_t>(rows) * n_in, 4.0f, rng));
    const int first = static_cast<int>(seed % 3);
    const auto ys = run_matmul_type(type, n_in, rows, acts, weights, outs, first);
    const bool minima = type.sums > 2 || type.scales.halves == 2;
    for (int p = 0; p < 2; p++) {
        for (int at = 0; at < rows * outs[p]; at += 1 + at % 3) {  // the truth is slow
            const Truth want = checked_truth(weights[p], acts, n_in, at / outs[p], at % outs[p], minima);
            near(name, ys[p][at], want, type.sums * (n_in / BLOCK) + 6);
        }
        for (int variant = 0; variant < 3; variant++) {
            if (variant == first) continue;
            const auto others = run_matmul_type(type, n_in, rows, acts, weights, outs, variant);
            same_bits(std::string(name) + " in another variant", ys[p], others[p]);
        }
    }
}

inline void check_matmul_types(bool extra) {
    uint64_t seed = 2300;
    for (const TypeChecked& type : TYPES_CHECKED) {
        check_matmul_type(type, 256, 70, 33, seed++);
        check_matmul_type(type, 768, 129, 130, seed++);
        check_matmul_type(type, 512, 1, 9, seed++);
        if (extra) check_matmul_type(type, 4096, 1000, 200, seed++);
    }
}
