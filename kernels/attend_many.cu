// Attention of many neighbouring rows of a sequence over the paged cache, on tensor cores; the formula is that of
// attend.cu.
//
// Shapes: as in attend.cu. tiles [n_tiles]: (first row, rows, 0, 0), at most 64 rows of one sequence that follow one
// another in it. `out` as in attend.cu; its quants must be null if head_dim is no multiple of 32.
// Launch: attend_many_dD for head_dim D: block (128), grid (n_tiles, heads), no dynamic shared memory. The longest
// tiles should come first. A warp computes 16 rows of one head.
//
// Queries, keys, values and weights are rounded to f16 for the products; sums are f32. A chunk is 64 positions (32
// where D is 256), counted from 0, whichever tile reads it, and chunks are joined in ascending order; so the bits of y
// depend on the row, its keys and values, and the types alone. A chunk of which a row sees nothing leaves its state as
// it was. Where a value is not finite as f16 and some row of the tile does not see it, 0 takes its place in the product
// and the rows that do see it become NaN: 0 times infinity would reach the others.
//
// Each score is off by at most about 2^-10 sum |q k| scale beside attend.cu, y by that share and 2^-10 of its values.
#include "mma_f16.cuh"
#include "quantize.cuh"
#include "scores.cuh"
#include "stored.cuh"

constexpr int MANY_THREADS = 128;
constexpr int MANY_WARPS = MANY_THREADS / WARP;
constexpr int WARP_ROWS = 16;

struct AttendManyArgs {
    Rows rows;
    Cache cache;
    const float* q;
    float* y;
    Quantized out;
    const uint4* tiles;
    float scale;
    float softcap;  // 0: none
    int window;     // 0: none
    int heads;
};
static_assert(sizeof(AttendManyArgs) == 136, "src/cuda/args.rs mirrors this struct");

template <int D>
constexpr int MANY_KEYS = D > 128 ? 32 : 64;

template <int D>
struct ManyShared {
    static constexpr int STRIDE = D + 8;  // an odd number of 16 bytes: eight rows fall into eight banks
    static constexpr int KEYS = MANY_KEYS<D>;

    alignas(16) uint16_t keys[KEYS * STRIDE];
    alignas(16) uint16_t values[KEYS * STRIDE];
    // The last chunk in which values of this position, or of any, were not finite and not all rows saw the chunk.
    int unfit[KEYS], any_unfit;
};

// The tile of a block, and of a thread its two rows, lane / 4 and + 8 of the warp's.
struct Tile {
    int first_row, rows;
    int kv_head, head;
    int least, most;           // positions that some row reads
    int all_from, all_to;      // positions that all rows read
    int positions[2], from[2];  // a row reads positions from .. positions

    __device__ __forceinline__ bool sees(int r, int p) const { return p >= from[r] && p <= positions[r]; }
};

static __device__ __forceinline__ int window_start(int position, int window) {
    return window ? max(0, position + 1 - window) : 0;
}

static __device__ __forceinline__ Tile find_tile(const AttendManyArgs& args) {
    const uint4 listed = args.tiles[blockIdx.x];
    Tile tile = {};
    tile.first_row = static_cast<int>(listed.x), tile.rows = static_cast<int>(listed.y);
    tile.head = blockIdx.y, tile.kv_head = tile.head / (args.heads / args.cache.kv_heads);
    const uint32_t* positions = args.rows.positions + tile.first_row;
    tile.most = positions[tile.rows - 1], tile.all_to = positions[0];
    tile.least = window_start(tile.all_to, args.window), tile.all_from = window_start(tile.most, args.window);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = threadIdx.x / WARP * WARP_ROWS + threadIdx.x % WARP / 4 + 8 * r;
        tile.positions[r] = positions[min(row, tile.rows - 1)];
        tile.from[r] = window_start(tile.positions[r], args.window);
    }
    return tile;
}

// ---- Keys and values to shared memory -----------------------------------------------------------------------------

// Eight values of a position as halves.
template <int D, int TYPE>
static __device__ __forceinline__ uint4 eight_halves(const char* strip, int page_len, int slot, int eighth) {
    constexpr int BYTES = TYPE == CACHE_Q8_0 ? 8 : 16, PIECES = 8 / Piece<TYPE, BYTES>::VALUES;
    const StoredRow row = stored_row<TYPE>(strip, page_len, D, slot);
    float x[8];
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        Piece<TYPE, BYTES> piece;
        piece.load(row.data, row.to_scales, eighth * PIECES + i);
        piece.unpack(&x[i * Piece<TYPE, BYTES>::VALUES]);
    }
    return make_uint4(pack_halves(x[0], x[1]), pack_halves(x[2], x[3]), pack_halves(x[4], x[5]),
                      pack_halves(x[6], x[7]));
}

static __device__ __forceinline__ bool all_finite(const uint4& halves) {
    const uint32_t words[4] = {halves.x, halves.y, halves.z, halves.w};
    uint32_t over = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) over |= (words[i] & 0x7fff7fffu) + 0x04000400u;
    return (over & 0x80008000u) == 0;
}

// Keys (which = 0) or values of a chunk to `to`; zeros for what no row of the tile reads. For values of a chunk that
// not all rows see, `checked`, s.unfit says what was replaced.
template <int D>
static __device__ __forceinline__ void stage(const AttendManyArgs& args, ManyShared<D>& s, const Tile& tile, int which,
                                             int chunk, bool checked) {
    constexpr int EIGHTHS = D / 8, KEYS = MANY_KEYS<D>;
    const Cache& cache = args.cache;
    const int shift = __popc(cache.page_len - 1);
    const uint32_t* table = args.rows.pages + args.rows.tables[tile.first_row];
    uint16_t* to = which ? s.values : s.keys;
#pragma unroll 4
    for (int i = threadIdx.x; i < KEYS * EIGHTHS; i += MANY_THREADS) {
        const int key = i / EIGHTHS, eighth = i % EIGHTHS, p = chunk * KEYS + key;
        uint16_t* place = to + key * ManyShared<D>::STRIDE + 8 * eighth;
        if (p < tile.least || p > tile.most) {
            *reinterpret_cast<uint4*>(place) = make_uint4(0, 0, 0, 0);
            continue;
        }
        const char* data = strip(cache, table[p >> shift], which, tile.kv_head);
        const int slot = p & (cache.page_len - 1);
        if (cache.type == CACHE_F16 && !checked) {
            copy_async(place, data + (slot * D + 8 * eighth) * 2);
            continue;
        }
        uint4 halves;
        if (cache.type == CACHE_F32) halves = eight_halves<D, CACHE_F32>(data, cache.page_len, slot, eighth);
        else if (cache.type == CACHE_F16) halves = eight_halves<D, CACHE_F16>(data, cache.page_len, slot, eighth);
        else halves = eight_halves<D, CACHE_Q8_0>(data, cache.page_len, slot, eighth);
        if (checked && !all_finite(halves)) {
            halves = make_uint4(0, 0, 0, 0);
            s.unfit[key] = s.any_unfit = chunk;
        }
        *reinterpret_cast<uint4*>(place) = halves;
    }
}

// ---- The products -------------------------------------------------------------------------------------------------

// The warp's 16 rows of q as fragments; rows past the last are 0.
template <int D>
static __device__ __forceinline__ void load_fragments(const AttendManyArgs& args, const Tile& tile,
                                                      uint32_t (&q)[D / 16][4]) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = threadIdx.x / WARP * WARP_ROWS + lane / 4 + 8 * r;
        const float* from = args.q + (static_cast<size_t>(tile.first_row + row) * args.heads + tile.head) * D;
#pragma unroll
        for (int k = 0; k < D / 8; k++) {
            float2 x = make_float2(0.0f, 0.0f);
            if (row < tile.rows) x = reinterpret_cast<const float2*>(from)[4 * k + lane % 4];
            q[k / 2][2 * (k % 2) + r] = pack_halves(x.x, x.y);
        }
    }
}

// dots = q k^T
template <int D>
static __device__ __forceinline__ void multiply_keys(const ManyShared<D>& s, const uint32_t (&q)[D / 16][4],
                                                     float (&dots)[MANY_KEYS<D> / 8][4]) {
    const int matrix = threadIdx.x % WARP / 8, row = threadIdx.x % 8;
#pragma unroll
    for (int n = 0; n < MANY_KEYS<D> / 8; n += 2) {
#pragma unroll
        for (int i = 0; i < 4; i++) dots[n][i] = dots[n + 1][i] = 0.0f;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            uint32_t b[4];
            const int key = 8 * n + matrix / 2 * 8 + row;
            load_matrices<false>(b, s.keys + key * ManyShared<D>::STRIDE + 16 * k + matrix % 2 * 8);
            mma_f16(dots[n], q[k], b[0], b[1]);
            mma_f16(dots[n + 1], q[k], b[2], b[3]);
        }
    }
}

// y += weights v
template <int D>
static __device__ __forceinline__ void multiply_values(const ManyShared<D>& s,
                                                       const float (&weights)[MANY_KEYS<D> / 8][4],
                                                       float (&y)[D / 8][4]) {
    const int matrix = threadIdx.x % WARP / 8, row = threadIdx.x % 8;
#pragma unroll
    for (int k = 0; k < MANY_KEYS<D> / 16; k++) {
        const float(&low)[4] = weights[2 * k];
        const float(&high)[4] = weights[2 * k + 1];
        const uint32_t a[4] = {pack_halves(low[0], low[1]), pack_halves(low[2], low[3]), pack_halves(high[0], high[1]),
                               pack_halves(high[2], high[3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            const int key = 16 * k + matrix % 2 * 8 + row;
            load_matrices<true>(b, s.values + key * ManyShared<D>::STRIDE + 8 * n + matrix / 2 * 8);
            mma_f16(y[n], a, b[0], b[1]);
            mma_f16(y[n + 1], a, b[2], b[3]);
        }
    }
}

// ---- Softmax ------------------------------------------------------------------------------------------------------

// What a thread keeps of its two rows: the largest score so far, its own part of the sum of weights, and y.
template <int D>
struct RowState {
    float top[2], total[2];
    float y[D / 8][4];
};

// Dots to weights, and the state to the chunk's largest score. `masked`: not all rows see all of the chunk.
template <int D>
static __device__ __forceinline__ void make_weights(const AttendManyArgs& args, const Tile& tile, int first_position,
                                                    bool masked, float (&dots)[MANY_KEYS<D> / 8][4],
                                                    RowState<D>& state) {
    const int column = first_position + threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = state.top[r];
#pragma unroll
        for (int i = 0; i < MANY_KEYS<D> / 4; i++) {
            float& s = dots[i / 2][2 * r + i % 2];
            s = scaled_score(s, args.scale, args.softcap);
            if (!masked || tile.sees(r, column + i / 2 * 8 + i % 2)) top = fmaxf(top, s);
        }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
        const float factor = exp2f(__fadd_rn(state.top[r], -top));
        float total = __fmul_rn(state.total[r], factor);
#pragma unroll
        for (int i = 0; i < MANY_KEYS<D> / 4; i++) {
            float& s = dots[i / 2][2 * r + i % 2];
            const bool seen = !masked || tile.sees(r, column + i / 2 * 8 + i % 2);
            s = seen ? exp2f(__fadd_rn(s, -top)) : 0.0f;
            total = __fadd_rn(total, s);
        }
        state.top[r] = top, state.total[r] = total;
#pragma unroll
        for (int i = 0; i < D / 4; i++) {
            state.y[i / 2][2 * r + i % 2] = __fmul_rn(state.y[i / 2][2 * r + i % 2], factor);
        }
    }
}

// Rows that see a value that was replaced become NaN.
template <int D>
static __device__ __forceinline__ void spoil(const ManyShared<D>& s, const Tile& tile, int chunk, RowState<D>& state) {
    for (int key = 0; key < MANY_KEYS<D>; key++) {
        if (s.unfit[key] != chunk) continue;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (tile.sees(r, chunk * MANY_KEYS<D> + key)) state.total[r] = __int_as_float(0x7fffffff);
        }
    }
}

// ---- The kernel ---------------------------------------------------------------------------------------------------

// y and its blocks of 8 bits; the warps' rows pass through shared memory, 32 columns at a time.
template <int D>
static __device__ __forceinline__ void finish_rows(const AttendManyArgs& args, ManyShared<D>& s, const Tile& tile,
                                                   const RowState<D>& state) {
    constexpr int ROOM = WARP_ROWS * (BLOCK + 1);
    static_assert(MANY_WARPS * ROOM * sizeof(float) <= sizeof(s.keys) + sizeof(s.values), "the warps' rooms");
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const size_t step = static_cast<size_t>(args.heads) * D;
    const size_t first = (static_cast<size_t>(tile.first_row) + warp * WARP_ROWS) * step + tile.head * D;
    const int rows = min(WARP_ROWS, tile.rows - warp * WARP_ROWS);
    float* room = reinterpret_cast<float*>(s.keys) + warp * ROOM;
    float factors[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = state.total[r];
        total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, 1));
        total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, 2));
        factors[r] = __fdiv_rn(1.0f, total);
    }
#pragma unroll
    for (int base = 0; base < D; base += BLOCK) {
#pragma unroll
        for (int n = base / 8; n < min(D, base + BLOCK) / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = lane / 4 + i / 2 * 8, column = (n - base / 8) * 8 + lane % 4 * 2 + i % 2;
                room[row * (BLOCK + 1) + column] = __fmul_rn(state.y[n][i], factors[i / 2]);
            }
        }
        __syncwarp();
        for (int row = 0; row < rows; row++) {
            const size_t at = first + row * step + base;
            const float x = room[row * (BLOCK + 1) + lane];
            if (base + lane < D) args.y[at + lane] = x;
            if (D % BLOCK == 0 && args.out.quants) quantize_block(args.out, at / BLOCK, x);
        }
        __syncwarp();
    }
}

template <int D>
static __device__ __forceinline__ void attend_many(const AttendManyArgs& args, ManyShared<D>& s) {
    constexpr int KEYS = MANY_KEYS<D>;
    release_next();
    await_previous();
    const Tile tile = find_tile(args);
    uint32_t q[D / 16][4];
    load_fragments<D>(args, tile, q);
    RowState<D> state = {};
    state.top[0] = state.top[1] = LEAST;
    const int last = tile.most / KEYS;
    for (int i = threadIdx.x; i < KEYS; i += MANY_THREADS) s.unfit[i] = -1;
    if (threadIdx.x == 0) s.any_unfit = -1;
    stage(args, s, tile, 0, tile.least / KEYS, false);
    commit_copies();
    for (int chunk = tile.least / KEYS; chunk <= last; chunk++) {
        const int first = chunk * KEYS;
        const bool masked = first < tile.all_from || first + KEYS - 1 > tile.all_to;
        __syncthreads();  // the values of the chunk before have been read
        stage(args, s, tile, 1, chunk, masked);
        commit_copies();
        wait_copies<1>();
        __syncthreads();  // the keys are there
        float dots[KEYS / 8][4];
        multiply_keys<D>(s, q, dots);
        __syncthreads();  // and have been read
        if (chunk < last) stage(args, s, tile, 0, chunk + 1, false);
        commit_copies();
        make_weights<D>(args, tile, first, masked, dots, state);
        wait_copies<1>();
        __syncthreads();  // the values are there
        multiply_values<D>(s, dots, state.y);
        if (s.any_unfit == chunk) spoil(s, tile, chunk, state);
    }
    __syncthreads();
    finish_rows(args, s, tile, state);
}

#define ATTEND_MANY(D, BLOCKS)                                                                                   \
    extern "C" __global__ void __launch_bounds__(MANY_THREADS, BLOCKS) attend_many_d##D(                         \
        const __grid_constant__ AttendManyArgs args) {                                                           \
        __shared__ ManyShared<D> shared;                                                                         \
        attend_many<D>(args, shared);                                                                            \
    }

ATTEND_MANY(64, 3)
ATTEND_MANY(80, 3)
ATTEND_MANY(96, 3)
ATTEND_MANY(128, 2)
ATTEND_MANY(256, 2)
