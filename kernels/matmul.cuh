// y = W x + B u for many rows, on tensor cores: the weights and activations of matvec.cuh, and the expand of expand.cuh
// in the same launch, so that who reads y owes it nothing. A .cu file makes the kernels of its types (blocks.cuh).
//
// Shapes: W [n_out, n_in] in blocks of 32 along n_in; x [rows, n_in]; y [rows, n_out]; B [n_out, rank] in the tiles of
// expand.cuh; u [rows, u_stride].
// Launch: matmul_T_rR: block (128), grid (ceil(rows / R), sum of ceil(n_out / 64) over the parts); the row tiles of one
// weight tile are neighbours, so that its bytes come from memory once. No dynamic shared memory.
//
// A block computes R rows of 64 outputs, a warp 32 rows of R / 2 outputs. 64 values of n_in at a time go to shared
// memory, activations as they are, weights unpacked to int8, while those before are multiplied.
//
// Why int8 products and not f16: a product of 16 x 8 x 32 takes 8 fmas a thread for its scales beside it, and the
// weights need no conversion. Per 32 values of 128 x 128 outputs that is about 1400 instructions of a warp, 350 clocks
// of a multiprocessor's four schedulers. f16 products would take 256 instructions of the tensor cores, at 256
// multiply-adds a clock (8.6, 8.9, 12.0: f32 sums) 2048 clocks, where int8 ones take 512; at 1024 (8.0) 512 clocks
// against 512 of f32 units; at some 2500 (9.0) 210 against 350. And int8 keeps the numbers of matvec.cuh.
//
// Types with a factor for each 16 values take a product of 16 x 8 x 16 for each, and twice the fmas.
//
// The bits of y[row][o] depend on that row, that output and n_in alone: blocks of 32 in ascending order, their one or
// two runs in order, each an exact integer dot, t = dot * d rounded, then sum = t * x_scale + sum, one fma; with minima
// another, m * (x_scale * x_sum) + sum. Then the columns of B in ascending order, one fma each; a u of 0 is skipped,
// not multiplied.
#pragma once
#include "blocks.cuh"
#include "expand.cuh"
#include "mma_s8.cuh"

constexpr int MATMUL_PARTS = 4;
constexpr int MATMUL_THREADS = 128;
constexpr int TILE_OUTS = 64;                    // of a block
constexpr int STEP_BLOCKS = 2;                   // blocks of n_in in shared memory at a time
constexpr int STEP_BYTES = STEP_BLOCKS * BLOCK;  // of a row, or of an output
constexpr int STEP_PIECES = STEP_BYTES / 16;
constexpr int EXPAND_COLUMNS = 32;               // columns of B and u in shared memory at a time

// One weight of the fan: its planes, 16-byte aligned as y is.
struct MatmulPart {
    const uint4* quants;
    const void* high;
    const void* scales;
    float* y;
    Expand expand;
    int n_out;
    int tiles;
};

struct MatmulArgs {
    MatmulPart parts[MATMUL_PARTS];  // the unused ones have no tiles
    const uint4* x_quants;  // int8 [rows, n_in]
    const float* x_scales;  // [rows, n_in / 32]
    const int32_t* x_sums;  // [rows, n_in / 32]: the sum of a block's quants
    int n_in;
    int rows;
};
static_assert(sizeof(MatmulArgs) == 352, "src/cuda/args.rs mirrors this struct");

// ---- Shared memory ------------------------------------------------------------------------------------------------

// Steps that are on their way while one is multiplied: with few rows a step is over long before the next has come.
template <int ROWS>
constexpr int STEPS_AHEAD = ROWS == 32 ? 3 : ROWS == 64 ? 2 : 1;

// The bits of 1.5 * 2^23. An integer sum below 2^22 in magnitude that starts at them holds, read as a float, that
// number plus the sum; and as a factor d has 22 bits at most, FLOAT_OF_ZERO * d is exact, and one fma makes sum * d.
constexpr int FLOAT_OF = 0x4b400000;
constexpr float FLOAT_OF_ZERO = 12582912.0f;

// Whether the sums of activations come from memory; they are there for blocks, not for runs.
template <class W>
constexpr bool STAGES_SUMS = W::MINIMA && W::RUNS == 1;

// The rows of x and w are 64 bytes in 16-byte pieces, shuffled so that neither a store of eight neighbours' pieces nor
// a fetch of one column's pieces from eight rows meets a bank twice.
template <class W, int ROWS>
struct MatmulStage {
    alignas(16) int8_t x[ROWS * STEP_BYTES];
    alignas(16) int8_t w[TILE_OUTS * STEP_BYTES];
    alignas(16) float2 factors[STEP_BLOCKS][W::RUNS][TILE_OUTS];  // d, -FLOAT_OF_ZERO * d
    float minima[STEP_BLOCKS][W::RUNS][W::MINIMA ? TILE_OUTS : 1];
    float x_scales[STEP_BLOCKS][ROWS];
    int32_t x_sums[STEP_BLOCKS][STAGES_SUMS<W> ? ROWS : 1];
};

template <int ROWS>
struct ExpandStage {
    alignas(16) float b[EXPAND_COLUMNS][TILE_OUTS];
    float u[EXPAND_COLUMNS][ROWS + 1];
};

template <class W, int ROWS>
struct MatmulShared {
    union {
        MatmulStage<W, ROWS> stages[STEPS_AHEAD<ROWS> + 1];
        ExpandStage<ROWS> expand;
    };
    int open_columns;  // the first of the last columns of which some row was open
};

static __device__ __forceinline__ int piece_at(int row, int piece) {
    return row * STEP_BYTES + (piece ^ (row >> 1 & 3)) * 16;
}

// ---- The product --------------------------------------------------------------------------------------------------

// What a thread holds of its warp's 32 rows and ROWS / 2 outputs: c[i][j] is a fragment of rows 16 i and outputs 8 j.
template <int ROWS>
struct Sums {
    float c[2][ROWS / 16][4];
};

// A tile: which part, which rows and outputs, and what of them this warp has.
struct MatmulTile {
    int part;
    int first_row, first_out;
    int warp_row, warp_out;  // within the tile
};

template <class W, int ROWS>
struct Matmul {
    static constexpr int COLUMNS = ROWS / 16;  // of fragments in a warp
    typedef MatmulStage<W, ROWS> Stage;
    typedef MatmulShared<W, ROWS> Shared;

    static __device__ __forceinline__ MatmulTile find_tile(const MatmulArgs& args) {
        MatmulTile tile = {};
        const int warp = threadIdx.x / WARP;
        int at = blockIdx.y;
        while (at >= args.parts[tile.part].tiles) at -= args.parts[tile.part++].tiles;
        tile.first_row = blockIdx.x * ROWS, tile.first_out = at * TILE_OUTS;
        tile.warp_row = warp % (ROWS / 32) * 32, tile.warp_out = warp / (ROWS / 32) * (ROWS / 2);
        return tile;
    }

    // Outputs and rows past the last are not read, and what becomes of them is not stored. Nor are blocks past the
    // last, which are not multiplied.

    // A thread's block of a step.
    static __device__ __forceinline__ void load_weights(const MatmulArgs& args, const MatmulTile& tile, int step,
                                                        W& w) {
        const MatmulPart& part = args.parts[tile.part];
        const int out = threadIdx.x / STEP_BLOCKS, block = step * STEP_BLOCKS + threadIdx.x % STEP_BLOCKS;
        const int blocks = args.n_in / BLOCK;
        if (block >= blocks || out >= part.n_out - tile.first_out) return;
        const Planes planes = {part.quants, part.high, part.scales, static_cast<size_t>(part.n_out) * blocks};
        w.load(planes, static_cast<uint32_t>(tile.first_out * blocks + out * blocks + block));
    }

    static __device__ __forceinline__ void store_weights(const W& w, Stage& s) {
        const int out = threadIdx.x / STEP_BLOCKS, block = threadIdx.x % STEP_BLOCKS;
        uint4 bytes[2];
        w.unpack(bytes);
        *reinterpret_cast<uint4*>(s.w + piece_at(out, 2 * block)) = bytes[0];
        *reinterpret_cast<uint4*>(s.w + piece_at(out, 2 * block + 1)) = bytes[1];
#pragma unroll
        for (int run = 0; run < W::RUNS; run++) {
            const float factor = w.factor(run);
            s.factors[block][run][out] = make_float2(factor, __fmul_rn(-FLOAT_OF_ZERO, factor));
            if (W::MINIMA) s.minima[block][run][out] = w.minimum(run);
        }
    }

    static __device__ __forceinline__ void copy_acts(const MatmulArgs& args, const MatmulTile& tile, int step,
                                                     Stage& s) {
        constexpr int STRIDE = MATMUL_THREADS / STEP_PIECES;  // rows between a thread's pieces
        const int blocks = args.n_in / BLOCK, rows = args.rows - tile.first_row;
        const int first = tile.first_row * blocks + step * STEP_BLOCKS, left = blocks - step * STEP_BLOCKS;
        const int r = threadIdx.x / STEP_PIECES, piece = threadIdx.x % STEP_PIECES;
#pragma unroll
        for (int i = 0; i < ROWS; i += STRIDE) {
            const uint32_t from = first * 2 + (r + i) * blocks * 2 + piece;
            if (r + i < rows && piece / 2 < left) copy_async(s.x + piece_at(r + i, piece), args.x_quants + from);
        }
        const int row = threadIdx.x / STEP_BLOCKS, block = threadIdx.x % STEP_BLOCKS;
#pragma unroll
        for (int i = 0; i < ROWS; i += MATMUL_THREADS / STEP_BLOCKS) {
            const uint32_t from = first + (row + i) * blocks + block;
            if (row + i >= min(rows, ROWS) || block >= left) continue;
            copy_word_async(&s.x_scales[block][row + i], args.x_scales + from);
            if (STAGES_SUMS<W>) copy_word_async(&s.x_sums[block][row + i], args.x_sums + from);
        }
        commit_copies();
    }

    // A block's activations in a warp's 32 rows: fragments of them, and of the thread's four rows the scale and, of
    // each run, the scale times the sum.
    struct BlockRows {
        uint32_t a[2][4];
        float scale[4], sum[W::RUNS][4];
    };

    static __device__ __forceinline__ void fetch_rows(const Stage& s, const MatmulTile& tile, int block, BlockRows& x) {
        const int lane = threadIdx.x % WARP, matrix = lane / 8, line = lane % 8, group = lane / 4;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = tile.warp_row + 16 * i + matrix % 2 * 8 + line;
            const int8_t* from = s.x + piece_at(row, 2 * block + matrix / 2);
            load_matrices<false>(x.a[i], reinterpret_cast<const uint16_t*>(from));
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int row = tile.warp_row + 8 * r + group;
            x.scale[r] = s.x_scales[block][row];
            if (STAGES_SUMS<W>) x.sum[0][r] = __fmul_rn(x.scale[r], static_cast<float>(s.x_sums[block][row]));
        }
        if (W::MINIMA && !STAGES_SUMS<W>) sum_runs(x);
    }

    // The sums of runs: a product with ones has them.
    static __device__ __forceinline__ void sum_runs(BlockRows& x) {
#pragma unroll
        for (int run = 0; run < W::RUNS; run++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int sums[4];
                mma_s8_half(sums, x.a[i][2 * run], x.a[i][2 * run + 1], 0x01010101u, 0);
                x.sum[run][2 * i] = __fmul_rn(x.scale[2 * i], static_cast<float>(sums[0]));
                x.sum[run][2 * i + 1] = __fmul_rn(x.scale[2 * i + 1], static_cast<float>(sums[2]));
            }
        }
    }

    // dot * d, rounded once: d is what is in `factors`.
    static __device__ __forceinline__ float scaled(int dot, float d, float minus_zero) {
        const float biased = __int_as_float(dot);
        // -FLOAT_OF_ZERO times such a factor is infinite.
        if (W::LARGE) return __fmul_rn(__fadd_rn(biased, -FLOAT_OF_ZERO), d);
        return __fmaf_rn(biased, d, minus_zero);
    }

    // Adds a run of one block to a fragment of 8 outputs from `column` on; `b` is what load_matrices has of them.
    static __device__ __forceinline__ void multiply_run(const Stage& s, int block, int run, int column,
                                                        const BlockRows& x, const uint32_t* b, float (&c0)[4],
                                                        float (&c1)[4]) {
        // d and -FLOAT_OF_ZERO * d of two outputs
        const float4 d = *reinterpret_cast<const float4*>(&s.factors[block][run][column]);
        float2 minima = make_float2(0.0f, 0.0f);
        if (W::MINIMA) minima = *reinterpret_cast<const float2*>(&s.minima[block][run][column]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int dots[4];
            if (W::RUNS == 1) mma_s8(dots, x.a[i], b[0], b[1], FLOAT_OF);
            else mma_s8_half(dots, x.a[i][2 * run], x.a[i][2 * run + 1], b[run], FLOAT_OF);
#pragma unroll
            for (int v = 0; v < 4; v++) {
                float& to = i ? c1[v] : c0[v];
                const float t = v % 2 ? scaled(dots[v], d.z, d.w) : scaled(dots[v], d.x, d.y);
                to = __fmaf_rn(t, x.scale[2 * i + v / 2], to);
                if (W::MINIMA) to = __fmaf_rn(v % 2 ? minima.y : minima.x, x.sum[run][2 * i + v / 2], to);
            }
        }
    }

    // Adds one block of n_in.
    static __device__ __forceinline__ void multiply(const Stage& s, const MatmulTile& tile, int block,
                                                    Sums<ROWS>& sums) {
        const int lane = threadIdx.x % WARP, matrix = lane / 8, line = lane % 8;
        BlockRows x;
        fetch_rows(s, tile, block, x);
#pragma unroll
        for (int j = 0; j < COLUMNS; j += 2) {
            uint32_t b[4];
            const int out = tile.warp_out + 8 * j + matrix / 2 * 8 + line;
            const int8_t* from = s.w + piece_at(out, 2 * block + matrix % 2);
            load_matrices<false>(b, reinterpret_cast<const uint16_t*>(from));
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int column = tile.warp_out + 8 * (j + n) + lane % 4 * 2;
#pragma unroll
                for (int run = 0; run < W::RUNS; run++) {
                    multiply_run(s, block, run, column, x, b + 2 * n, sums.c[0][j + n], sums.c[1][j + n]);
                }
            }
        }
    }

    // The tile's weights to the L2 cache, all at once; the first of its row tiles asks.
    static __device__ __forceinline__ void prefetch_weights(const MatmulArgs& args, const MatmulTile& tile) {
        const MatmulPart& part = args.parts[tile.part];
        const size_t bytes = W::BYTES * static_cast<size_t>(args.n_in / BLOCK);
        const size_t outs = min(TILE_OUTS, part.n_out - tile.first_out);
        const char* from = reinterpret_cast<const char*>(part.quants) + tile.first_out * bytes;
        for (size_t at = threadIdx.x * LINE_BYTES; at < outs * bytes; at += MATMUL_THREADS * LINE_BYTES) {
            prefetch_l2(from + at);
        }
    }

    // W x, all of n_in. The first weights are on their way before the activations are there.
    static __device__ __forceinline__ void product(const MatmulArgs& args, const MatmulTile& tile, Shared& shared,
                                                   Sums<ROWS>& sums) {
        constexpr int AHEAD = STEPS_AHEAD<ROWS>, STAGES = AHEAD + 1;
        const int blocks = args.n_in / BLOCK, steps = (blocks + STEP_BLOCKS - 1) / STEP_BLOCKS;
        W w[AHEAD] = {};
#pragma unroll
        for (int i = 0; i < AHEAD; i++) load_weights(args, tile, i, w[i]);
        if (ROWS < 128 && blockIdx.x == 0) prefetch_weights(args, tile);
        await_previous();
#pragma unroll
        for (int i = 0; i < AHEAD; i++) copy_acts(args, tile, i, shared.stages[i]);
#pragma unroll 1
        for (int first = 0; first < steps; first += AHEAD) {
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const int step = first + i;
                if (step >= steps) break;
                Stage& now = shared.stages[step % STAGES];
                store_weights(w[i], now);  // read last before the barrier of the step before
                load_weights(args, tile, step + AHEAD, w[i]);
                wait_copies<AHEAD - 1>();
                __syncthreads();
                copy_acts(args, tile, step + AHEAD, shared.stages[(step + AHEAD) % STAGES]);
                const int there = min(STEP_BLOCKS, blocks - step * STEP_BLOCKS);
#pragma unroll 1
                for (int block = 0; block < there; block++) multiply(now, tile, block, sums);
            }
        }
        wait_copies<0>();
        __syncthreads();
    }

    // ---- The expand -----------------------------------------------------------------------------------------------

    // Columns base .. of u to shared memory, 0 where there is none; says in open_columns whether any is not 0.
    static __device__ __forceinline__ void stage_u(const MatmulArgs& args, const MatmulTile& tile, int base,
                                                   Shared& s) {
        const Expand& e = args.parts[tile.part].expand;
        const int k = base + threadIdx.x % EXPAND_COLUMNS;
        const uint32_t column = k < e.rank ? e.columns[k] : 0;
        for (int r = threadIdx.x / EXPAND_COLUMNS; r < ROWS; r += MATMUL_THREADS / EXPAND_COLUMNS) {
            const int row = tile.first_row + r;
            float u = 0.0f;
            if (k < e.rank && row < args.rows) u = e.u[static_cast<size_t>(row) * e.u_stride + column];
            s.expand.u[k - base][r] = u;
            if (u != 0.0f) s.open_columns = base;
        }
    }

    // Columns base .. of B; the last tile of 32 outputs repeats, and so does the last eighth.
    template <class T>
    static __device__ __forceinline__ void stage_b(const MatmulPart& part, const MatmulTile& tile, int base,
                                                   Shared& s) {
        const int out = threadIdx.x % TILE_OUTS, eighths = (part.expand.rank + 7) / 8;
        const size_t at = min((tile.first_out + out) / WARP, (part.n_out - 1) / WARP);
#pragma unroll 1
        for (int c = threadIdx.x / TILE_OUTS; c < EXPAND_COLUMNS / 8; c += MATMUL_THREADS / TILE_OUTS) {
            Eight<T> loaded;
            loaded.load(part.expand.b, (at * eighths + min(base / 8 + c, eighths - 1)) * WARP + out % WARP);
            float b[8];
            loaded.unpack(b);
#pragma unroll
            for (int i = 0; i < 8; i++) s.expand.b[8 * c + i][out] = b[i];
        }
    }

    static __device__ __forceinline__ void add_columns(const MatmulTile& tile, int columns, const Shared& s,
                                                       Sums<ROWS>& sums) {
        const int lane = threadIdx.x % WARP;
#pragma unroll 1
        for (int k = 0; k < columns; k++) {
            float2 b[COLUMNS];
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                b[j] = *reinterpret_cast<const float2*>(&s.expand.b[k][tile.warp_out + 8 * j + lane % 4 * 2]);
            }
#pragma unroll
            for (int r = 0; r < 4; r++) {
                const float u = s.expand.u[k][tile.warp_row + 8 * r + lane / 4];
                if (u == 0.0f) continue;
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) {
                    float(&c)[4] = sums.c[r / 2][j];
                    c[r % 2 * 2] = __fmaf_rn(u, b[j].x, c[r % 2 * 2]);
                    c[r % 2 * 2 + 1] = __fmaf_rn(u, b[j].y, c[r % 2 * 2 + 1]);
                }
            }
        }
    }

    // Entered with all of the block's reads of shared memory behind a barrier.
    static __device__ __forceinline__ void add_expand(const MatmulArgs& args, const MatmulTile& tile, Shared& s,
                                                      Sums<ROWS>& sums) {
        const MatmulPart& part = args.parts[tile.part];
#pragma unroll 1
        for (int base = 0; base < part.expand.rank; base += EXPAND_COLUMNS) {
            stage_u(args, tile, base, s);
            __syncthreads();
            if (s.open_columns == base) {  // the same in the whole block
                if (part.expand.b_is_f32) stage_b<float>(part, tile, base, s);
                else stage_b<__half>(part, tile, base, s);
                __syncthreads();
                add_columns(tile, min(EXPAND_COLUMNS, part.expand.rank - base), s, sums);
            }
            __syncthreads();
        }
    }

    static __device__ __forceinline__ void store(const MatmulArgs& args, const MatmulTile& tile,
                                                 const Sums<ROWS>& sums) {
        const MatmulPart& part = args.parts[tile.part];
        const int lane = threadIdx.x % WARP;
#pragma unroll
        for (int r = 0; r < 4; r++) {
            const int row = tile.first_row + tile.warp_row + 8 * r + lane / 4;
            if (row >= args.rows) continue;
            float* y = part.y + static_cast<size_t>(row) * part.n_out;
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                const int out = tile.first_out + tile.warp_out + 8 * j + lane % 4 * 2;
                const float first = sums.c[r / 2][j][r % 2 * 2], second = sums.c[r / 2][j][r % 2 * 2 + 1];
                if (part.n_out % 2 == 0) {
                    if (out < part.n_out) *reinterpret_cast<float2*>(y + out) = make_float2(first, second);
                } else {
                    if (out < part.n_out) y[out] = first;
                    if (out + 1 < part.n_out) y[out + 1] = second;
                }
            }
        }
    }

    static __device__ __forceinline__ void run(const MatmulArgs& args, Shared& shared) {
        release_next();
        const MatmulTile tile = find_tile(args);
        if (threadIdx.x == 0) shared.open_columns = -1;
        Sums<ROWS> sums = {};
        product(args, tile, shared, sums);
        add_expand(args, tile, shared, sums);
        store(args, tile, sums);
    }
};

#define MATMUL(name, W, ROWS, BLOCKS)                                                                            \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS, BLOCKS) matmul_##name##_r##ROWS(                \
        const __grid_constant__ MatmulArgs args) {                                                               \
        __shared__ MatmulShared<W, ROWS> shared;                                                                 \
        Matmul<W, ROWS>::run(args, shared);                                                                      \
    }

// With two runs a thread holds more: one block less fits a multiprocessor.
#define MATMULS(name, W)             \
    MATMUL(name, W, 32, 4)           \
    MATMUL(name, W, 64, 5 - W::RUNS) \
    MATMUL(name, W, 128, 4 - W::RUNS)
