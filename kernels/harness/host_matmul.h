// Launches of matmul.cu and shrink_many.cu.
#pragma once
#include "host.h"

#include "../matmul.cu"
#include "../shrink_many.cu"

struct MatmulVariant {
    int rows;
    void (*kernel[3])(const MatmulArgs);  // by WeightType
};

#define MATMUL_ENTRY(R) \
    { R, { matmul_q8_0_r##R, matmul_q4_0_r##R, matmul_q4_1_r##R } }

static const MatmulVariant MATMUL_TABLE[] = {MATMUL_ENTRY(32), MATMUL_ENTRY(64), MATMUL_ENTRY(128)};

// The least tile that holds the rows, but the largest only where three of its blocks come to each multiprocessor:
// as many as it holds. src/cuda picks by the same rule.
inline const MatmulVariant& pick_matmul(int rows, int n_out, int multiprocessors) {
    if (rows <= 32) return MATMUL_TABLE[0];
    const bool many = ceil_div(rows, 128) * ceil_div(n_out, TILE_OUTS) >= 3 * multiprocessors;
    return MATMUL_TABLE[rows > 64 && many ? 2 : 1];
}

// The parts' tile counts follow from the variant.
inline void launch_matmul(const MatmulVariant& variant, WeightType type, MatmulArgs args, cudaStream_t stream = 0) {
    int tiles = 0;
    for (MatmulPart& part : args.parts) tiles += part.tiles = ceil_div(part.n_out, TILE_OUTS);
    dim3 grid(ceil_div(args.rows, variant.rows), tiles);
    CUDA_LAUNCH(variant.kernel[type], grid, dim3(MATMUL_THREADS), stream, args);
    CUDA(cudaGetLastError());
}

inline void launch_shrink_many(const ShrinkManyArgs& args, cudaStream_t stream = 0) {
    dim3 grid(ceil_div(args.shrink.rank, SHRINK_COLUMNS), ceil_div(args.rows, SHRINK_ROWS));
    CUDA_LAUNCH(shrink_many, grid, dim3(SHRINK_THREADS), stream, args);
    CUDA(cudaGetLastError());
}
