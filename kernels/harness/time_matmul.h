// Timings of matmul, alone and with a valve's shrink ahead and expand inside, at the shapes of an 8B model; and of
// matvec's passes of 8 rows, which do the same for few rows.
#pragma once
#include "host_matmul.h"
#include "time.h"

constexpr Shape MATMUL_SHAPES[] = {{"8B", 4096, 4096}, {"8B", 6144, 4096}, {"8B", 28672, 4096}, {"8B", 4096, 14336}};
constexpr int MATMUL_ROWS = 512;

// Activations of MATMUL_ROWS rows, and one slot.
struct MatmulScratch {
    Device<float> x{MATMUL_ROWS * MAX_IN}, x_scales{MATMUL_ROWS * MAX_IN / BLOCK}, y{MATMUL_ROWS * 28672};
    Device<int8_t> x_quants{MATMUL_ROWS * MAX_IN};
    Device<int32_t> x_sums{MATMUL_ROWS * MAX_IN / BLOCK};
    Device<float> u{MATMUL_ROWS * MAX_RANK}, openings{MATMUL_ROWS}, scale{std::vector<float>(MAX_RANK, 2.0f)};
    Device<uint32_t> slot{std::vector<uint32_t>(MAX_RANK, 0)}, columns{MAX_RANK};

    MatmulScratch() {
        Rng rng(1);
        x.upload(random_floats(static_cast<size_t>(MATMUL_ROWS) * MAX_IN, 1.0f, rng));
        std::vector<uint32_t> identity(MAX_RANK);
        for (int j = 0; j < MAX_RANK; j++) identity[j] = j;
        columns.upload(identity);
    }
    void open(bool wide) { openings.upload(std::vector<float>(MATMUL_ROWS, wide ? 0.7f : 0.0f)); }
    Shrink shrink(const void* a, int rank) {
        return {a, x.get(), openings.get(), nullptr, scale.get(), slot.get(), u.get(), rank, 1, rank, 0};
    }
    Expand expand(const void* b, int rank) { return {b, columns.get(), u.get(), rank, rank, 0, 0}; }
};

inline double matmul_bytes(WeightType type, const Shape& s, int rank) {
    return weight_bytes(type, s.n_out, s.n_in) + 2.0 * std::abs(rank) * (s.n_out + s.n_in);
}

// A negative rank is a valve that is attached and closed.
inline Timing time_matmul(Gpu& gpu, MatmulScratch& s, const Shape& shape, WeightType type, int rows, int rank,
                          const MatmulVariant& variant) {
    const int r = std::abs(rank);
    s.open(rank > 0);
    return time_graph(gpu, rotation(gpu, matmul_bytes(type, shape, rank)), [&] {
        MatmulArgs args = {};
        MatvecPart part = random_part(gpu, type, s.y.get(), shape.n_out, shape.n_in);
        args.parts[0] = {part.quants, part.high, part.scales, part.y, {}, part.n_out, 0};
        args.x_quants = reinterpret_cast<const uint4*>(s.x_quants.get());
        args.x_scales = s.x_scales.get(), args.x_sums = s.x_sums.get();
        args.n_in = shape.n_in, args.rows = rows;
        if (r) {
            launch_shrink_many({s.shrink(gpu.halves.take(2 * r * shape.n_in), r), shape.n_in, rows}, gpu.stream);
            args.parts[0].expand = s.expand(gpu.halves.take(2 * r * shape.n_out), r);
        }
        launch_matmul(variant, type, args, gpu.stream);
    });
}

inline Timing time_passes(Gpu& gpu, MatmulScratch& s, const Shape& shape, WeightType type, int rows) {
    return time_graph(gpu, rotation(gpu, matmul_bytes(type, shape, 0)), [&] {
        MatvecArgs args = {};
        args.parts[0] = random_part(gpu, type, s.y.get(), shape.n_out, shape.n_in);
        args.x = {reinterpret_cast<const uint4*>(s.x_quants.get()), s.x_scales.get(), s.x_sums.get(), nullptr};
        args.n_in = shape.n_in, args.rows = rows;
        launch_matvec(pick_matvec(rows, shape.n_out, gpu.props.multiProcessorCount), type, args, gpu.stream);
    });
}

// Every tile without a valve; the picked one also with a valve, closed and open. What a valve costs is set against the
// share of its multiply-adds: 100 % would be a valve whose multiply-adds are as fast as the weight's.
inline void time_matmul_shape(Gpu& gpu, MatmulScratch& s, Report& report, const Shape& shape, WeightType type,
                              int rows) {
    const MatmulVariant& picked = pick_matmul(rows, shape.n_out, gpu.props.multiProcessorCount);
    const double macs = static_cast<double>(shape.n_out) * shape.n_in * rows;
    double bare_us = 0;
    for (int rank : {0, -16, 16, 64}) {
        for (const MatmulVariant& variant : MATMUL_TABLE) {
            if (rank && &variant != &picked) continue;
            Timing time = time_matmul(gpu, s, shape, type, rows, rank, variant);
            report.add({"matmul", shape.model, type_name(type), shape.n_out, shape.n_in, rows, rank, variant.rows,
                        &variant == &picked, programmatic, matmul_bytes(type, shape, rank), time});
            if (rank == 0 && &variant == &picked) bare_us = time.median_us;
            printf("%-14s %.1f TFLOP/s", "", 2.0 * macs / time.median_us / 1e6);
            const double share = 1.0 + std::max(rank, 0) * (1.0 / shape.n_in + 1.0 / shape.n_out);
            if (rank) printf(", %.1f %% of the factor by multiply-adds", 100 * bare_us * share / time.median_us);
            printf("\n");
        }
    }
}

inline void time_matmuls(Gpu& gpu, Report& report) {
    MatmulScratch s;
    for (const Shape& shape : MATMUL_SHAPES) {
        for (WeightType type : {TYPE_Q4_0, TYPE_Q4_1, TYPE_Q8_0}) {
            Quantized out = {s.x_quants.get(), s.x_scales.get(), s.x_sums.get(), nullptr};
            launch_quantize({s.x.get(), nullptr, nullptr, out, shape.n_in, 0.0f}, MATMUL_ROWS, gpu.stream);
            for (int rows : {16, 32, 64, 128, MATMUL_ROWS}) {
                time_matmul_shape(gpu, s, report, shape, type, rows);
                if (rows > 64) continue;
                report.add({"matvec passes", shape.model, type_name(type), shape.n_out, shape.n_in, rows, 0, 2, true,
                            programmatic, matmul_bytes(type, shape, 0), time_passes(gpu, s, shape, type, rows)});
            }
        }
    }
}
