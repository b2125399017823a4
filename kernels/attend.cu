// Attention of single rows over the paged cache, split over the context: for a row at position n and each of its heads
//
//   y = sum over p of softmax_p(s_p) v_p,  s_p = scale q.k_p, or softcap tanh(scale q.k_p / softcap),
//   p in 0 ..= n, of which a window leaves the last `window`
//
// Shapes: q, y [rows, heads * head_dim]; the cache as in rows.cuh, its strips 16-byte aligned; of q8_0, head_dim is a
// multiple of 32 and page_len of 8. heads / kv_heads query heads read one head of keys and values. `out` is y in blocks
// of 8 bits, as quantize.cuh has them, if out.quants is not null; heads / kv_heads * head_dim is then a multiple of 32.
// Launch: attend_dD_T for head_dim D and type T of the cache: block (128), grid (splits, kv_heads * n_rows), no dynamic
// shared memory.
//
// A row's context is cut into at most 64 chunks, of 64 positions or, where that would not do, of 64 times the least
// power of two that does; they are counted from position 0. A block takes the chunks splits apart. Of each head it
// makes the largest score, the sum of the weights and the values summed by weight, in steps of at most 256 positions.
// One chunk is the whole row: the block divides and is done. Else these go to `partials`, and the last block to arrive
// joins all chunks of the row in ascending order. So the bits of y depend on the row, its keys and values, and the
// types: not on splits, on n_rows or on which block is last. That one leaves its counter in `arrivals`, [n_rows,
// kv_heads] and 0 before the first launch, at 0.
//
// partials, of n_rows * heads * chunks_max * (D + 2) floats, 16-byte aligned: sums [n_rows, kv_heads, chunks_max,
// heads / kv_heads, D], then (largest, total) [n_rows, kv_heads, chunks_max, heads / kv_heads, 2]. chunks_max is no
// less than the chunks of any row: min(64, ceil(context / 64)) of the longest is enough. Chunks count from the first
// that the window leaves.
#include "attend.cuh"

// ---- Scores -------------------------------------------------------------------------------------------------------

// How a warp reads keys: LANES lanes a position, each PIECES 16-byte pieces of it; POSITIONS of them at a time.
template <int D, int TYPE>
struct KeyLanes {
    static constexpr int VALUES = Piece<TYPE, 16>::VALUES;
    static constexpr int ALL = D / VALUES;
    static constexpr int LANES = (ALL & -ALL) < WARP ? (ALL & -ALL) : WARP;
    static constexpr int PIECES = ALL / LANES;
    static constexpr int FIT = 64 / (PIECES * VALUES);
    static constexpr int POSITIONS = FIT >= 16 ? 16 : FIT >= 8 ? 8 : FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
    static constexpr int STRIDE = ATTEND_WARPS * WARP / LANES;  // between two positions of a lane
};

// The sums over a run of lanes of N values each, always by pairs at distance DISTANCE, DISTANCE / 2, ..., 1. No lane
// needs all of them: each step leaves a lane half of its values, down to one. With LANES = 2 * DISTANCE lanes in a
// run, x[i] ends as sum (lane % LANES) * N / LANES + i.
template <int HELD, int DISTANCE, int N>
static __device__ __forceinline__ void lane_sums(float (&x)[N]) {
    if constexpr (DISTANCE > 0) {
        constexpr int LEFT = HELD > 1 ? HELD / 2 : 1;
        const bool upper = threadIdx.x & DISTANCE;
#pragma unroll
        for (int i = 0; i < LEFT; i++) {
            const float given = upper ? x[i] : x[i + HELD - LEFT];
            const float kept = upper ? x[i + HELD - LEFT] : x[i];
            x[i] = __fadd_rn(kept, __shfl_xor_sync(0xffffffffu, given, DISTANCE));
        }
        lane_sums<LEFT, DISTANCE / 2>(x);
    }
}

// q of the reader's heads to s.q, so that the lanes that read neighbouring pieces of a key read neighbouring 16 bytes:
// [head][fourth in the piece][piece][4].
template <int D, int TYPE>
static __device__ __forceinline__ void load_queries(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    constexpr int FOURTHS = KeyLanes<D, TYPE>::VALUES / 4, ALL = KeyLanes<D, TYPE>::ALL;
    const float* q = args.q + (static_cast<size_t>(reader.row) * args.heads + reader.head) * D;
    for (int i = threadIdx.x; i < reader.heads * (D / 4); i += ATTEND_THREADS) {
        const int head = i / (D / 4), fourth = i % FOURTHS, piece = i % (D / 4) / FOURTHS;
        const float4 of = reinterpret_cast<const float4*>(q)[i];
        reinterpret_cast<float4*>(s.q)[(head * FOURTHS + fourth) * ALL + piece] = of;
    }
}

// s.scores of the reader's heads, those of the step's positions outside begin .. end apart.
template <int D, int TYPE>
static __device__ __forceinline__ void make_scores(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    using K = KeyLanes<D, TYPE>;
    constexpr int N = K::POSITIONS, LANES = K::LANES, BATCH = N * K::STRIDE, FOURTHS = K::VALUES / 4;
    constexpr int HELD = N > LANES ? N / LANES : 1, SHARED = LANES > N ? LANES / N : 1;
    const int part = threadIdx.x % LANES, group = threadIdx.x / LANES;
    for (int base = reader.begin / BATCH * BATCH; base < reader.end; base += BATCH) {
        Piece<TYPE, 16> pieces[N][K::PIECES];
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int p = base + i * K::STRIDE + group;
            const bool inside = p >= reader.begin && p < reader.end;
#pragma unroll
            for (int c = 0; c < K::PIECES; c++) {
                if (inside) pieces[i][c].load(s.keys[p].data, s.keys[p].to_scales, c * LANES + part);
                else pieces[i][c].clear();
            }
        }
        float keys[N][K::PIECES * K::VALUES];
#pragma unroll
        for (int i = 0; i < N * K::PIECES; i++) {
            pieces[i / K::PIECES][i % K::PIECES].unpack(&keys[i / K::PIECES][i % K::PIECES * K::VALUES]);
        }
#pragma unroll 1
        for (int h = 0; h < reader.heads; h++) {
            float dot[N] = {};
#pragma unroll
            for (int f = 0; f < K::PIECES * FOURTHS; f++) {
                const int at = (h * FOURTHS + f % FOURTHS) * K::ALL + f / FOURTHS * LANES + part;
                const float4 q = reinterpret_cast<const float4*>(s.q)[at];
#pragma unroll
                for (int i = 0; i < N; i++) {
                    dot[i] = __fmaf_rn(q.x, keys[i][4 * f], dot[i]);
                    dot[i] = __fmaf_rn(q.y, keys[i][4 * f + 1], dot[i]);
                    dot[i] = __fmaf_rn(q.z, keys[i][4 * f + 2], dot[i]);
                    dot[i] = __fmaf_rn(q.w, keys[i][4 * f + 3], dot[i]);
                }
            }
            lane_sums<N, LANES / 2>(dot);
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int p = base + (part / SHARED * HELD + i) * K::STRIDE + group;
                if (part % SHARED == 0) s.scores[p * reader.width + h] = scaled_score(dot[i], args.scale, args.softcap);
            }
        }
    }
}

// Scores to weights, relative to the largest so far; s.tops and s.totals get each warp's largest score and sum of
// weights.
template <int D, int HEADS>
static __device__ __forceinline__ void make_weights(AttendShared<D>& s, const Reader& reader) {
    constexpr int APART = ATTEND_THREADS / HEADS;
    const int h = threadIdx.x % HEADS, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float top = reader.first_step() ? LEAST : s.top[h], total = 0.0f;
    for (int p = threadIdx.x / HEADS; p < reader.end; p += APART) {
        if (p >= reader.begin) top = fmaxf(top, s.scores[p * HEADS + h]);
    }
#pragma unroll
    for (int distance = WARP / 2; distance >= HEADS; distance /= 2) {
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
    }
    if (lane < HEADS) s.tops[warp * HEADS + h] = top;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < ATTEND_WARPS; w++) top = fmaxf(top, s.tops[w * HEADS + h]);
    for (int p = threadIdx.x / HEADS; p < reader.end; p += APART) {
        if (p < reader.begin) continue;
        const float weight = exp2f(__fadd_rn(s.scores[p * HEADS + h], -top));
        s.scores[p * HEADS + h] = weight;
        total = __fadd_rn(total, weight);
    }
#pragma unroll
    for (int distance = WARP / 2; distance >= HEADS; distance /= 2) {
        total = __fadd_rn(total, __shfl_xor_sync(0xffffffffu, total, distance));
    }
    if (lane < HEADS) s.totals[warp * HEADS + h] = total;
}

// ---- Values -------------------------------------------------------------------------------------------------------

// How the block reads values: PARTS threads a position, GROUPS positions at a time; the threads left over rest.
template <int D, int TYPE>
struct ValueLanes {
    using P = Piece<TYPE, TYPE == CACHE_Q8_0 ? 8 : 16>;
    static constexpr int VALUES = P::VALUES;
    static constexpr int PARTS = D / VALUES;
    static constexpr int GROUPS = ATTEND_THREADS / PARTS;
};

template <int HEADS>
static __device__ __forceinline__ void load_weights(const float* from, float (&to)[HEADS]) {
    if constexpr (HEADS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < HEADS; i += 4) {
            const float4 w = *reinterpret_cast<const float4*>(from + i);
            to[i] = w.x, to[i + 1] = w.y, to[i + 2] = w.z, to[i + 3] = w.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < HEADS; i++) to[i] = from[i];
    }
}

// sums[h] = the thread's part of the values of its group's positions, ascending, times their weights.
template <int D, int TYPE, int HEADS>
static __device__ __forceinline__ void sum_values(const AttendShared<D>& s, const Reader& reader,
                                                  float (&sums)[HEADS][ValueLanes<D, TYPE>::VALUES]) {
    using V = ValueLanes<D, TYPE>;
    constexpr int DEPTH = TYPE == CACHE_F32 ? 4 : 6, BATCH = DEPTH * V::GROUPS;
    const int part = threadIdx.x % V::PARTS, group = threadIdx.x / V::PARTS;
    if (group >= V::GROUPS) return;
    for (int base = reader.begin / BATCH * BATCH; base < reader.end; base += BATCH) {
        typename V::P pieces[DEPTH];
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const int p = base + i * V::GROUPS + group;
            if (p < reader.begin || p >= reader.end) continue;
            pieces[i].load(s.keys[p].data + reader.to_values, s.keys[p].to_scales, part);
        }
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const int p = base + i * V::GROUPS + group;
            if (p < reader.begin || p >= reader.end) continue;  // not multiplied by 0: what lies there may be no number
            float values[V::VALUES], weights[HEADS];
            pieces[i].unpack(values);
            load_weights<HEADS>(&s.scores[p * HEADS], weights);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
#pragma unroll
                for (int j = 0; j < V::VALUES; j++) sums[h][j] = __fmaf_rn(weights[h], values[j], sums[h][j]);
            }
        }
    }
}

// ---- The kernel ---------------------------------------------------------------------------------------------------

template <int D, int TYPE, int HEADS>
static __device__ __forceinline__ void attend_values(const AttendArgs& args, AttendShared<D>& s, const Reader& reader) {
    make_weights<D, HEADS>(s, reader);
    __syncthreads();
    float sums[HEADS][ValueLanes<D, TYPE>::VALUES] = {};
    sum_values<D, TYPE, HEADS>(s, reader, sums);
    finish_weights<D, HEADS>(args, s, reader);
    finish_values<D, HEADS>(args, s, reader, sums);
}

// One chunk for one tile of heads. The barriers of the step before, up to the first one of finish_values, have freed
// what a step writes before its own first.
template <int D, int TYPE>
static __device__ __forceinline__ void attend_chunk(const AttendArgs& args, AttendShared<D>& s, Reader& reader) {
    reader.enter_chunk(reader.number);
    load_queries<D, TYPE>(args, s, reader);
    for (;;) {
        find_keys<D, TYPE>(args, s, reader);
        __syncthreads();
        make_scores<D, TYPE>(args, s, reader);
        __syncthreads();
        if (reader.width == TILE_HEADS) attend_values<D, TYPE, TILE_HEADS>(args, s, reader);
        else attend_values<D, TYPE, TILE_HEADS / 2>(args, s, reader);
        if (reader.last_step()) return;
        reader.enter_step(reader.step + STEP);
    }
}

// Asks for the keys and values of the reader's step; those of this row may not lie there yet.
template <int D, int TYPE>
static __device__ __forceinline__ void prefetch_step(const AttendArgs& args, const Reader& reader) {
    const uint32_t* table = args.rows.pages + args.rows.tables[reader.row];
    const int page_len = args.cache.page_len, shift = __popc(page_len - 1);
    for (int p = reader.begin + threadIdx.x; p < reader.end; p += ATTEND_THREADS) {
        const int position = reader.step + p;
        const char* strip_of_keys = strip(args.cache, table[position >> shift], 0, reader.kv_head);
        const char* keys = stored_row<TYPE>(strip_of_keys, page_len, D, position & (page_len - 1)).data;
        for (int line = 0; line < D * STORED_BYTES<TYPE>; line += LINE_BYTES) {
            prefetch_l2(keys + line);
            prefetch_l2(keys + reader.to_values + line);
        }
    }
}

// Whether this block is the last of the row's and its head of keys and values.
template <int D>
static __device__ __forceinline__ bool last_to_arrive(const AttendArgs& args, AttendShared<D>& s,
                                                      const Reader& reader) {
    const uint32_t blocks = min(args.splits, reader.chunks);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* arrivals = &args.arrivals[reader.row * args.cache.kv_heads + reader.kv_head];
        s.arrived = atomicAdd(arrivals, 1u);
        if (s.arrived == blocks - 1) *arrivals = 0;
        __threadfence();
    }
    __syncthreads();
    return s.arrived == blocks - 1;
}

template <int D, int TYPE>
static __device__ __forceinline__ void attend(const AttendArgs& args, AttendShared<D>& s) {
    release_next();
    Reader reader = find_reader(args, blockIdx.y / args.cache.kv_heads, blockIdx.y % args.cache.kv_heads);
    const int first_head = reader.kv_head * reader.group, end = first_head + reader.group, chunks = reader.chunks;
    // A block without a chunk writes nothing, so it need not wait. A row that the host has no room for is left alone.
    if (static_cast<int>(blockIdx.x) >= chunks || chunks > args.chunks_max) return;
    reader.enter_chunk(blockIdx.x);
    if (args.prefetch) prefetch_step<D, TYPE>(args, reader);
    await_previous();
    for (reader.number = blockIdx.x; reader.number < chunks; reader.number += args.splits) {
        for (reader.head = first_head; reader.head < end; reader.head += TILE_HEADS) {
            reader.heads = min(TILE_HEADS, end - reader.head);
            reader.width = reader.heads > TILE_HEADS / 2 ? TILE_HEADS : TILE_HEADS / 2;
            attend_chunk<D, TYPE>(args, s, reader);
            if (chunks == 1) quantize_heads(args, s, reader);
        }
    }
    if (chunks == 1 || !last_to_arrive(args, s, reader)) return;
    for (reader.head = first_head; reader.head < end; reader.head += TILE_HEADS) {
        reader.heads = min(TILE_HEADS, end - reader.head);
        join_chunks(args, s, reader);
        quantize_heads(args, s, reader);
    }
}

#define ATTEND(D, T, TYPE)                                                                                       \
    extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, 3) attend_d##D##_##T(                           \
        const __grid_constant__ AttendArgs args) {                                                               \
        __shared__ AttendShared<D> shared;                                                                       \
        attend<D, TYPE>(args, shared);                                                                           \
    }

ATTEND(64, f32, CACHE_F32)
ATTEND(80, f32, CACHE_F32)
ATTEND(96, f32, CACHE_F32)
ATTEND(128, f32, CACHE_F32)
ATTEND(256, f32, CACHE_F32)
ATTEND(64, f16, CACHE_F16)
ATTEND(80, f16, CACHE_F16)
ATTEND(96, f16, CACHE_F16)
ATTEND(128, f16, CACHE_F16)
ATTEND(256, f16, CACHE_F16)
ATTEND(64, q8_0, CACHE_Q8_0)
ATTEND(96, q8_0, CACHE_Q8_0)
ATTEND(128, q8_0, CACHE_Q8_0)
ATTEND(256, q8_0, CACHE_Q8_0)
