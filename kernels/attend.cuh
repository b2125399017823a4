// What a block of attend.cu works on, and how the results of chunks become those of rows.
#pragma once
#include "quantize.cuh"
#include "scores.cuh"
#include "stored.cuh"

constexpr int CHUNK = 256;
constexpr int ATTEND_THREADS = 128;
constexpr int ATTEND_WARPS = ATTEND_THREADS / WARP;
// Query heads that share one read of a chunk; a group of more reads it again.
constexpr int TILE_HEADS = 8;

struct AttendArgs {
    Rows rows;
    Cache cache;
    const float* q;
    float* y;
    Quantized out;
    float* partials;
    uint32_t* arrivals;
    float scale;
    float softcap;  // 0: none
    int window;     // 0: none
    int heads;
    int n_rows;
    int splits;
    int chunks_max;
    int prefetch;  // 1: what the grid's blocks read first fits the L2 cache, so ask for it while the kernel before ends
};
static_assert(sizeof(AttendArgs) == 160, "src/cuda/args.rs mirrors this struct");

template <int D>
struct AttendShared {
    alignas(16) float q[TILE_HEADS * D];  // queries in the order of `scores`; then y
    alignas(16) float scores[CHUNK * TILE_HEADS];  // [position][head]: scores, then weights; then sums of groups
    StoredRow keys[CHUNK];                         // of the chunk's positions begin .. end
    float tops[ATTEND_WARPS * TILE_HEADS], totals[ATTEND_WARPS * TILE_HEADS];  // [warp][head]
    float factors[TILE_HEADS];  // what a head's sum is multiplied by
    uint32_t arrived;
};

// What a block works on: one row and one head of keys and values, and of its query heads those from `head` on.
struct Reader {
    int row, kv_head;
    int group;        // query heads that read kv_head
    int head, heads;
    int width;        // of s.scores: the heads rounded up to TILE_HEADS / 2 or TILE_HEADS
    int first, last;  // positions
    int chunk;        // counted from position 0
    int begin, end;   // the positions of the chunk, from its first on
    size_t to_values; // from a row of keys to that of values

    __device__ __forceinline__ int chunks() const { return last / CHUNK - first / CHUNK + 1; }
    __device__ __forceinline__ void enter(int number) {
        chunk = first / CHUNK + number;
        begin = max(0, first - chunk * CHUNK);
        end = min(CHUNK, last + 1 - chunk * CHUNK);
    }
};

// Fills s.keys for the reader's chunk.
template <int D, int TYPE>
static __device__ __forceinline__ void find_keys(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    const uint32_t* table = args.rows.pages + args.rows.tables[reader.row];
    const int page_len = args.cache.page_len, shift = __popc(page_len - 1);
    for (int p = reader.begin + threadIdx.x; p < reader.end; p += ATTEND_THREADS) {
        const int position = reader.chunk * CHUNK + p;
        const char* keys = strip(args.cache, table[position >> shift], 0, reader.kv_head);
        s.keys[p] = stored_row<TYPE>(keys, page_len, D, position & (page_len - 1));
    }
}

// ---- Results ------------------------------------------------------------------------------------------------------

// Which of the partial results is that of a chunk, counted from the first that the row reads, and of the tile's first
// head.
static __device__ __forceinline__ size_t partial_at(const AttendArgs& args, const Reader& reader, int number) {
    const size_t strip = static_cast<size_t>(reader.row) * args.cache.kv_heads + reader.kv_head;
    return (strip * args.chunks_max + number) * reader.group + reader.head - reader.kv_head * reader.group;
}

template <int D>
static __device__ __forceinline__ float2* partial_stats(const AttendArgs& args) {
    const size_t sums = static_cast<size_t>(args.n_rows) * args.heads * args.chunks_max * D;
    return reinterpret_cast<float2*>(args.partials + sums);
}

template <int D>
static __device__ __forceinline__ float* y_of(const AttendArgs& args, const Reader& reader) {
    return args.y + (static_cast<size_t>(reader.row) * args.heads + reader.head) * D;
}

// The chunk's largest score and sum of weights of each head, and what its sums are multiplied by: 1, or, where the
// chunk is all of the row, the inverse of the weights.
template <int D, int HEADS>
static __device__ __forceinline__ void finish_weights(const AttendArgs& args, AttendShared<D>& s,
                                                      const Reader& reader) {
    const int h = threadIdx.x;
    if (h >= reader.heads) return;
    float top = s.tops[h], total = s.totals[h];
#pragma unroll
    for (int w = 1; w < ATTEND_WARPS; w++) {
        top = fmaxf(top, s.tops[w * HEADS + h]);
        total = __fadd_rn(total, s.totals[w * HEADS + h]);
    }
    const bool alone = reader.chunks() == 1;
    s.factors[h] = alone ? __fdiv_rn(1.0f, total) : 1.0f;
    if (alone) return;
    partial_stats<D>(args)[partial_at(args, reader, reader.chunk - reader.first / CHUNK) + h] = make_float2(top, total);
}

// Adds the groups' sums in ascending order. Where the chunk is all of the row that is y, also left in s.q; else a
// partial result.
template <int D, int HEADS, int VALUES>
static __device__ __forceinline__ void finish_values(const AttendArgs& args, AttendShared<D>& s, const Reader& reader,
                                                     const float (&sums)[HEADS][VALUES]) {
    constexpr int GROUPS = ATTEND_THREADS / (D / VALUES);
    float* to = y_of<D>(args, reader);
    if (reader.chunks() > 1) to = args.partials + partial_at(args, reader, reader.chunk - reader.first / CHUNK) * D;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h >= reader.heads) break;
        float* room = s.scores + h % 2 * (ATTEND_THREADS * VALUES);
        if (h == 0) __syncthreads();  // all weights have been read
#pragma unroll
        for (int j = 0; j < VALUES; j++) room[threadIdx.x * VALUES + j] = sums[h][j];
        __syncthreads();
#pragma unroll
        for (int base = 0; base < D; base += ATTEND_THREADS) {
            const int d = base + threadIdx.x;
            if (d >= D) break;
            float sum = room[d];
#pragma unroll
            for (int g = 1; g < GROUPS; g++) sum = __fadd_rn(sum, room[g * D + d]);
            to[h * D + d] = s.q[h * D + d] = __fmul_rn(sum, s.factors[h]);
        }
    }
}

// The row's chunks to y of the reader's heads, also left in s.q.
template <int D>
static __device__ __forceinline__ void join_chunks(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    const int lane = threadIdx.x % WARP, chunks = reader.chunks();
    const size_t first = partial_at(args, reader, 0), step = reader.group;  // from a chunk to the next
    const float2* stats = partial_stats<D>(args);
    __syncthreads();
    for (int h = threadIdx.x / WARP; h < reader.heads; h += ATTEND_WARPS) {
        float top = LEAST;
        for (int c = lane; c < chunks; c += WARP) top = fmaxf(top, __ldcg(&stats[first + c * step + h]).x);
#pragma unroll
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
        }
        if (lane == 0) s.tops[h] = top;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < reader.heads * (D / 4); i += ATTEND_THREADS) {
        const int h = i / (D / 4), fourth = i % (D / 4);
        size_t at = first + h;
        float4 sum = make_float4(0, 0, 0, 0);
        float total = 0.0f;
#pragma unroll 8
        for (int c = 0; c < chunks; c++, at += step) {
            const float2 of = __ldcg(&stats[at]);
            const float4 v = __ldcg(reinterpret_cast<const float4*>(args.partials) + at * (D / 4) + fourth);
            const float factor = exp2f(__fadd_rn(of.x, -s.tops[h]));
            total = __fmaf_rn(factor, of.y, total);
            sum.x = __fmaf_rn(factor, v.x, sum.x), sum.y = __fmaf_rn(factor, v.y, sum.y);
            sum.z = __fmaf_rn(factor, v.z, sum.z), sum.w = __fmaf_rn(factor, v.w, sum.w);
        }
        const float factor = __fdiv_rn(1.0f, total);
        sum.x = __fmul_rn(sum.x, factor), sum.y = __fmul_rn(sum.y, factor);
        sum.z = __fmul_rn(sum.z, factor), sum.w = __fmul_rn(sum.w, factor);
        reinterpret_cast<float4*>(s.q)[i] = sum;
        reinterpret_cast<float4*>(y_of<D>(args, reader))[i] = sum;
    }
}

// y of the reader's heads, in s.q, to blocks of 8 bits.
template <int D>
static __device__ __forceinline__ void quantize_heads(const AttendArgs& args, const AttendShared<D>& s,
                                                      const Reader& reader) {
    __syncthreads();
    if (!args.out.quants) return;
    const size_t first = (static_cast<size_t>(reader.row) * args.heads + reader.head) * D / BLOCK;
    for (int b = threadIdx.x / WARP; b < reader.heads * D / BLOCK; b += ATTEND_WARPS) {
        quantize_block(args.out, first + b, s.q[b * BLOCK + threadIdx.x % WARP]);
    }
}
