// Checks of the kernels that move rows: embedding, the outputs' rows to the front, and a projection settled in place.
#pragma once
#include "check.h"

#include "../embed.cu"
#include "../rows.cu"

inline void launch_embed(WeightType type, int rows, const EmbedArgs& args) {
    auto kernel = type == TYPE_Q8_0 ? embed_q8_0 : type == TYPE_Q4_0 ? embed_q4_0 : embed_q4_1;
    dim3 grid(ceil_div(args.cols, EMBED_THREADS), rows);
    CUDA_LAUNCH(kernel, grid, dim3(EMBED_THREADS), 0, args);
    CUDA(cudaGetLastError());
}

// Every row of a table of random blocks, the last token first.
inline void check_embed(WeightType type, int cols, int rows, uint64_t seed) {
    Rng rng(seed);
    const int vocab = 37;
    Case c{type, cols, vocab, 0, rows, false, seed};
    Weight table = random_weight(type, vocab, cols, rng);
    WeightPlanes planes = repack(table);
    std::vector<uint32_t> tokens;
    for (int r = 0; r < rows; r++) tokens.push_back(r == 0 ? vocab - 1 : rng.bits() % vocab);
    Device<uint8_t> quants(planes.quants), scales(planes.scales);
    Device<uint32_t> tokens_device(tokens);
    Device<float> h(static_cast<size_t>(rows) * cols);
    Rows of = {tokens_device.get(), nullptr, nullptr, nullptr};
    const uint4* q = reinterpret_cast<const uint4*>(quants.get());
    launch_embed(type, rows, {of, q, nullptr, scales.get(), h.get(), cols, vocab});
    CUDA(cudaDeviceSynchronize());
    std::vector<float> want;
    for (uint32_t token : tokens) {
        for (int i = 0; i < cols; i++) {
            const int b = i / BLOCK;
            // One rounding each, as the CPU has them.
            const float product = static_cast<float>(table.quant(token, b, i % BLOCK)) * table.d(token, b);
            want.push_back(type == TYPE_Q4_1 ? product + table.m(token, b) : product);
        }
    }
    same_bits(c.name("embed"), want, h.download());
}

inline void check_gather(int cols, const std::vector<uint32_t>& rows) {
    Case c{TYPE_Q8_0, cols, 1, 0, static_cast<int>(rows.size()), false, 1};
    const size_t all = static_cast<size_t>(rows.back() + 1) * cols;
    std::vector<float> data(all);
    for (size_t i = 0; i < all; i++) data[i] = static_cast<float>(i);
    Device<float> data_device(data);
    Device<uint32_t> rows_device(rows);
    const GatherArgs args = {data_device.get(), rows_device.get(), cols, static_cast<int>(rows.size())};
    CUDA_LAUNCH(gather_rows, dim3(ceil_div(cols, GATHER_THREADS)), dim3(GATHER_THREADS), 0, args);
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    std::vector<float> got = data_device.download(), want;
    for (uint32_t row : rows) want.insert(want.end(), &data[row * cols], &data[row * cols] + cols);
    got.resize(want.size());
    same_bits(c.name("gather"), want, got);
}

inline void check_settle(const Case& c) {
    Rng rng(c.seed);
    size_t n = static_cast<size_t>(c.rows) * c.n_out;
    std::vector<float> y = random_floats(n, 1.0f, rng), u = random_u(c, rng);
    y[0] = -0.0f;  // adding a 0 to it would show
    FloatMatrix b = random_b(c, c.n_out, rng);
    Device<uint8_t> tiles(b.tiles());
    Device<float> u_device(u), y_device(y);
    Device<uint32_t> columns(reversed_columns(c.rank));
    Expand expand = {tiles.get(), columns.get(), u_device.get(), c.rank, c.rank + 1, c.f32, 0};
    for (int variant : {1, 2, 4, 8}) {
        auto kernel = variant == 1 ? settle_r1 : variant == 2 ? settle_r2 : variant == 4 ? settle_r4 : settle_r8;
        y_device.upload(y);
        const ResidualArgs args = {y_device.get(), nullptr, expand, c.n_out, c.rows};
        dim3 grid(ceil_div(c.n_out, RESIDUAL_THREADS), ceil_div(c.rows, variant));
        CUDA_LAUNCH(kernel, grid, dim3(RESIDUAL_THREADS), 0, args);
        CUDA(cudaGetLastError());
        CUDA(cudaDeviceSynchronize());
        std::vector<float> got = y_device.download();
        for (int r = 0; r < c.rows; r++) {
            bool closed = row_closed(c, u, r);
            for (int o = 0; o < c.n_out; o++) {
                size_t at = static_cast<size_t>(r) * c.n_out + o;
                near(c.name("settle"), got[at], expand_truth(c, b, u, r, o, y[at]), c.rank + 4);
                if (closed && float_bits(got[at]) != float_bits(y[at])) fail(c.name("settle of a closed row"));
            }
        }
    }
}

inline void check_rows() {
    uint64_t seed = 300;
    for (WeightType type : {TYPE_Q8_0, TYPE_Q4_0, TYPE_Q4_1}) {
        for (int cols : {32, 256, 576}) check_embed(type, cols, 3, seed++);
    }
    for (int cols : {1, 255, 257}) {
        check_gather(cols, {0, 1, 2});
        check_gather(cols, {3, 4, 9});
        check_gather(cols, {0, 5, 6, 7, 40});
    }
    for (int rank : {0, 1, 7, 64}) {
        for (int rows : {1, 3, 8, 11}) check_settle({TYPE_Q8_0, 32, 70, rank, rows, rows % 2 == 0, seed++});
    }
}
