// What a block of attend.cu works on, and how the results of chunks become those of rows.
#pragma once
#include "quantize.cuh"
#include "scores.cuh"
#include "stored.cuh"

// A context is cut into at most MOST_CHUNKS chunks, of LEAST_CHUNK positions or that times a power of two.
constexpr int LEAST_CHUNK = 64, MOST_CHUNKS = 64;
// Positions whose scores a block holds at a time.
constexpr int STEP = 256;
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
    alignas(16) float q[TILE_HEADS * D];
    alignas(16) float y[TILE_HEADS * D];          // values summed by weight, over the steps so far; at last y
    alignas(16) float scores[STEP * TILE_HEADS];  // [position][head]: scores, then weights; then sums of groups
    StoredRow keys[STEP];                         // of the step's positions begin .. end
    float tops[ATTEND_WARPS * TILE_HEADS], totals[ATTEND_WARPS * TILE_HEADS];  // of a step: [warp][head]
    // Of each head: the largest score so far and the sum of weights relative to it, what the sums before this step are
    // multiplied by, and what those of the chunk are at its end.
    float top[TILE_HEADS], total[TILE_HEADS], rescale[TILE_HEADS], factor[TILE_HEADS];
    float weights[MOST_CHUNKS * TILE_HEADS];  // of chunks that are joined: [chunk][head]
    uint32_t arrived;
};

// What a block works on: one row and one head of keys and values, and of its query heads those from `head` on.
struct Reader {
    int row, kv_head;
    int group;        // query heads that read kv_head
    int head, heads;
    int width;        // of s.scores: the heads rounded up to TILE_HEADS / 2 or TILE_HEADS
    int first, last;  // positions
    int shift;        // positions of a chunk as a power of two
    int chunks;       // that the row reads
    int number;       // of the chunk among those
    int from, after;  // the positions of the chunk that are read
    int step;         // the step's first position
    int begin, end;   // the positions of the step that are read, from its first on
    size_t to_values; // from a row of keys to that of values

    __device__ __forceinline__ void enter_chunk(int n) {
        number = n;
        const int start = ((first >> shift) + n) << shift;
        from = max(first, start), after = min(last + 1, start + (1 << shift));
        enter_step(max(start, first / STEP * STEP));
    }
    __device__ __forceinline__ void enter_step(int position) {
        step = position, begin = max(0, from - step), end = min(STEP, after - step);
    }
    __device__ __forceinline__ bool first_step() const { return step <= from; }
    __device__ __forceinline__ bool last_step() const { return step + end == after; }
};

// The reader of a row and head of keys and values, without a chunk.
static __device__ __forceinline__ Reader find_reader(const AttendArgs& args, int row, int kv_head) {
    Reader reader = {};
    reader.row = row, reader.kv_head = kv_head;
    reader.group = args.heads / args.cache.kv_heads;
    reader.to_values = args.cache.kv_heads * strip_bytes(args.cache);
    reader.last = args.rows.positions[row];
    reader.first = args.window ? max(0, reader.last + 1 - args.window) : 0;
    reader.shift = __popc(LEAST_CHUNK - 1);
    while (reader.last >> reader.shift >= MOST_CHUNKS) reader.shift++;
    reader.chunks = (reader.last >> reader.shift) - (reader.first >> reader.shift) + 1;
    return reader;
}

// Fills s.keys for the reader's step.
template <int D, int TYPE>
static __device__ __forceinline__ void find_keys(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    const uint32_t* table = args.rows.pages + args.rows.tables[reader.row];
    const int page_len = args.cache.page_len, shift = __popc(page_len - 1);
    for (int p = reader.begin + threadIdx.x; p < reader.end; p += ATTEND_THREADS) {
        const int position = reader.step + p;
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

// Joins the step's largest score and sum of weights of each head to those of the steps before. At the chunk's end they
// are its partial result, or, where the chunk is all of the row, say what its sums are multiplied by.
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
    if (!reader.first_step()) {
        top = fmaxf(top, s.top[h]);
        s.rescale[h] = exp2f(__fadd_rn(s.top[h], -top));
        total = __fmaf_rn(s.total[h], s.rescale[h], total);
    }
    const bool alone = reader.chunks == 1;
    s.top[h] = top, s.total[h] = total, s.factor[h] = alone ? __fdiv_rn(1.0f, total) : 1.0f;
    if (reader.last_step() && !alone) {
        partial_stats<D>(args)[partial_at(args, reader, reader.number) + h] = make_float2(top, total);
    }
}

// Adds the groups' sums in ascending order to those of the steps before, in s.y. At the chunk's end they are its
// partial result, or, where the chunk is all of the row, y.
template <int D, int HEADS, int VALUES>
static __device__ __forceinline__ void finish_values(const AttendArgs& args, AttendShared<D>& s, const Reader& reader,
                                                     const float (&sums)[HEADS][VALUES]) {
    constexpr int GROUPS = ATTEND_THREADS / (D / VALUES);
    const bool joins = !reader.first_step(), ends = reader.last_step();
    float* to = y_of<D>(args, reader);
    if (reader.chunks > 1) to = args.partials + partial_at(args, reader, reader.number) * D;
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
            if (joins) sum = __fmaf_rn(s.y[h * D + d], s.rescale[h], sum);
            if (ends) to[h * D + d] = sum = __fmul_rn(sum, s.factor[h]);
            s.y[h * D + d] = sum;
        }
    }
}

// What each of the row's chunks counts in the softmax over all, divided by the sum of all: s.weights. A warp takes a
// head.
template <int D>
static __device__ __forceinline__ void weigh_chunks(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    constexpr int EACH = MOST_CHUNKS / WARP;
    const int lane = threadIdx.x % WARP, chunks = reader.chunks;
    const float2* stats = partial_stats<D>(args) + partial_at(args, reader, 0);
    for (int h = threadIdx.x / WARP; h < reader.heads; h += ATTEND_WARPS) {
        float tops[EACH], totals[EACH], top = LEAST, total = 0.0f;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int c = i * WARP + lane;
            const float2 of = c < chunks ? __ldcg(&stats[c * reader.group + h]) : make_float2(LEAST, 0.0f);
            tops[i] = of.x, totals[i] = of.y;
            top = fmaxf(top, of.x);
        }
#pragma unroll
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            tops[i] = exp2f(__fadd_rn(tops[i], -top));
            total = __fmaf_rn(tops[i], totals[i], total);
        }
        const float inverse = __fdiv_rn(1.0f, warp_sum(total));
#pragma unroll
        for (int i = 0; i < EACH; i++) s.weights[(i * WARP + lane) * TILE_HEADS + h] = __fmul_rn(tops[i], inverse);
    }
}

// The row's chunks to y of the reader's heads, also left in s.y.
template <int D>
static __device__ __forceinline__ void join_chunks(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    const int chunks = reader.chunks;
    weigh_chunks(args, s, reader);
    __syncthreads();
    const float4* sums = reinterpret_cast<const float4*>(args.partials) + partial_at(args, reader, 0) * (D / 4);
    for (int i = threadIdx.x; i < reader.heads * (D / 4); i += ATTEND_THREADS) {
        float4 y = make_float4(0, 0, 0, 0);
#pragma unroll 16
        for (int c = 0; c < chunks; c++) {
            const float4 v = __ldcg(sums + static_cast<size_t>(c) * reader.group * (D / 4) + i);
            const float weight = s.weights[c * TILE_HEADS + i / (D / 4)];
            y.x = __fmaf_rn(weight, v.x, y.x), y.y = __fmaf_rn(weight, v.y, y.y);
            y.z = __fmaf_rn(weight, v.z, y.z), y.w = __fmaf_rn(weight, v.w, y.w);
        }
        reinterpret_cast<float4*>(s.y)[i] = y;
        reinterpret_cast<float4*>(y_of<D>(args, reader))[i] = y;
    }
}

// y of the reader's heads, in s.y, to blocks of 8 bits.
template <int D>
static __device__ __forceinline__ void quantize_heads(const AttendArgs& args, const AttendShared<D>& s,
                                                      const Reader& reader) {
    __syncthreads();
    if (!args.out.quants) return;
    const size_t first = (static_cast<size_t>(reader.row) * args.heads + reader.head) * D / BLOCK;
    for (int b = threadIdx.x / WARP; b < reader.heads * D / BLOCK; b += ATTEND_WARPS) {
        quantize_block(args.out, first + b, s.y[b * BLOCK + threadIdx.x % WARP]);
    }
}
