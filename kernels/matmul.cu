// y = W x + B u for many rows, on tensor cores: the weights and activations of matvec.cu, and the expand of expand.cuh
// in the same launch, so that who reads y owes it nothing.
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
// against 512 of f32 units; at some 2500 (9.0) 210 against 350. And int8 keeps the numbers of matvec.cu.
//
// The bits of y[row][o] depend on that row, that output and n_in alone: blocks of 32 in ascending order, each an exact
// integer dot, t = dot * d rounded, then sum = t * x_scale + sum, one fma; with minima another, m * (x_scale * x_sum) +
// sum. Then the columns of B in ascending order, one fma each; a u of 0 is skipped, not multiplied.
#include "expand.cuh"
#include "mma_s8.cuh"

constexpr int MATMUL_PARTS = 4;
constexpr int MATMUL_THREADS = 128;
constexpr int TILE_OUTS = 64;                    // of a block
constexpr int STEP_BLOCKS = 2;                   // blocks of n_in in shared memory at a time
constexpr int STEP_BYTES = STEP_BLOCKS * BLOCK;  // of a row, or of an output
constexpr int STEP_PIECES = STEP_BYTES / 16;
constexpr int EXPAND_COLUMNS = 32;               // columns of B and u in shared memory at a time

// One weight of the fan. quants, scales and y are 16-byte aligned.
struct MatmulPart {
    const uint4* quants;
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
static_assert(sizeof(MatmulArgs) == 320, "src/cuda/args.rs mirrors this struct");

// ---- The weight types: a block of 32 as it is loaded, and as 32 int8 with a factor and a minimum -------------------
//
// A factor has at most 22 significant bits: see FLOAT_OF.

struct Q8_0Block {
    static constexpr int BYTES = 32;  // of quants
    static constexpr bool MINIMA = false;
    uint4 quants[2];
    uint32_t scale;

    __device__ __forceinline__ void load(const MatmulPart& part, size_t at) {
        quants[0] = __ldg(part.quants + 2 * at);
        quants[1] = __ldg(part.quants + 2 * at + 1);
        scale = __ldg(static_cast<const uint16_t*>(part.scales) + at);
    }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const { to[0] = quants[0], to[1] = quants[1]; }
    __device__ __forceinline__ float factor() const { return half_bits(scale); }
    __device__ __forceinline__ float minimum() const { return 0.0f; }
};

// w = d * (nibble - 8): nibble ^ 8 in a byte's upper half is 16 * (nibble - 8).
struct Q4_0Block {
    static constexpr int BYTES = 16;  // of quants
    static constexpr bool MINIMA = false;
    uint4 quants;
    uint32_t scale;

    __device__ __forceinline__ void load(const MatmulPart& part, size_t at) {
        quants = __ldg(part.quants + at);
        scale = __ldg(static_cast<const uint16_t*>(part.scales) + at);
    }
    static __device__ __forceinline__ uint32_t upper(uint32_t w) { return (w & 0xf0f0f0f0u) ^ 0x80808080u; }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        const uint4& q = quants;
        to[0] = make_uint4(upper(q.x << 4), upper(q.y << 4), upper(q.z << 4), upper(q.w << 4));
        to[1] = make_uint4(upper(q.x), upper(q.y), upper(q.z), upper(q.w));
    }
    __device__ __forceinline__ float factor() const { return __fmul_rn(half_bits(scale), 0.0625f); }
    __device__ __forceinline__ float minimum() const { return 0.0f; }
};

// w = d * nibble + m
struct Q4_1Block {
    static constexpr int BYTES = 16;  // of quants
    static constexpr bool MINIMA = true;
    uint4 quants;
    uint32_t scale;

    __device__ __forceinline__ void load(const MatmulPart& part, size_t at) {
        quants = __ldg(part.quants + at);
        scale = __ldg(static_cast<const uint32_t*>(part.scales) + at);
    }
    static __device__ __forceinline__ uint32_t lower(uint32_t w) { return w & 0x0f0f0f0fu; }
    __device__ __forceinline__ void unpack(uint4 (&to)[2]) const {
        const uint4& q = quants;
        to[0] = make_uint4(lower(q.x), lower(q.y), lower(q.z), lower(q.w));
        to[1] = make_uint4(lower(q.x >> 4), lower(q.y >> 4), lower(q.z >> 4), lower(q.w >> 4));
    }
    __device__ __forceinline__ float factor() const { return half_bits(scale & 0xffff); }
    __device__ __forceinline__ float minimum() const { return half_bits(scale >> 16); }
};

// ---- Shared memory ------------------------------------------------------------------------------------------------

// Steps that are on their way while one is multiplied: with few rows a step is over long before the next has come.
template <int ROWS>
constexpr int STEPS_AHEAD = ROWS == 32 ? 3 : ROWS == 64 ? 2 : 1;

// The bits of 1.5 * 2^23. An integer sum below 2^22 in magnitude that starts at them holds, read as a float, that
// number plus the sum; and as a factor d has 22 bits at most, FLOAT_OF_ZERO * d is exact, and one fma makes sum * d.
constexpr int FLOAT_OF = 0x4b400000;
constexpr float FLOAT_OF_ZERO = 12582912.0f;

// The rows of x and w are 64 bytes in 16-byte pieces, shuffled so that neither a store of eight neighbours' pieces nor
// a fetch of one column's pieces from eight rows meets a bank twice.
template <class W, int ROWS>
struct MatmulStage {
    alignas(16) int8_t x[ROWS * STEP_BYTES];
    alignas(16) int8_t w[TILE_OUTS * STEP_BYTES];
    alignas(16) float2 factors[STEP_BLOCKS][TILE_OUTS];  // d, -FLOAT_OF_ZERO * d
    float minima[STEP_BLOCKS][W::MINIMA ? TILE_OUTS : 1];
    float x_scales[STEP_BLOCKS][ROWS];
    int32_t x_sums[STEP_BLOCKS][W::MINIMA ? ROWS : 1];
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
        w.load(part, static_cast<uint32_t>(tile.first_out * blocks + out * blocks + block));
    }

    static __device__ __forceinline__ void store_weights(const W& w, Stage& s) {
        const int out = threadIdx.x / STEP_BLOCKS, block = threadIdx.x % STEP_BLOCKS;
        uint4 bytes[2];
        w.unpack(bytes);
        *reinterpret_cast<uint4*>(s.w + piece_at(out, 2 * block)) = bytes[0];
        *reinterpret_cast<uint4*>(s.w + piece_at(out, 2 * block + 1)) = bytes[1];
        const float factor = w.factor();
        s.factors[block][out] = make_float2(factor, __fmul_rn(-FLOAT_OF_ZERO, factor));
        if (W::MINIMA) s.minima[block][out] = w.minimum();
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
            if (W::MINIMA) copy_word_async(&s.x_sums[block][row + i], args.x_sums + from);
        }
        commit_copies();
    }

    // Adds one block of n_in.
    static __device__ __forceinline__ void multiply(const Stage& s, const MatmulTile& tile, int block,
                                                    Sums<ROWS>& sums) {
        const int lane = threadIdx.x % WARP, matrix = lane / 8, line = lane % 8, group = lane / 4;
        uint32_t a[2][4];
        float scale[4], sum[4] = {};  // of the thread's four rows; sum is times the scale
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = tile.warp_row + 16 * i + matrix % 2 * 8 + line;
            const int8_t* from = s.x + piece_at(row, 2 * block + matrix / 2);
            load_matrices<false>(a[i], reinterpret_cast<const uint16_t*>(from));
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            scale[r] = s.x_scales[block][tile.warp_row + 8 * r + group];
            if (!W::MINIMA) continue;
            sum[r] = __fmul_rn(scale[r], static_cast<float>(s.x_sums[block][tile.warp_row + 8 * r + group]));
        }
#pragma unroll
        for (int j = 0; j < COLUMNS; j++) {
            if (j % 2) continue;
            uint32_t b[4];
            const int out = tile.warp_out + 8 * j + matrix / 2 * 8 + line;
            const int8_t* from = s.w + piece_at(out, 2 * block + matrix % 2);
            load_matrices<false>(b, reinterpret_cast<const uint16_t*>(from));
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int column = tile.warp_out + 8 * (j + n) + lane % 4 * 2;
                // d and -FLOAT_OF_ZERO * d of two outputs
                const float4 d = *reinterpret_cast<const float4*>(&s.factors[block][column]);
                float2 minima = make_float2(0.0f, 0.0f);
                if (W::MINIMA) minima = *reinterpret_cast<const float2*>(&s.minima[block][column]);
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    int dots[4];
                    mma_s8(dots, a[i], b[2 * n], b[2 * n + 1], FLOAT_OF);
#pragma unroll
                    for (int v = 0; v < 4; v++) {
                        float& to = sums.c[i][j + n][v];
                        const float dot = __int_as_float(dots[v]);
                        const float scaled = v % 2 ? __fmaf_rn(dot, d.z, d.w) : __fmaf_rn(dot, d.x, d.y);
                        to = __fmaf_rn(scaled, scale[2 * i + v / 2], to);
                        if (W::MINIMA) to = __fmaf_rn(v % 2 ? minima.y : minima.x, sum[2 * i + v / 2], to);
                    }
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

#define MATMULS(name, W)    \
    MATMUL(name, W, 32, 4)  \
    MATMUL(name, W, 64, 4)  \
    MATMUL(name, W, 128, 3)

MATMULS(q8_0, Q8_0Block)
MATMULS(q4_0, Q4_0Block)
MATMULS(q4_1, Q4_1Block)
