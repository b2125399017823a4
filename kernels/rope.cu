// Settles what queries, keys and values owe their valve, turns queries and keys by position, and stores keys and
// values in the cache.
//
//   q += B u, k += B u, v += B u                                                        (expand.cuh)
//   (a, b) -> (a cos t - b sin t, a sin t + b cos t), t = 2 pi position turns[i], for the pairs (2i, 2i + 1) of a
//   head's first `rotated` values; the others stay
//
// Shapes: q [rows, heads * head_dim] in place; k, v [rows, kv_heads * head_dim]; turns [rotated / 2]; the cache as in
// rows.cuh. head_dim is even, and a multiple of 32 where the cache is q8_0.
// Launch: block (64), grid (ceil(tiles / 2), ceil(rows / ROWS)), where tiles = ceil(heads * head_dim / 32) +
// 2 ceil(kv_heads * head_dim / 32). A warp covers 32 columns of q, k or v.
//
// The bits of a row depend on that row and its position alone. The part of a turn is taken in f64, so that it is as
// exact at position 100000 as at 1. A q8_0 block is what a file would hold: d = max|x| / 127, q = x / d rounded half
// away from zero.
#include "expand.cuh"
#include "rows.cuh"

constexpr int ROPE_THREADS = 64;

struct RopeStoreArgs {
    Rows rows;
    Cache cache;
    float* q;
    const float* k;
    const float* v;
    const double* turns;  // whole turns a position, not 0: inverse frequency / (2 pi)
    Expand q_expand, k_expand, v_expand;
    int heads;
    int n_rows;
    int rotated;
    int unused;
};
static_assert(sizeof(RopeStoreArgs) == 232, "src/cuda/args.rs mirrors this struct");

// A column after its turn; its partner is in the neighbouring lane. Without one, turns is 0. Called by a whole warp.
static __device__ __forceinline__ float turned(float x, int column, uint32_t position, double turns) {
    const float partner = __shfl_xor_sync(0xffffffffu, x, 1);
    if (turns == 0.0) return x;
    const double at = __dmul_rn(static_cast<double>(position), turns);
    float sine, cosine;
    sincospif(2.0f * static_cast<float>(at - rint(at)), &sine, &cosine);
    return column % 2 ? __fmaf_rn(partner, sine, __fmul_rn(x, cosine))
                      : __fmaf_rn(x, cosine, -__fmul_rn(partner, sine));
}

// Lane l holds value l of a block of 32; called by a whole warp. A NaN makes d NaN and an infinity makes it infinite,
// with every q zero, so that what is read back is NaN.
static __device__ __forceinline__ void store_q8_0(int8_t* quants, uint16_t* scale, float x) {
    const float d = __fdiv_rn(__int_as_float(warp_max(__float_as_int(x) & 0x7fffffff)), 127.0f);
    const float inverse = d == 0.0f ? 0.0f : __fdiv_rn(1.0f, d);
    const int q = __float2int_rn(roundf(__fmul_rn(x, inverse)));
    quants[threadIdx.x % WARP] = static_cast<int8_t>(max(-128, min(127, q)));
    if (threadIdx.x % WARP == 0) *scale = __half_as_ushort(__float2half_rn(d));
}

// A warp stores 32 columns of a row, from `column` - lane on, in the slot of its position.
static __device__ __forceinline__ void store_column(const Cache& cache, uint32_t position, uint32_t page, int which,
                                                    int column, float x) {
    const uint32_t page_len = cache.page_len;
    const int head = column / cache.head_dim, offset = column % cache.head_dim;
    if (head >= cache.kv_heads) return;  // whole warps where the cache is q8_0
    char* data = strip(cache, page, which, head);
    const size_t at = static_cast<size_t>(position % page_len) * cache.head_dim + offset;
    if (cache.type == CACHE_F32) {
        reinterpret_cast<float*>(data)[at] = x;
    } else if (cache.type == CACHE_F16) {
        reinterpret_cast<uint16_t*>(data)[at] = __half_as_ushort(__float2half_rn(x));
    } else {
        uint16_t* scales = reinterpret_cast<uint16_t*>(data + static_cast<size_t>(page_len) * cache.head_dim);
        store_q8_0(reinterpret_cast<int8_t*>(data) + at / BLOCK * BLOCK, scales + at / BLOCK, x);
    }
}

// What waits while the expand has the registers.
template <int ROWS>
struct RopeShared {
    float x[ROWS][ROPE_THREADS];
    uint32_t positions[ROPE_THREADS], pages[ROPE_THREADS];  // of row r in lane r of each warp
};

template <int ROWS>
static __device__ __forceinline__ void rope_store(const RopeStoreArgs& args, RopeShared<ROWS>& s) {
    release_next();
    const int lane = threadIdx.x % WARP, head_dim = args.cache.head_dim;
    const int q_tiles = (args.heads * head_dim + WARP - 1) / WARP;
    const int kv_tiles = (args.cache.kv_heads * head_dim + WARP - 1) / WARP;
    const int warp = (blockIdx.x * ROPE_THREADS + threadIdx.x) / WARP, first_row = blockIdx.y * ROWS;
    if (warp >= q_tiles + 2 * kv_tiles) return;
    const int which = (warp >= q_tiles) + (warp >= q_tiles + kv_tiles);  // q, k, v
    const int tile = warp - (which > 0 ? q_tiles : 0) - (which > 1 ? kv_tiles : 0);
    const int n = (which == 0 ? args.heads : args.cache.kv_heads) * head_dim;
    const int column = tile * WARP + lane, offset = column % head_dim;
    const double turns = which < 2 && offset < args.rotated ? args.turns[offset / 2] : 0.0;
    await_previous();
    // Lane r finds the place of row r, so that the loads of all rows are in flight together.
    if (lane < ROWS && first_row + lane < args.n_rows) {
        const uint32_t position = args.rows.positions[first_row + lane];
        const uint32_t page = position / args.cache.page_len;
        s.positions[threadIdx.x] = position;
        s.pages[threadIdx.x] = args.rows.pages[args.rows.tables[first_row + lane] + page];
    }
    const float* from = which == 0 ? args.q : which == 1 ? args.k : args.v;
    float x[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const bool load = column < n && first_row + r < args.n_rows;
        x[r] = load ? from[static_cast<size_t>(first_row + r) * n + column] : 0.0f;
    }
    const Expand& owed = which == 0 ? args.q_expand : which == 1 ? args.k_expand : args.v_expand;
    expand<ROWS>(owed, tile, first_row, args.n_rows, x);
#pragma unroll
    for (int r = 0; r < ROWS; r++) s.x[r][threadIdx.x] = x[r];
    __syncwarp();
#pragma unroll 1
    for (int r = 0; r < ROWS && first_row + r < args.n_rows; r++) {
        const uint32_t position = s.positions[threadIdx.x - lane + r], page = s.pages[threadIdx.x - lane + r];
        const float y = turned(s.x[r][threadIdx.x], column, position, turns);
        if (which > 0) store_column(args.cache, position, page, which - 1, column, y);
        else if (column < n) args.q[static_cast<size_t>(first_row + r) * n + column] = y;
    }
}

#define ROPE_STORE(ROWS)                                                                                         \
    extern "C" __global__ void __launch_bounds__(ROPE_THREADS, 1) rope_store_r##ROWS(                               \
        const __grid_constant__ RopeStoreArgs args) {                                                            \
        __shared__ RopeShared<ROWS> shared;                                                                      \
        rope_store<ROWS>(args, shared);                                                                          \
    }

ROPE_STORE(1)
ROPE_STORE(2)
ROPE_STORE(4)
ROPE_STORE(8)
