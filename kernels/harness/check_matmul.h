// matmul against the scalar truth and, bit for bit, against its formula; shrink_many against matvec's shrink.
#pragma once
#include "check.h"
#include "host_matmul.h"

// The order of additions that matmul.cuh states, without the expand.
inline float matmul_formula(const Weight& w, const Acts& x, int row, int out) {
    float sum = 0.0f;
    for (int b = 0; b < w.blocks(); b++) {
        const size_t at = static_cast<size_t>(row) * w.blocks() + b;
        int dot = 0;
        for (int i = 0; i < BLOCK; i++) dot += w.quant(out, b, i) * x.quants[at * BLOCK + i];
        sum = std::fmaf(static_cast<float>(dot) * w.d(out, b), x.scales[at], sum);
        if (w.type == TYPE_Q4_1) sum = std::fmaf(w.m(out, b), x.scales[at] * static_cast<float>(x.sums[at]), sum);
    }
    return sum;
}

// Everything on the device that a matmul of one case reads: a fan of two weights, of which the second is the first
// outputs of the first, with terms of its own.
struct MatmulInputs {
    Weight w;
    Acts acts;
    FloatMatrix b;
    std::vector<float> u;
    int second_outs;
};

inline MatmulInputs matmul_inputs(const Case& c, Rng& rng) {
    Weight w = random_weight(c.type, c.n_out, c.n_in, rng);
    Acts acts = quantize(random_floats(static_cast<size_t>(c.rows) * c.n_in, 4.0f, rng));
    std::vector<float> u = random_u(c, rng);
    return {w, acts, random_b(c, c.n_out, rng), u, std::min(c.n_out, 70)};
}

inline std::vector<float> run_matmul(const Case& c, const MatmulInputs& in, bool valve, const MatmulVariant& variant) {
    WeightPlanes planes = repack(in.w);
    Device<uint8_t> quants(planes.quants), scales(planes.scales), tiles(in.b.tiles());
    Device<int8_t> x_quants(in.acts.quants);
    Device<float> x_scales(in.acts.scales), u(in.u);
    Device<int32_t> x_sums(in.acts.sums);
    Device<uint32_t> columns(reversed_columns(c.rank));
    Device<float> y(static_cast<size_t>(c.rows) * c.n_out), y2(static_cast<size_t>(c.rows) * in.second_outs);
    Expand expand = {};
    if (valve) expand = {tiles.get(), columns.get(), u.get(), c.rank, c.rank + 1, c.f32, 0};
    MatmulArgs args = {};
    const uint4* q = reinterpret_cast<const uint4*>(quants.get());
    args.parts[0] = {q, nullptr, scales.get(), y.get(), expand, c.n_out, 0};
    args.parts[1] = {q, nullptr, scales.get(), y2.get(), {}, in.second_outs, 0};
    args.x_quants = reinterpret_cast<const uint4*>(x_quants.get());
    args.x_scales = x_scales.get();
    args.x_sums = x_sums.get();
    args.n_in = c.n_in, args.rows = c.rows;
    launch_matmul(variant, c.type, args);
    CUDA(cudaDeviceSynchronize());
    std::vector<float> result = y.download(), second = y2.download();
    if (valve) return result;
    for (int r = 0; r < c.rows; r++) {
        const float *from = &result[static_cast<size_t>(r) * c.n_out], *to = &second[r * in.second_outs];
        same_bits(c.name("second part of a fan"), std::vector<float>(from, from + in.second_outs),
                  std::vector<float>(to, to + in.second_outs));
    }
    return result;
}

inline void check_matmul(const Case& c) {
    Rng rng(c.seed);
    const MatmulInputs in = matmul_inputs(c, rng);
    const MatmulVariant& first = MATMUL_TABLE[c.seed % 3];
    const std::vector<float> bare = run_matmul(c, in, false, first), y = run_matmul(c, in, true, first);
    for (int r = 0; r < c.rows; r++) {
        const bool closed = row_closed(c, in.u, r);
        for (int o = 0; o < c.n_out; o++) {
            const size_t at = static_cast<size_t>(r) * c.n_out + o;
            comparisons++;
            if (float_bits(bare[at]) != float_bits(matmul_formula(in.w, in.acts, r, o))) fail(c.name("the formula"));
            if (closed && float_bits(bare[at]) != float_bits(y[at])) fail(c.name("matmul of a closed row"));
            if ((r + o) % 5) continue;  // the truth is slow
            near(c.name("matmul"), bare[at], matvec_truth(in.w, in.acts, r, o), 2 * in.w.blocks() + 4);
            near(c.name("matmul and expand"), y[at], expand_truth(c, in.b, in.u, r, o, bare[at]), c.rank + 2);
        }
    }
    for (const MatmulVariant& variant : MATMUL_TABLE) {
        if (variant.rows == first.rows) continue;
        same_bits(c.name("matmul in another variant"), y, run_matmul(c, in, true, variant));
    }
}

// B is infinite: a closed row keeps its bits beside open ones.
inline void check_infinite_b(const Case& c) {
    Rng rng(c.seed);
    MatmulInputs in = matmul_inputs(c, rng);
    for (float& v : in.b.values) v = HUGE_VALF;
    for (const MatmulVariant& variant : MATMUL_TABLE) {
        const std::vector<float> bare = run_matmul(c, in, false, variant), y = run_matmul(c, in, true, variant);
        for (int r = 0; r < c.rows; r++) {
            const bool closed = row_closed(c, in.u, r);
            for (int o = 0; o < c.n_out; o++) {
                const size_t at = static_cast<size_t>(r) * c.n_out + o;
                comparisons++;
                if (closed && float_bits(bare[at]) != float_bits(y[at])) fail(c.name("a closed row, B infinite"));
                if (!closed && std::isfinite(y[at])) fail(c.name("an open row, B infinite"));
            }
        }
    }
}

// ---- shrink_many --------------------------------------------------------------------------------------------------

// Openings and x where everything overflows, or not; against the shrink of matvec, whose bits it has.
inline void check_shrink_many(const Case& c, bool overflow) {
    Rng rng(c.seed);
    Weight w = random_weight(c.type, 1, c.n_in, rng);
    std::vector<float> x = random_floats(static_cast<size_t>(c.rows) * c.n_in, 4.0f, rng);
    Valve valve = random_valve(c, rng);
    for (int s = 0; s < SLOTS && c.rows > 11; s++) {  // four rows that share a block
        for (int r = 8; r < 12; r++) valve.openings[r * SLOTS + s] = 0.0f;
    }
    if (overflow) {
        for (float& v : x) v = 3e38f;
        for (float& v : valve.a.values) v = 60000.0f;
    }
    const MatvecResult want = run_matvec(c, w, quantize(x), x, &valve, MATVEC_TABLE[6]);
    Device<uint8_t> a(valve.a.row_major());
    Device<float> floats(x), openings(valve.openings), scale(valve.scale);
    Device<uint32_t> slot(valve.slot);
    Device<float> u(static_cast<size_t>(c.rows) * c.rank);
    const Shrink shrink = {a.get(), floats.get(), openings.get(), nullptr, scale.get(), slot.get(), u.get(),
                           c.rank,  SLOTS,        c.rank,         c.f32};
    launch_shrink_many({shrink, c.n_in, c.rows});
    CUDA(cudaDeviceSynchronize());
    same_bits(c.name("shrink_many"), want.u, u.download());

    // Rows in reverse through a map: the openings are those of the batch's rows.
    std::vector<float> reversed;
    std::vector<uint32_t> rows;
    for (int r = c.rows - 1; r >= 0; r--) {
        rows.push_back(r);
        reversed.insert(reversed.end(), &x[static_cast<size_t>(r) * c.n_in],
                        &x[static_cast<size_t>(r) * c.n_in] + c.n_in);
    }
    floats.upload(reversed);
    Device<uint32_t> map(rows);
    ShrinkManyArgs args = {shrink, c.n_in, c.rows};
    args.shrink.row_map = map.get();
    launch_shrink_many(args);
    CUDA(cudaDeviceSynchronize());
    const std::vector<float> got = u.download();
    for (int r = 0; r < c.rows; r++) {
        const float *from = &got[static_cast<size_t>(c.rows - 1 - r) * c.rank], *to = &want.u[r * c.rank];
        same_bits(c.name("shrink_many through a map"), std::vector<float>(to, to + c.rank),
                  std::vector<float>(from, from + c.rank));
    }
}

inline void check_matmuls(bool extra) {
    const int inputs[] = {32, 64, 576, 1536, 96}, outputs[] = {1, 31, 64, 129, 200};
    const int rows[] = {9, 16, 33, 64, 127, 128, 130}, ranks[] = {16, 0, 1, 7, 64, 130};
    uint64_t seed = 1200;
    int index = 0;
    for (WeightType type : {TYPE_Q8_0, TYPE_Q4_0, TYPE_Q4_1}) {
        for (int n_rows : rows) {
            const Case c{type, inputs[index % 5], outputs[index / 2 % 5], ranks[index % 6], n_rows, index % 2 == 0,
                         seed++};
            check_matmul(c);
            if (type == TYPE_Q8_0 && c.rank) check_shrink_many(c, false);
            index++;
        }
        check_infinite_b({type, 64, 70, 33, 40, index % 2 == 0, seed++});
        if (extra) check_matmul({type, 4096, 4096, 64, 512, false, seed++});
    }
    check_matmul({TYPE_Q4_0, 576, 576, 16, 130, false, seed++});
    check_shrink_many({TYPE_Q8_0, 2080, 1, 37, 19, false, seed++}, false);
    check_shrink_many({TYPE_Q8_0, 1536, 1, 16, 14, true, seed++}, true);
    check_shrink_many({TYPE_Q8_0, 64, 1, 3, 13, false, seed++}, true);
}
