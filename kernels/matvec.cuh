// y = W x for weights of every type, with a valve's shrink u = opening * scale * (A x) as extra blocks of the same
// launch: what matvec.cu and its siblings compile for their types.
//
// Shapes: W [n_out, n_in], n_in a multiple of 32 and of the type's block; x [rows, n_in]; y [rows, n_out];
// A [rank, n_in]; u [rows, u_stride].
// Launch: block (128), grid (shrink.rank + blocks of all parts, ceil(rows / ROWS)); no dynamic shared memory.
//   One warp computes OUTS outputs of a part for ROWS activation rows; a part has ceil(n_out / (4 * OUTS)) blocks.
//   One block computes one rank column of the shrink for ROWS activation rows; these blocks come first, so that
//   their longer rows do not make the tail of the launch.
//
// Weights lie in the planes of types.cuh. Quantized ones meet activations of 8 bits, float ones f32 activations.
//
// The bits of y[row][o] depend on that row, that output and n_in alone: not on ROWS, OUTS, the other rows or the
// shrink. Lane l sums the 16-byte chunks l, l + 32, ... in ascending order; then warp_sum.
#pragma once
#include "shrink.cuh"
#include "types.cuh"

constexpr int WARPS = 4;
constexpr int MAX_PARTS = 4;

// One weight of the fan. The planes are 16-byte aligned.
struct MatvecPart {
    const uint4* quants;
    const void* high;
    const void* scales;
    float* y;
    int n_out;
    int blocks;
};

struct MatvecArgs {
    MatvecPart parts[MAX_PARTS];  // the unused ones have no blocks
    Activations x;
    Shrink shrink;
    int n_in;
    int rows;
};
static_assert(sizeof(MatvecArgs) == 272, "src/cuda/args.rs mirrors this struct");

// ---- The base weights ---------------------------------------------------------------------------------------------

// Outputs OUTS * warp .. of one part. Reads past the last output or row repeat the last one and are not stored.
template <class W, int ROWS, int OUTS>
static __device__ __forceinline__ void base_outputs(const MatvecArgs& args, const MatvecPart& part, int block) {
    constexpr int DEPTH = 4 / OUTS;  // 16-byte loads of weights in flight in a lane: DEPTH * OUTS = 4
    const int lane = threadIdx.x % WARP;
    const int first_out = (block * WARPS + static_cast<int>(threadIdx.x) / WARP) * OUTS;
    const int first_row = blockIdx.y * ROWS;
    if (first_out >= part.n_out) return;  // writes nothing, so it need not wait
    const int chunks = args.n_in / W::VALUES;
    const size_t all_blocks = static_cast<size_t>(part.n_out) * (args.n_in / BLOCK);
    const Planes planes = {part.quants, part.high, part.scales, all_blocks};

    size_t rows_at[OUTS];  // the first chunk of each output
#pragma unroll
    for (int o = 0; o < OUTS; o++) rows_at[o] = static_cast<size_t>(min(first_out + o, part.n_out - 1)) * chunks;
    float sums[ROWS][OUTS] = {};
    typename W::Chunk w[DEPTH][OUTS];
    const auto load = [&](int c0) {
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const int c = c0 + k * WARP;
#pragma unroll
            for (int o = 0; o < OUTS; o++) {
                if (c < chunks) w[k][o] = W::load(planes, rows_at[o] + c);
                else w[k][o] = {};
            }
        }
    };
    // The weights need no kernel before this one: the first are on their way to registers, the rest to the cache.
    load(lane);
#pragma unroll
    for (int o = 0; o < OUTS; o++) {
        const size_t rest = max(chunks - WARP * DEPTH, 0);
        prefetch_l2(part.quants + rows_at[o] + WARP * DEPTH, rest * sizeof(uint4));
    }
    await_previous();
#pragma unroll 1
    for (int c0 = lane; c0 < chunks; c0 += WARP * DEPTH) {
        if (c0 != lane) load(c0);
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const int c = c0 + k * WARP;
            if (c >= chunks) break;
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const auto x = W::acts(args.x, args.n_in, min(first_row + r, args.rows - 1), c);
#pragma unroll
                for (int o = 0; o < OUTS; o++) sums[r][o] = W::fma(w[k][o], c, x, sums[r][o]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int o = 0; o < OUTS; o++) {
            const float y = warp_sum(sums[r][o]);
            if (lane == 0 && first_row + r < args.rows && first_out + o < part.n_out) {
                part.y[static_cast<size_t>(first_row + r) * part.n_out + first_out + o] = y;
            }
        }
    }
}

// ---- The shrink ---------------------------------------------------------------------------------------------------

// u[row][j] = factor[row] * (A[j] . x[row]); a row whose factor is 0 gets 0 without reading A.
template <class T, int ROWS>
static __device__ __forceinline__ void shrink_dots(const Shrink& s, int n_in, int rows, int first_row, int j,
                                                   const float (&factor)[ROWS], float (&sums)[ROWS]) {
    constexpr int DEPTH = 8 / sizeof(T);  // 64 bytes of A in flight in a lane
    const int eighths = n_in / 8;
    const size_t a_row = static_cast<size_t>(j) * eighths;
#pragma unroll 1
    for (int c0 = threadIdx.x; c0 < eighths; c0 += WARPS * WARP * DEPTH) {
        Eight<T> a[DEPTH];
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const int c = c0 + k * WARPS * WARP;
            if (c < eighths) a[k].load(s.a, a_row + c);
            else a[k].clear();
        }
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const int c = c0 + k * WARPS * WARP;
            if (c >= eighths) break;
            float w[8];
            a[k].unpack(w);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                if (factor[r] == 0.0f) continue;
                const size_t row = min(first_row + r, rows - 1);
                const float4* x = reinterpret_cast<const float4*>(s.x) + (row * eighths + c) * 2;
                const float4 low = x[0], high = x[1];
                sums[r] = __fmaf_rn(w[0], low.x, sums[r]);
                sums[r] = __fmaf_rn(w[1], low.y, sums[r]);
                sums[r] = __fmaf_rn(w[2], low.z, sums[r]);
                sums[r] = __fmaf_rn(w[3], low.w, sums[r]);
                sums[r] = __fmaf_rn(w[4], high.x, sums[r]);
                sums[r] = __fmaf_rn(w[5], high.y, sums[r]);
                sums[r] = __fmaf_rn(w[6], high.z, sums[r]);
                sums[r] = __fmaf_rn(w[7], high.w, sums[r]);
            }
        }
    }
}

// One rank column j for ROWS rows, by a whole block. `partial` is shared memory.
template <int ROWS>
static __device__ __forceinline__ void shrink_column(const MatvecArgs& args, int j, float (*partial)[8]) {
    const Shrink& s = args.shrink;
    const int first_row = blockIdx.y * ROWS;
    const uint32_t slot = s.slot[j];
    const float scale = s.scale[j];
    await_previous();
    float factor[ROWS], sums[ROWS] = {};
    bool open = false;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        factor[r] = 0.0f;
        if (first_row + r < args.rows) {
            const size_t row = s.row_map ? s.row_map[first_row + r] : first_row + r;
            factor[r] = __fmul_rn(s.openings[row * s.slots + slot], scale);
        }
        open |= factor[r] != 0.0f;
    }
    if (open && s.a_is_f32) shrink_dots<float, ROWS>(s, args.n_in, args.rows, first_row, j, factor, sums);
    if (open && !s.a_is_f32) shrink_dots<__half, ROWS>(s, args.n_in, args.rows, first_row, j, factor, sums);
    const int warp = threadIdx.x / WARP;
    if (open) {  // the same in the whole block
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float sum = warp_sum(sums[r]);
            if (threadIdx.x % WARP == 0) partial[warp][r] = sum;
        }
        __syncthreads();
    }
    // Not one thread a row: that would index the registers of factor at run time.
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (first_row + r >= args.rows) break;
        float u = 0.0f;
        if (factor[r] != 0.0f) {
            float dot = partial[0][r];
#pragma unroll
            for (int w = 1; w < WARPS; w++) dot = __fadd_rn(dot, partial[w][r]);
            u = __fmul_rn(factor[r], dot);
        }
        s.u[static_cast<size_t>(first_row + r) * s.u_stride + j] = u;
    }
}

// ---- The kernels --------------------------------------------------------------------------------------------------

template <class W, int ROWS, int OUTS>
static __device__ __forceinline__ void matvec(const MatvecArgs& args, float (*partial)[8]) {
    int block = blockIdx.x;
    release_next();
    if (block < args.shrink.rank) return shrink_column<ROWS>(args, block, partial);
    block -= args.shrink.rank;
    int p = 0;
    while (block >= args.parts[p].blocks) block -= args.parts[p++].blocks;
    base_outputs<W, ROWS, OUTS>(args, args.parts[p], block);
}

// Blocks that must fit a multiprocessor, which bounds the registers; types with more state ask for one less.
#define BLOCKS_FOR(ROWS, LESS) ((ROWS == 1 ? 7 : ROWS == 2 ? 6 : ROWS == 4 ? 4 : 3) - LESS)

#define MATVEC(name, W, ROWS, OUTS, LESS)                                                                      \
    extern "C" __global__ void __launch_bounds__(WARPS * WARP, BLOCKS_FOR(ROWS, LESS))                         \
        matvec_##name##_r##ROWS##_o##OUTS(const __grid_constant__ MatvecArgs args) {                           \
        __shared__ float partial[WARPS][8];                                                                    \
        matvec<W, ROWS, OUTS>(args, partial);                                                                  \
    }

#define MATVECS(name, W, LESS)      \
    MATVEC(name, W, 1, 1, LESS)     \
    MATVEC(name, W, 1, 2, LESS)     \
    MATVEC(name, W, 1, 4, LESS)     \
    MATVEC(name, W, 2, 1, LESS)     \
    MATVEC(name, W, 2, 2, LESS)     \
    MATVEC(name, W, 4, 2, LESS)     \
    MATVEC(name, W, 8, 2, LESS)
