// Every kernel against the scalar truth, and the equalities that the laws of alpha demand.
//
// Tolerances are bounds on rounding, not taste: a sum whose longest chain of additions has n links, over terms of
// total magnitude M, is off by at most about n * 2^-24 * M. Equalities are bit for bit.
#pragma once
#include "reference.h"

static int failures = 0;
static long comparisons = 0;

inline void fail(const std::string& what) {
    if (++failures <= 20) fprintf(stderr, "FAILED %s\n", what.c_str());
}

inline void near(const std::string& what, double got, const Truth& want, double links) {
    comparisons++;
    double bound = links * 0x1p-24 * want.magnitude + 1e-37;
    if (!(std::fabs(got - want.value) <= bound)) {
        char numbers[160];
        snprintf(numbers, sizeof numbers, ": got %.9g, want %.9g, bound %.3g", got, want.value, bound);
        fail(what + numbers);
    }
}

template <class T>
void same_bits(const std::string& what, const std::vector<T>& a, const std::vector<T>& b) {
    comparisons++;
    if (a.size() != b.size() || memcmp(a.data(), b.data(), a.size() * sizeof(T)) != 0) fail(what + ": bits differ");
}

inline uint32_t float_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

// One size of everything: rows of a batch, a weight, a valve of `rank` columns in three slots.
struct Case {
    WeightType type;
    int n_in, n_out, rank, rows;
    bool f32;
    uint64_t seed;

    std::string name(const char* kernel) const {
        char text[128];
        snprintf(text, sizeof text, "%s %s [%d x %d] rank %d %s rows %d", kernel, type_name(type), n_out, n_in, rank,
                 f32 ? "f32" : "f16", rows);
        return text;
    }
};

constexpr int SLOTS = 3;

// What of the valve is open: row 0 wholly closed by +0, row 1 by -0, in the others slot 1 closed and the rest open.
inline std::vector<float> mixed_openings(int rows, Rng& rng) {
    std::vector<float> openings(static_cast<size_t>(rows) * SLOTS);
    for (int r = 0; r < rows; r++) {
        for (int s = 0; s < SLOTS; s++) {
            float open = s == 1 ? (r % 2 ? -0.0f : 0.0f) : 0.5f + rng.uniform();
            openings[r * SLOTS + s] = r == 0 ? 0.0f : r == 1 ? -0.0f : open;
        }
    }
    return openings;
}

// A valve's columns, and its openings, on the host.
struct Valve {
    FloatMatrix a;
    std::vector<float> openings, scale;
    std::vector<uint32_t> slot;
};

inline Valve random_valve(const Case& c, Rng& rng) {
    Valve v{random_matrix(c.rank, c.n_in, c.f32, 0.1f, rng), mixed_openings(c.rows, rng), {}, {}};
    for (int j = 0; j < c.rank; j++) {
        v.scale.push_back(2.0f + rng.uniform());
        v.slot.push_back(rng.bits() % SLOTS);
    }
    return v;
}

inline std::vector<float> random_floats(size_t n, float scale, Rng& rng) {
    std::vector<float> v(n);
    for (float& x : v) x = scale * rng.uniform();
    return v;
}

// ---- matvec -------------------------------------------------------------------------------------------------------

struct MatvecResult {
    std::vector<float> y, u;
};

// Runs one variant over a fan of two weights (the second is the first three outputs again) and a valve, or none.
inline MatvecResult run_matvec(const Case& c, const Weight& w, const Acts& acts, const std::vector<float>& x,
                               const Valve* valve, const Matvec& variant) {
    WeightPlanes planes = repack(w);
    Device<uint8_t> quants(planes.quants), scales(planes.scales);
    Device<int8_t> x_quants(acts.quants);
    Device<float> x_scales(acts.scales), floats(x);
    Device<int32_t> x_sums(acts.sums);
    int second_outs = c.n_out < 3 ? c.n_out : 3;
    Device<float> y(static_cast<size_t>(c.rows) * c.n_out), y2(static_cast<size_t>(c.rows) * second_outs);
    MatvecArgs args = {};
    const uint4* q = reinterpret_cast<const uint4*>(quants.get());
    args.parts[0] = {q, nullptr, scales.get(), y.get(), c.n_out, 0};
    args.parts[1] = {q, nullptr, scales.get(), y2.get(), second_outs, 0};
    args.x = {reinterpret_cast<const uint4*>(x_quants.get()), x_scales.get(), x_sums.get(), nullptr};
    args.n_in = c.n_in;
    args.rows = c.rows;

    int rank = valve ? c.rank : 0;
    Device<float> u(static_cast<size_t>(c.rows) * rank);
    Device<uint8_t> a(valve ? valve->a.row_major() : std::vector<uint8_t>());
    Device<float> openings(valve ? valve->openings : std::vector<float>());
    Device<float> scale(valve ? valve->scale : std::vector<float>());
    Device<uint32_t> slot(valve ? valve->slot : std::vector<uint32_t>());
    if (valve) {
        args.shrink = {a.get(), floats.get(), openings.get(), nullptr, scale.get(), slot.get(), u.get(),
                       rank,    SLOTS,        rank,           c.f32};
    }
    launch_matvec(variant, c.type, args);
    CUDA(cudaDeviceSynchronize());
    MatvecResult result{y.download(), u.download()};
    std::vector<float> second = y2.download();
    for (int r = 0; r < c.rows; r++) {
        std::vector<float> first(&result.y[r * c.n_out], &result.y[r * c.n_out] + second_outs);
        same_bits(c.name("second part of a fan"), first,
                  std::vector<float>(&second[r * second_outs], &second[r * second_outs] + second_outs));
    }
    return result;
}

inline void check_matvec(const Case& c) {
    Rng rng(c.seed);
    Weight w = random_weight(c.type, c.n_out, c.n_in, rng);
    std::vector<float> x = random_floats(static_cast<size_t>(c.rows) * c.n_in, 4.0f, rng);
    Acts acts = quantize(x);
    Valve valve = random_valve(c, rng);
    MatvecResult bare = run_matvec(c, w, acts, x, nullptr, MATVEC_TABLE[0]);
    MatvecResult first = run_matvec(c, w, acts, x, &valve, MATVEC_TABLE[0]);
    same_bits(c.name("y with a valve attached"), bare.y, first.y);
    for (int r = 0; r < c.rows; r++) {
        for (int o = 0; o < c.n_out; o++) {
            near(c.name("matvec"), first.y[r * c.n_out + o], matvec_truth(w, acts, r, o), c.n_in / 512 * 2 + 16);
        }
        for (int j = 0; j < c.rank; j++) {
            float u = first.u[r * c.rank + j];
            float open = valve.openings[r * SLOTS + valve.slot[j]];
            if (open == 0.0f) {
                comparisons++;
                if (float_bits(u) != 0) fail(c.name("u of a closed row"));
                continue;
            }
            Truth dot = dot_truth(&valve.a.values[static_cast<size_t>(j) * c.n_in], &x[r * c.n_in], c.n_in);
            double factor = static_cast<double>(open) * valve.scale[j];
            near(c.name("shrink"), u, {dot.value * factor, dot.magnitude * std::fabs(factor)}, c.n_in / 128 + 24);
        }
    }
    for (const Matvec& variant : MATVEC_TABLE) {
        MatvecResult other = run_matvec(c, w, acts, x, &valve, variant);
        same_bits(c.name("matvec in another variant"), first.y, other.y);
        same_bits(c.name("shrink in another variant"), first.u, other.u);
    }
}

// A.x overflows in every row: a closed row keeps u = 0, an open one shows the infinity.
inline void check_overflow(const Case& c) {
    Rng rng(c.seed);
    Weight w = random_weight(c.type, c.n_out, c.n_in, rng);
    std::vector<float> x(static_cast<size_t>(c.rows) * c.n_in, 3e38f);
    Acts acts = quantize(x);
    Valve valve = random_valve(c, rng);
    for (float& v : valve.a.values) v = 60000.0f;
    MatvecResult bare = run_matvec(c, w, acts, x, nullptr, MATVEC_TABLE[0]);
    for (const Matvec& variant : MATVEC_TABLE) {
        MatvecResult result = run_matvec(c, w, acts, x, &valve, variant);
        same_bits(c.name("y beside an overflow"), bare.y, result.y);
        for (int r = 0; r < c.rows; r++) {
            for (int j = 0; j < c.rank; j++) {
                comparisons++;
                float u = result.u[r * c.rank + j];
                bool closed = valve.openings[r * SLOTS + valve.slot[j]] == 0.0f;
                if (closed ? float_bits(u) != 0 : !std::isinf(u)) fail(c.name("u beside an overflow"));
            }
        }
    }
}

// ---- The consumers ------------------------------------------------------------------------------------------------

// u as a shrink would leave it: 0 where closed. One column more than the rank, which no term reads.
inline std::vector<float> random_u(const Case& c, Rng& rng) {
    std::vector<float> openings = mixed_openings(c.rows, rng), u;
    for (int r = 0; r < c.rows; r++) {
        for (int j = 0; j < c.rank; j++) {
            float value = rng.uniform();
            u.push_back(openings[r * SLOTS + j % SLOTS] == 0.0f ? 0.0f : value);
        }
        u.push_back(NAN);
    }
    return u;
}

// B of the consumers, infinite where slot 1, closed in every row, would multiply it.
inline FloatMatrix random_b(const Case& c, int rows, Rng& rng) {
    FloatMatrix b = random_matrix(rows, c.rank, c.f32, 1.0f, rng);
    for (size_t i = 0; i < b.values.size(); i++) {
        int column = c.rank - 1 - static_cast<int>(i % c.rank);
        if (column % SLOTS == 1) b.values[i] = HUGE_VALF;
    }
    return b;
}

// The columns of u in reverse, so that the map is not the identity.
inline std::vector<uint32_t> reversed_columns(int rank) {
    std::vector<uint32_t> columns;
    for (int j = 0; j < rank; j++) columns.push_back(rank - 1 - j);
    return columns;
}

// y + B u, skipping the zeros of u.
inline Truth expand_truth(const Case& c, const FloatMatrix& b, const std::vector<float>& u, int row, int o, float y) {
    Truth sum;
    sum.add(y);
    for (int k = 0; k < c.rank; k++) {
        float factor = u[row * (c.rank + 1) + c.rank - 1 - k];
        if (factor != 0.0f) sum.add(static_cast<double>(factor) * b.values[static_cast<size_t>(o) * c.rank + k]);
    }
    return sum;
}

inline bool row_closed(const Case& c, const std::vector<float>& u, int row) {
    for (int j = 0; j < c.rank; j++) {
        if (u[row * (c.rank + 1) + j] != 0.0f) return false;
    }
    return true;
}

inline void check_residual(const Case& c) {
    Rng rng(c.seed);
    size_t n = static_cast<size_t>(c.rows) * c.n_out;
    std::vector<float> h = random_floats(n, 1.0f, rng), y = random_floats(n, 1.0f, rng), u = random_u(c, rng);
    h[0] = y[0] = -0.0f;  // adding a 0 to it would show
    FloatMatrix b = random_b(c, c.n_out, rng);
    Device<uint8_t> tiles(b.tiles());
    Device<float> y_device(y), u_device(u), h_device(h);
    Device<uint32_t> columns(reversed_columns(c.rank));
    Expand expand = {tiles.get(), columns.get(), u_device.get(), c.rank, c.rank + 1, c.f32, 0};
    std::vector<float> first;
    for (int variant : {1, 2, 4, 8}) {
        h_device.upload(h);
        launch_residual(variant, {h_device.get(), y_device.get(), expand, c.n_out, c.rows});
        CUDA(cudaDeviceSynchronize());
        std::vector<float> got = h_device.download();
        if (variant == 1) first = got;
        same_bits(c.name("residual in another variant"), first, got);
    }
    for (int r = 0; r < c.rows; r++) {
        bool closed = row_closed(c, u, r);
        for (int o = 0; o < c.n_out; o++) {
            size_t at = static_cast<size_t>(r) * c.n_out + o;
            Truth truth = expand_truth(c, b, u, r, o, y[at]);
            truth.add(h[at]);
            near(c.name("residual"), first[at], truth, c.rank + 4);
            if (closed && float_bits(first[at]) != float_bits(h[at] + y[at])) fail(c.name("residual of a closed row"));
        }
    }
}

inline void check_quants(const Case& c, const char* what, const Acts& want, const Device<int8_t>& quants,
                         const Device<float>& scales, const Device<int32_t>& sums) {
    same_bits(c.name(what) + " quants", want.quants, quants.download());
    same_bits(c.name(what) + " scales", want.scales, scales.download());
    same_bits(c.name(what) + " sums", want.sums, sums.download());
}

// Raw and normed; the normed one reads its rows through a map, last row first.
inline void check_quantize(const Case& c) {
    Rng rng(c.seed);
    size_t n = static_cast<size_t>(c.rows) * c.n_in;
    std::vector<float> x = random_floats(n, 4.0f, rng), weight = random_floats(c.n_in, 1.0f, rng);
    for (int i = 0; i < BLOCK; i++) x[i] = i % 2 ? -0.0f : 0.0f;
    if (c.n_in > BLOCK) {
        for (int i = 0; i < BLOCK; i++) x[BLOCK + i] = 0x1p-149f * static_cast<float>(i - 16);
    }
    std::vector<float> odd = x;  // the norm of such a row has no finite truth
    odd[n - 1] = NAN;
    if (c.n_in > 2 * BLOCK) odd[n - 1 - BLOCK] = -HUGE_VALF;
    std::vector<uint32_t> map;
    for (int r = 0; r < c.rows; r++) map.push_back(c.rows - 1 - r);
    Device<float> x_device(x), weight_device(weight), scales(n / BLOCK), floats(n);
    Device<uint32_t> map_device(map);
    Device<int8_t> quants(n);
    Device<int32_t> sums(n / BLOCK);
    Quantized out = {quants.get(), scales.get(), sums.get(), nullptr};
    for (const std::vector<float>& raw : {odd, x}) {
        x_device.upload(raw);
        launch_quantize({x_device.get(), nullptr, nullptr, out, c.n_in, 0.0f}, c.rows);
        CUDA(cudaDeviceSynchronize());
        check_quants(c, "quantize", quantize(raw), quants, scales, sums);
    }

    const float eps = 1e-5f;
    out.floats = floats.get();
    launch_quantize({x_device.get(), weight_device.get(), map_device.get(), out, c.n_in, eps}, c.rows);
    CUDA(cudaDeviceSynchronize());
    std::vector<float> got = floats.download();
    check_quants(c, "norm and quantize", quantize(got), quants, scales, sums);
    for (int r = 0; r < c.rows; r++) {
        const float* from = &x[static_cast<size_t>(map[r]) * c.n_in];
        double rms = 1.0 / std::sqrt(dot_truth(from, from, c.n_in).value / c.n_in + eps);
        for (int i = 0; i < c.n_in; i++) {
            Truth truth;
            truth.add(from[i] * rms * weight[i]);
            near(c.name("norm"), got[static_cast<size_t>(r) * c.n_in + i], truth, c.n_in / 256 + 24);
        }
    }
}

inline void check_gated(const Case& c) {
    Rng rng(c.seed);
    size_t n = static_cast<size_t>(c.rows) * c.n_in;
    std::vector<float> gate = random_floats(n, 8.0f, rng), up = random_floats(n, 2.0f, rng), u = random_u(c, rng);
    FloatMatrix bg = random_b(c, c.n_in, rng);
    FloatMatrix bu = random_b(c, c.n_in, rng);
    Device<uint8_t> gate_tiles(bg.tiles()), up_tiles(bu.tiles());
    Device<float> gate_device(gate), up_device(up), u_device(u);
    Device<uint32_t> columns(reversed_columns(c.rank));
    Expand expand = {gate_tiles.get(), columns.get(), u_device.get(), c.rank, c.rank + 1, c.f32, 0};
    GatedArgs args = {gate_device.get(), up_device.get(), expand, expand, {}, c.n_in, c.rows};
    args.up_expand.b = up_tiles.get();
    std::vector<float> first;
    for (int variant : {1, 2, 4, 8}) {
        Device<int8_t> quants(n);
        Device<float> scales(n / BLOCK), floats(n);
        Device<int32_t> sums(n / BLOCK);
        args.out = {quants.get(), scales.get(), sums.get(), floats.get()};
        launch_gated(variant, args);
        CUDA(cudaDeviceSynchronize());
        std::vector<float> got = floats.download();
        check_quants(c, "gated", quantize(got), quants, scales, sums);
        if (variant == 1) first = got;
        same_bits(c.name("gated in another variant"), first, got);
    }
    for (int r = 0; r < c.rows; r++) {
        for (int i = 0; i < c.n_in; i++) {
            size_t at = static_cast<size_t>(r) * c.n_in + i;
            Truth g = expand_truth(c, bg, u, r, i, gate[at]), v = expand_truth(c, bu, u, r, i, up[at]);
            double sigmoid = 1.0 / (1.0 + std::exp(-g.value));
            // silu has slope at most 1.1, so an error in gate grows by no more; expf adds a few units of its own.
            Truth truth{g.value * sigmoid * v.value,
                        1.1 * g.magnitude * v.magnitude + std::fabs(g.value * v.value)};
            near(c.name("gated"), first[at], truth, c.rank + 12);
        }
    }
}

// ---- All sizes ----------------------------------------------------------------------------------------------------

// Sizes are paired, not multiplied out: every n_in with every type, and each list's edges at least once per type.
// `extra` adds the sizes that only a GPU runs in reasonable time.
inline void check_matvecs(bool extra) {
    const int inputs[] = {32, 64, 576, 1536, 4096}, ranks[] = {0, 1, 2, 7, 16, 64, 130}, outputs[] = {1, 5, 33, 70};
    uint64_t seed = 1;
    int index = 0;
    for (WeightType type : {TYPE_Q8_0, TYPE_Q4_0, TYPE_Q4_1}) {
        for (int n_in : inputs) {
            for (int rows : {1, 2, 3, 4, 5, 6, 7, 8, 11}) {
                Case c{type, n_in, outputs[index % 4], ranks[index % 7], rows, index % 2 == 0, seed++};
                check_matvec(c);
                check_residual(c);
                if (type == TYPE_Q8_0) check_quantize(c);
                if (type == TYPE_Q8_0 && n_in < 1000) check_gated(c);
                index++;
            }
        }
        check_overflow({type, 576, 5, 7, 5, true, seed++});
        check_overflow({type, 64, 33, 16, 8, false, seed++});
        if (extra) {
            check_matvec({type, 4096, 4096, 16, 1, false, seed++});
            check_matvec({type, 14336, 1024, 64, 8, false, seed++});
            check_residual({type, 4096, 14336, 64, 8, false, seed++});
        }
    }
}

inline int summary() {
    printf("%ld comparisons, %d failures\n", comparisons, failures);
    return failures ? 1 : 0;
}
