// y = W x for quantized weights and int8 activations, with a valve's shrink u = opening * scale * (A x) as extra
// blocks of the same launch.
//
// Shapes: W [n_out, n_in] in blocks of 32 along n_in; x [rows, n_in]; y [rows, n_out]; A [rank, n_in];
// u [rows, u_stride].
// Launch: block (128), grid (shrink.rank + blocks of all parts, ceil(rows / ROWS)); no dynamic shared memory.
//   One warp computes OUTS outputs of a part for ROWS activation rows; a part has ceil(n_out / (4 * OUTS)) blocks.
//   One block computes one rank column of the shrink for ROWS activation rows; these blocks come first, so that
//   their longer rows do not make the tail of the launch.
//
// Weights lie in planes, not in the file's blocks of 18, 20 or 34 bytes, so that each lane loads 16 aligned bytes:
//   quants  q8_0: int8 [n_out, n_in]; q4_0 and q4_1: 16 bytes a block, byte i = element i (low), i + 16 (high nibble)
//   scales  q8_0 and q4_0: f16 d [n_out, n_in / 32]; q4_1: f16 pairs (d, m)
//
// The bits of y[row][o] depend on that row, that output and n_in alone: not on ROWS, OUTS, the other rows or the
// shrink. Lane l sums the 16-byte chunks l, l + 32, ... (a block, of q8_0 half a block; its integer dot is exact) in
// ascending order, one fma each; then warp_sum.
#include "shrink.cuh"

constexpr int WARPS = 4;
constexpr int MAX_PARTS = 4;

// One weight of the fan. quants and scales are 16-byte aligned.
struct MatvecPart {
    const uint4* quants;
    const void* scales;
    float* y;
    int n_out;
    int blocks;
};

struct MatvecArgs {
    MatvecPart parts[MAX_PARTS];  // the unused ones have no blocks
    const uint4* x_quants;  // int8 [rows, n_in]
    const float* x_scales;  // [rows, n_in / 32]
    const int32_t* x_sums;  // [rows, n_in / 32]: the sum of a block's quants
    Shrink shrink;
    int n_in;
    int rows;
};
static_assert(sizeof(MatvecArgs) == 232, "src/cuda/args.rs mirrors this struct");

// ---- The weight types: how 16 bytes of quants meet activations ----------------------------------------------------

struct Q8_0 {
    typedef uint16_t Scale;
    static constexpr int VALUES = 16;  // in a 16-byte chunk

    struct Acts {
        uint4 quants;
        float scale;
    };

    static __device__ __forceinline__ Acts acts(const MatvecArgs& args, int row, int chunk) {
        const size_t at = static_cast<size_t>(row) * (args.n_in / VALUES) + chunk;
        return {args.x_quants[at], args.x_scales[at / 2]};
    }

    static __device__ __forceinline__ float fma(const uint4& w, uint32_t scale, const Acts& x, float sum) {
        int dot = __dp4a(static_cast<int>(w.x), static_cast<int>(x.quants.x), 0);
        dot = __dp4a(static_cast<int>(w.y), static_cast<int>(x.quants.y), dot);
        dot = __dp4a(static_cast<int>(w.z), static_cast<int>(x.quants.z), dot);
        dot = __dp4a(static_cast<int>(w.w), static_cast<int>(x.quants.w), dot);
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(half_bits(scale), x.scale), sum);
    }
};

struct NibbleActs {
    uint4 low, high;
    float scale;
    int sum;
};

static __device__ __forceinline__ NibbleActs nibble_acts(const MatvecArgs& args, int row, int block) {
    const size_t at = static_cast<size_t>(row) * (args.n_in / BLOCK) + block;
    return {args.x_quants[2 * at], args.x_quants[2 * at + 1], args.x_scales[at], args.x_sums[at]};
}

// Four low and four high nibbles, 0..15 each, against their activations.
static __device__ __forceinline__ int nibble_dp4a(uint32_t w, uint32_t low, uint32_t high, int dot) {
    dot = __dp4a(static_cast<int>(w & 0x0f0f0f0fu), static_cast<int>(low), dot);
    return __dp4a(static_cast<int>(w >> 4 & 0x0f0f0f0fu), static_cast<int>(high), dot);
}

static __device__ __forceinline__ int nibble_dot(const uint4& w, const NibbleActs& x) {
    int dot = nibble_dp4a(w.x, x.low.x, x.high.x, 0);
    dot = nibble_dp4a(w.y, x.low.y, x.high.y, dot);
    dot = nibble_dp4a(w.z, x.low.z, x.high.z, dot);
    return nibble_dp4a(w.w, x.low.w, x.high.w, dot);
}

// w = d * (nibble - 8)
struct Q4_0 {
    typedef uint16_t Scale;
    static constexpr int VALUES = 32;
    typedef NibbleActs Acts;

    static __device__ __forceinline__ Acts acts(const MatvecArgs& args, int row, int chunk) {
        return nibble_acts(args, row, chunk);
    }

    static __device__ __forceinline__ float fma(const uint4& w, uint32_t scale, const Acts& x, float sum) {
        const int dot = nibble_dot(w, x) - 8 * x.sum;
        return __fmaf_rn(static_cast<float>(dot), __fmul_rn(half_bits(scale), x.scale), sum);
    }
};

// w = d * nibble + m
struct Q4_1 {
    typedef uint32_t Scale;
    static constexpr int VALUES = 32;
    typedef NibbleActs Acts;

    static __device__ __forceinline__ Acts acts(const MatvecArgs& args, int row, int chunk) {
        return nibble_acts(args, row, chunk);
    }

    static __device__ __forceinline__ float fma(const uint4& w, uint32_t scale, const Acts& x, float sum) {
        const float d = __fmul_rn(half_bits(scale & 0xffff), x.scale);
        const float m = __fmul_rn(half_bits(scale >> 16), x.scale);
        sum = __fmaf_rn(static_cast<float>(nibble_dot(w, x)), d, sum);
        return __fmaf_rn(static_cast<float>(x.sum), m, sum);
    }
};

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
    const int blocks = args.n_in / BLOCK;

    const uint4* quants[OUTS];
    const typename W::Scale* scales[OUTS];
#pragma unroll
    for (int o = 0; o < OUTS; o++) {
        const int out = min(first_out + o, part.n_out - 1);
        quants[o] = part.quants + static_cast<size_t>(out) * chunks;
        scales[o] = static_cast<const typename W::Scale*>(part.scales) + static_cast<size_t>(out) * blocks;
    }
    float sums[ROWS][OUTS] = {};
    uint4 w[DEPTH][OUTS];
    uint32_t s[DEPTH][OUTS];
    const auto load = [&](int c0) {
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            const int c = c0 + k * WARP;
#pragma unroll
            for (int o = 0; o < OUTS; o++) {
                w[k][o] = c < chunks ? __ldcs(quants[o] + c) : make_uint4(0, 0, 0, 0);
                s[k][o] = c < chunks ? __ldcs(scales[o] + c / (BLOCK / W::VALUES)) : 0;
            }
        }
    };
    // The weights need no kernel before this one: the first are on their way to registers, the rest to the cache.
    load(lane);
#pragma unroll
    for (int o = 0; o < OUTS; o++) {
        prefetch_l2(quants[o] + WARP * DEPTH, max(chunks - WARP * DEPTH, 0) * sizeof(uint4));
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
                const typename W::Acts x = W::acts(args, min(first_row + r, args.rows - 1), c);
#pragma unroll
                for (int o = 0; o < OUTS; o++) sums[r][o] = W::fma(w[k][o], s[k][o], x, sums[r][o]);
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

#define MATVEC(name, W, ROWS, OUTS) \
    extern "C" __global__ void __launch_bounds__(WARPS* WARP, ROWS == 1 ? 7 : ROWS == 2 ? 6 : ROWS == 4 ? 4 : 3) \
        matvec_##name##_r##ROWS##_o##OUTS(const __grid_constant__ MatvecArgs args) {                             \
        __shared__ float partial[WARPS][8];                                                                      \
        matvec<W, ROWS, OUTS>(args, partial);                                                                    \
    }

#define MATVECS(name, W) \
    MATVEC(name, W, 1, 1) \
    MATVEC(name, W, 1, 2) \
    MATVEC(name, W, 1, 4) \
    MATVEC(name, W, 2, 1) \
    MATVEC(name, W, 2, 2) \
    MATVEC(name, W, 4, 2) \
    MATVEC(name, W, 8, 2)

MATVECS(q8_0, Q8_0)
MATVECS(q4_0, Q4_0)
MATVECS(q4_1, Q4_1)
