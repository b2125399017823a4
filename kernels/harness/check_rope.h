// rope_store against the scalar truth: turns, the cache's formats, its pages, and the laws of a closed valve.
#pragma once
#include "check.h"
#include "paged.h"

struct RopeCase {
    int head_dim, heads, kv_heads, rotated, page_len, rank;
    bool f32;  // B
    uint64_t seed;

    std::string name(const char* what) const {
        char text[160];
        snprintf(text, sizeof text, "%s, %d of %d heads, head_dim %d, rotated %d, pages of %d, rank %d", what, kv_heads,
                 heads, head_dim, rotated, page_len, rank);
        return text;
    }
    int columns(int which) const { return (which == 0 ? heads : kv_heads) * head_dim; }
};

// q, k and v of some rows, what they owe, and where they stand.
struct RopeInputs {
    std::vector<float> x[3], u;
    FloatMatrix b[3];
    std::vector<double> turns;
    PagedRows rows;
    Case valve;
};

inline RopeInputs rope_inputs(const RopeCase& c, Rng& rng) {
    RopeInputs in{{}, {}, {}, {}, PagedRows({5000, 1, 90}, c.page_len, rng), {}};
    for (int position : {4999, 3, 4998}) in.rows.add(0, position);
    in.rows.add(1, 0);
    for (int position = 40; position < 47; position++) in.rows.add(2, position);
    in.valve = {TYPE_Q8_0, 0, 0, c.rank, in.rows.count(), c.f32, c.seed};
    in.u = random_u(in.valve, rng);
    for (int which = 0; which < 3; which++) {
        in.x[which] = random_floats(static_cast<size_t>(in.rows.count()) * c.columns(which), 4.0f, rng);
        in.b[which] = random_b(in.valve, c.columns(which), rng);
    }
    for (int i = 0; i < c.rotated / 2; i++) in.turns.push_back(std::pow(1e4, -2.0 * i / c.rotated) / (2 * M_PI));
    return in;
}

// What a run leaves: q, and all of the cache.
struct RopeResult {
    std::vector<float> q;
    std::vector<uint8_t> cache;
};

inline RopeResult run_rope(const RopeCase& c, const RopeInputs& in, const PagedCache& cache, int variant, bool owes) {
    Device<float> q(in.x[0]), k(in.x[1]), v(in.x[2]), u(in.u);
    Device<double> turns(in.turns);
    Device<uint8_t> data(cache.bytes), q_b(in.b[0].tiles()), k_b(in.b[1].tiles()), v_b(in.b[2].tiles());
    Device<uint32_t> columns(reversed_columns(c.rank));
    DeviceRows rows(in.rows);
    Expand owed = {q_b.get(), columns.get(), u.get(), owes ? c.rank : 0, c.rank + 1, c.f32, 0};
    RopeStoreArgs args = {rows.get(), cache.shape, q.get(), k.get(), v.get(), turns.get(), owed, owed, owed,
                          c.heads, in.rows.count(), c.rotated, 0};
    args.k_expand.b = k_b.get(), args.v_expand.b = v_b.get();
    args.cache.data = reinterpret_cast<char*>(data.get());
    launch_rope_store(variant, args);
    CUDA(cudaDeviceSynchronize());
    return {q.download(), data.download()};
}

// A row's columns of q, k or v: with B u, and turned.
inline std::vector<Truth> rope_truth(const RopeCase& c, const RopeInputs& in, int which, int row) {
    std::vector<Truth> y;
    int n = c.columns(which);
    for (int i = 0; i < n; i++) {
        y.push_back(expand_truth(in.valve, in.b[which], in.u, row, i, in.x[which][static_cast<size_t>(row) * n + i]));
    }
    for (int i = 0; which < 2 && i < n; i += 2) {
        if (i % c.head_dim >= c.rotated) continue;
        double turn = in.rows.positions[row] * in.turns[i % c.head_dim / 2];
        double cosine = std::cos(2 * M_PI * (turn - std::rint(turn)));
        double sine = std::sin(2 * M_PI * (turn - std::rint(turn)));
        Truth a = y[i], b = y[i + 1];
        y[i] = {a.value * cosine - b.value * sine, a.magnitude + b.magnitude};
        y[i + 1] = {a.value * sine + b.value * cosine, a.magnitude + b.magnitude};
    }
    return y;
}

// The f32 cache's keys and values of a row.
inline std::vector<float> stored_row(const RopeCase& c, const PagedCache& cache, const PagedRows& rows, int which,
                                     int row) {
    std::vector<float> x;
    uint32_t position = rows.positions[row];
    for (int i = 0; i < c.columns(1); i++) {
        x.push_back(cache.read(rows.page(row, position), which, i / c.head_dim, position % c.page_len, i % c.head_dim));
    }
    return x;
}

inline void check_rope(const RopeCase& c) {
    Rng rng(c.seed);
    RopeInputs in = rope_inputs(c, rng);
    PagedCache empty(CACHE_F32, c.head_dim, c.kv_heads, c.page_len, in.rows.page_count);
    RopeResult first = run_rope(c, in, empty, 1, true), bare = run_rope(c, in, empty, 8, false);
    PagedCache exact = empty, without = empty;
    exact.bytes = first.cache, without.bytes = bare.cache;
    for (int row = 0; row < in.rows.count(); row++) {
        auto from = first.q.begin() + static_cast<size_t>(row) * c.columns(0);
        auto from_bare = bare.q.begin() + static_cast<size_t>(row) * c.columns(0);
        std::vector<float> got[3] = {std::vector<float>(from, from + c.columns(0))};
        for (int which = 0; which < 2; which++) got[which + 1] = stored_row(c, exact, in.rows, which, row);
        for (int which = 0; which < 3; which++) {
            std::vector<Truth> truth = rope_truth(c, in, which, row);
            for (int i = 0; i < c.columns(which); i++) near(c.name("rope"), got[which][i], truth[i], c.rank + 8);
        }
        if (!row_closed(in.valve, in.u, row)) continue;
        same_bits(c.name("q of a closed row"), got[0], std::vector<float>(from_bare, from_bare + c.columns(0)));
        same_bits(c.name("k of a closed row"), got[1], stored_row(c, without, in.rows, 0, row));
        same_bits(c.name("v of a closed row"), got[2], stored_row(c, without, in.rows, 1, row));
    }
    // What else is stored follows from the f32 run: the same values, rounded, in the same slots, and nothing beside.
    for (int type : {CACHE_F32, CACHE_F16, CACHE_Q8_0}) {
        if (type == CACHE_Q8_0 && c.head_dim % BLOCK) continue;
        PagedCache blank(type, c.head_dim, c.kv_heads, c.page_len, in.rows.page_count), want = blank;
        for (int row = 0; row < in.rows.count(); row++) {
            uint32_t position = in.rows.positions[row];
            for (int which = 0; which < 2; which++) {
                std::vector<float> x = stored_row(c, exact, in.rows, which, row);
                for (int head = 0; head < c.kv_heads; head++) {
                    want.write(in.rows.page(row, position), which, head, position % c.page_len, &x[head * c.head_dim]);
                }
            }
        }
        for (int variant : {1, 2, 4, 8}) {
            RopeResult other = run_rope(c, in, blank, variant, true);
            same_bits(c.name("q in another variant"), first.q, other.q);
            same_bits(c.name("cache ") + cache_type_name(type), want.bytes, other.cache);
        }
    }
}

// Blocks of q8_0 with ties, zeros and what is no number, as values, which do not turn.
inline void check_q8_0_edges() {
    RopeCase c{64, 1, 1, 64, 16, 0, false, 99};
    Rng rng(c.seed);
    RopeInputs in = rope_inputs(c, rng);
    std::vector<float>& v = in.x[2];
    const float ties[] = {127.0f, 0.5f, -0.5f, 1.5f, -2.5f, -0.0f, 126.5f, -126.5f};
    for (int i = 0; i < BLOCK; i++) {
        v[i] = i < 8 ? ties[i] : 0.0f;
        v[BLOCK + i] = i % 2 ? -0.0f : 0.0f;
        v[2 * BLOCK + i] = i == 7 ? NAN : 1.0f;
        v[3 * BLOCK + i] = i == 9 ? -HUGE_VALF : 1.0f;
    }
    PagedCache cache(CACHE_Q8_0, c.head_dim, c.kv_heads, c.page_len, in.rows.page_count);
    cache.bytes = run_rope(c, in, cache, 1, false).cache;
    for (int i = 0; i < 4 * BLOCK; i++) {
        uint32_t position = in.rows.positions[i / 64];
        float got = cache.read(in.rows.page(i / 64, position), 1, 0, position % c.page_len, i % 64);
        comparisons++;
        bool right = i < 2 * BLOCK ? got == std::round(v[i]) : std::isnan(got);
        if (!right) fail(c.name("a q8_0 block's edge"));
    }
}

inline void check_ropes() {
    uint64_t seed = 500;
    check_rope({64, 3, 1, 64, 16, 7, false, seed++});
    check_rope({64, 1, 1, 32, 64, 0, true, seed++});
    check_rope({80, 3, 3, 20, 16, 16, true, seed++});
    check_rope({96, 4, 2, 96, 32, 3, false, seed++});
    check_rope({128, 8, 2, 128, 64, 33, false, seed++});
    check_rope({256, 2, 1, 64, 1, 2, true, seed++});
    check_q8_0_edges();
}
