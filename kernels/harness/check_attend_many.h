// attend_many against the scalar truth, and against itself in other tiles.
#pragma once
#include "check_attend.h"

// Sequences' last rows: of sequence s all positions from starts[s] on.
inline AttendInputs many_inputs(const AttendCase& c, const std::vector<int>& contexts, const std::vector<int>& starts,
                                Rng& rng) {
    AttendInputs in = attend_inputs(c, contexts, rng);
    in.rows.positions.clear(), in.rows.tables.clear();
    for (size_t s = 0; s < contexts.size(); s++) {
        for (int position = starts[s]; position < contexts[s]; position++) in.rows.add(static_cast<int>(s), position);
    }
    in.q = random_floats(static_cast<size_t>(in.rows.count()) * c.heads() * c.head_dim, 3.0f, rng);
    return in;
}

// Tiles of `height` rows of each sequence.
inline AttendResult run_attend_many(const AttendCase& c, const AttendInputs& in, const std::vector<int>& counts,
                                    int height) {
    const size_t n = in.q.size();
    std::vector<uint4> list;
    int first = 0;
    for (int count : counts) {
        for (uint4 tile : row_tiles(first, count, height)) list.push_back(tile);
        first += count;
    }
    DeviceRows rows(in.rows);
    Device<uint8_t> data(in.cache.bytes);
    Device<float> q(in.q), y(n), scales(n / BLOCK);
    Device<int8_t> quants(n);
    Device<int32_t> sums(n / BLOCK);
    Device<uint4> tiles(list);
    AttendManyArgs args = {rows.get(), in.cache.shape, q.get(), y.get(), {}, tiles.get(), c.scale(), c.softcap,
                           c.window, c.heads()};
    args.cache.data = reinterpret_cast<char*>(data.get());
    const bool whole_blocks = c.head_dim % BLOCK == 0;
    if (whole_blocks) args.out = {quants.get(), scales.get(), sums.get(), nullptr};
    launch_attend_many(args, static_cast<int>(list.size()));
    CUDA(cudaDeviceSynchronize());
    AttendResult result{y.download(), {}};
    if (whole_blocks) result.quants = {quants.download(), scales.download(), sums.download()};
    return result;
}

inline void check_attend_many(const AttendCase& c, const std::vector<int>& contexts, const std::vector<int>& starts) {
    Rng rng(c.seed);
    AttendInputs in = many_inputs(c, contexts, starts, rng);
    std::vector<int> counts;
    for (size_t s = 0; s < contexts.size(); s++) counts.push_back(contexts[s] - starts[s]);
    AttendResult first = run_attend_many(c, in, counts, 64);
    for (int row = 0; row < in.rows.count(); row += 1 + static_cast<int>(rng.bits() % 8)) {
        for (int head = 0; head < c.heads(); head++) {
            std::vector<Truth> truth = attend_truth(c, in, row, head, true);
            size_t at = (static_cast<size_t>(row) * c.heads() + head) * c.head_dim;
            for (int i = 0; i < c.head_dim; i++) near(c.name("attend_many"), first.y[at + i], truth[i], 1);
        }
    }
    for (int height : {17, 1}) {
        same_bits(c.name("attend_many in other tiles"), first.y, run_attend_many(c, in, counts, height).y);
    }
    if (first.quants.quants.empty()) return;
    Acts want = quantize(first.y);
    same_bits(c.name("attend_many quants"), want.quants, first.quants.quants);
    same_bits(c.name("attend_many scales"), want.scales, first.quants.scales);
    same_bits(c.name("attend_many sums"), want.sums, first.quants.sums);
}

// A value that is not finite reaches the rows that see it and no other, in both kernels.
inline void check_unfit_values(const AttendCase& c, int context, int position) {
    Rng rng(c.seed);
    AttendInputs in = many_inputs(c, {context}, {0}, rng), unfit = in;
    std::vector<float> values(c.head_dim, 1.0f);
    values[3] = HUGE_VALF;
    unfit.cache.write(in.rows.page(0, position), 1, 0, position % c.page_len, &values[0]);
    const std::vector<float> wants[2] = {run_attend_many(c, in, {context}, 64).y, run_attend(c, in, 1).y};
    const std::vector<float> gots[2] = {run_attend_many(c, unfit, {context}, 64).y, run_attend(c, unfit, 1).y};
    for (int kernel = 0; kernel < 2; kernel++) {
        for (int row = 0; row < context; row++) {
            const bool sees = row >= position && (!c.window || row < position + c.window);
            for (int head = 0; head < c.heads(); head++) {
                size_t at = (static_cast<size_t>(row) * c.heads() + head) * c.head_dim;
                std::vector<float> want(&wants[kernel][at], &wants[kernel][at] + c.head_dim);
                std::vector<float> got(&gots[kernel][at], &gots[kernel][at] + c.head_dim);
                if (!sees) same_bits(c.name("a row beside a value that is not finite"), want, got);
                else if (std::isfinite(got[3])) fail(c.name("a row that sees a value that is not finite"));
            }
        }
    }
}

inline void check_attend_manies(bool extra) {
    uint64_t seed = 900;
    check_attend_many({CACHE_F16, 64, 3, 1, 16, 0, 0, seed++}, {130, 70}, {0, 64});
    check_attend_many({CACHE_F16, 128, 2, 1, 64, 0, 0, seed++}, {65, 1, 200}, {0, 0, 183});
    check_attend_many({CACHE_F32, 80, 1, 2, 32, 0, 0, seed++}, {90}, {3});
    check_attend_many({CACHE_F32, 96, 2, 1, 128, 0, 4.0f, seed++}, {140}, {80});
    check_attend_many({CACHE_Q8_0, 128, 1, 1, 16, 40, 0, seed++}, {150, 40}, {60, 0});
    check_attend_many({CACHE_Q8_0, 256, 1, 1, 64, 0, 0, seed++}, {70}, {40});
    check_attend_many({CACHE_F16, 256, 1, 1, 64, 64, 0, seed++}, {200}, {150});
    check_unfit_values({CACHE_F16, 64, 1, 1, 16, 0, 0, seed++}, 70, 20);
    check_unfit_values({CACHE_F32, 80, 1, 1, 64, 9, 0, seed++}, 140, 66);
    if (extra) check_attend_many({CACHE_F16, 128, 2, 1, 64, 0, 0, seed++}, {1200, 500}, {700, 480});
}
