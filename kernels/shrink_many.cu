// The shrink of a valve for many rows, u = opening * scale * (A x): a launch of its own ahead of matmul.cuh's, which
// adds B u.
//
// Shapes: A [rank, n_in]; x f32 [rows, n_in]; u [rows, u_stride].
// Launch: block (128), grid (ceil(rank / 16), ceil(rows / 4)), no dynamic shared memory. A block computes 16 columns of
// 4 rows.
//
// On the f32 units and not on tensor cores: 16 columns are 64 multiply-adds a value of n_in and block, 2048 clocks of a
// multiprocessor at 4096, and the reads take longer: a block reads 4 rows of x and 16 of A from the L2 cache, 25 MB in
// all for 512 rows of f16.
//
// The bits of u[row][j] are those of matvec.cu: thread t of 128 sums the eighths t, t + 128, ... in ascending order,
// one fma a value; then pairs of lanes at distance 16, 8, 4, 2, 1; then the four warps in order. A column whose factor
// opening * scale is 0 gets u = 0 whatever its dot; a row with no other column does not read x, four such rows not A.
#include "shrink.cuh"

constexpr int SHRINK_THREADS = 128;
constexpr int SHRINK_WARPS = SHRINK_THREADS / WARP;
constexpr int SHRINK_ROWS = 4;
constexpr int SHRINK_COLUMNS = 16;
constexpr int SHRINK_DOTS = SHRINK_ROWS * SHRINK_COLUMNS;

struct ShrinkManyArgs {
    Shrink shrink;
    int n_in;
    int rows;
};
static_assert(sizeof(ShrinkManyArgs) == 80, "src/cuda/args.rs mirrors this struct");

struct ShrinkShared {
    int open[SHRINK_ROWS];
    float partial[SHRINK_WARPS][SHRINK_DOTS];
};

// Adds eighth c of the rows that are open. Four columns of A are on their way at a time.
template <class T>
static __device__ __forceinline__ void shrink_eighth(const ShrinkManyArgs& args, int c, int first_row, int first,
                                                     int columns, const bool (&open)[SHRINK_ROWS],
                                                     float (&sums)[SHRINK_DOTS]) {
    constexpr int DEPTH = 8 / sizeof(T);
    const Shrink& s = args.shrink;
    const size_t eighths = args.n_in / 8;
    Eight<float> x[SHRINK_ROWS];
#pragma unroll
    for (int r = 0; r < SHRINK_ROWS; r++) {
        x[r].clear();
        if (open[r]) x[r].load(s.x, (first_row + r) * eighths + c);
    }
#pragma unroll
    for (int j0 = 0; j0 < SHRINK_COLUMNS; j0 += DEPTH) {
        if (j0 >= columns) break;
        Eight<T> a[DEPTH];
#pragma unroll
        for (int j = 0; j < DEPTH; j++) a[j].load(s.a, min(first + j0 + j, s.rank - 1) * eighths + c);
#pragma unroll
        for (int j = 0; j < DEPTH; j++) {
            float w[8];
            a[j].unpack(w);
#pragma unroll
            for (int r = 0; r < SHRINK_ROWS; r++) {
                float values[8];
                x[r].unpack(values);
                float& sum = sums[r * SHRINK_COLUMNS + j0 + j];
#pragma unroll
                for (int i = 0; i < 8; i++) sum = __fmaf_rn(w[i], values[i], sum);
            }
        }
    }
}

// The sums of a warp: of sums 2 l and 2 l + 1 in lane l. Each step sends half of what is left to the lane across, so
// every sum adds the same pairs as warp_sum.
template <int DISTANCE>
static __device__ __forceinline__ void sum_across(float (&sums)[SHRINK_DOTS]) {
    constexpr int KEPT = SHRINK_DOTS / WARP * DISTANCE;
    const bool upper = threadIdx.x & DISTANCE;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        const float kept = upper ? sums[i + KEPT] : sums[i];
        const float sent = upper ? sums[i] : sums[i + KEPT];
        sums[i] = __fadd_rn(kept, __shfl_xor_sync(0xffffffffu, sent, DISTANCE));
    }
    if constexpr (DISTANCE > 1) sum_across<DISTANCE / 2>(sums);
}

// opening * scale of a row's column j.
static __device__ __forceinline__ float shrink_factor(const Shrink& s, int row, int j) {
    const size_t of_batch = s.row_map ? s.row_map[row] : row;
    return __fmul_rn(s.openings[of_batch * s.slots + s.slot[j]], s.scale[j]);
}

extern "C" __global__ void __launch_bounds__(SHRINK_THREADS, 3) shrink_many(
    const __grid_constant__ ShrinkManyArgs args) {
    __shared__ ShrinkShared shared;
    const Shrink& s = args.shrink;
    const int first = blockIdx.x * SHRINK_COLUMNS, first_row = blockIdx.y * SHRINK_ROWS;
    const int columns = min(SHRINK_COLUMNS, s.rank - first);
    // The dot that this thread finishes, if it does.
    const int dot = threadIdx.x, row = first_row + dot / SHRINK_COLUMNS, j = first + dot % SHRINK_COLUMNS;
    const bool finishes = dot < SHRINK_DOTS && row < args.rows && j < s.rank;
    release_next();
    if (threadIdx.x < SHRINK_ROWS) shared.open[threadIdx.x] = 0;
    await_previous();
    __syncthreads();
    const float factor = finishes ? shrink_factor(s, row, j) : 0.0f;
    if (factor != 0.0f) shared.open[dot / SHRINK_COLUMNS] = 1;
    __syncthreads();
    bool open[SHRINK_ROWS], any = false;
#pragma unroll
    for (int r = 0; r < SHRINK_ROWS; r++) {
        open[r] = shared.open[r];
        any |= open[r];
    }
    if (any) {  // the same in the whole block
        float sums[SHRINK_DOTS] = {};
#pragma unroll 1
        for (int c = threadIdx.x; c < args.n_in / 8; c += SHRINK_THREADS) {
            if (s.a_is_f32) shrink_eighth<float>(args, c, first_row, first, columns, open, sums);
            else shrink_eighth<__half>(args, c, first_row, first, columns, open, sums);
        }
        sum_across<WARP / 2>(sums);
        float* to = shared.partial[threadIdx.x / WARP] + threadIdx.x % WARP * 2;
        to[0] = sums[0], to[1] = sums[1];
        __syncthreads();
    }
    if (!finishes) return;
    float u = 0.0f;
    if (factor != 0.0f) {
        float sum = shared.partial[0][dot];
#pragma unroll
        for (int w = 1; w < SHRINK_WARPS; w++) sum = __fadd_rn(sum, shared.partial[w][dot]);
        u = __fmul_rn(factor, sum);
    }
    s.u[static_cast<size_t>(row) * s.u_stride + j] = u;
}
