// Activations to 8 bits in blocks of 32, as quantize.cuh has them. A warp makes one block.
//
// quantize_rows  x as it is, or RMS-normed first: x * weight / sqrt(mean(x^2) + eps)
// quantize_gated silu(gate) * up, where gate and up may lack their low-rank terms
//
// Shapes: inputs [rows, n], n a multiple of 32; quants int8 [rows, n]; scales, sums [rows, n / 32]; floats [rows, n].
// Launch: block (256), grid (ceil(n / 256), rows), for quantize_gated_rR (ceil(n / 256), ceil(rows / R)).
#include "expand.cuh"
#include "quantize.cuh"

constexpr int QUANTIZE_THREADS = 256;

struct QuantizeArgs {
    const float* x;
    const float* weight;      // [n], or null: no norm
    const uint32_t* row_map;  // row of x for each row of the output, or null where they are the same
    Quantized out;
    int n;
    float eps;
};

static_assert(sizeof(QuantizeArgs) == 64, "src/cuda/args.rs mirrors this struct");

struct GatedArgs {
    const float* gate;
    const float* up;
    Expand gate_expand;
    Expand up_expand;
    Quantized out;
    int n;
    int rows;
};
static_assert(sizeof(GatedArgs) == 136, "src/cuda/args.rs mirrors this struct");

// 1 / sqrt(mean(x^2) + eps) of a row, by the whole block; each block of a row computes it, in the same order.
static __device__ __forceinline__ float inverse_rms(const float* x, int n, float eps, float* partial) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < n / 4; i += QUANTIZE_THREADS) {
        const float4 v = reinterpret_cast<const float4*>(x)[i];
        sum = __fmaf_rn(v.x, v.x, sum);
        sum = __fmaf_rn(v.y, v.y, sum);
        sum = __fmaf_rn(v.z, v.z, sum);
        sum = __fmaf_rn(v.w, v.w, sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = sum;
    __syncthreads();
    sum = partial[0];
#pragma unroll
    for (int w = 1; w < QUANTIZE_THREADS / WARP; w++) sum = __fadd_rn(sum, partial[w]);
    return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sum, static_cast<float>(n)), eps)));
}

extern "C" __global__ void __launch_bounds__(QUANTIZE_THREADS)
    quantize_rows(const __grid_constant__ QuantizeArgs args) {
    __shared__ float partial[QUANTIZE_THREADS / WARP];
    const size_t row = blockIdx.y;
    release_next();
    await_previous();
    const float* x = args.x + (args.row_map ? args.row_map[row] : row) * args.n;
    float rms = 1.0f;
    if (args.weight) rms = inverse_rms(x, args.n, args.eps, partial);
    const int i = blockIdx.x * QUANTIZE_THREADS + threadIdx.x;
    if (i >= args.n) return;  // whole warps: n is a multiple of 32
    float value = x[i];
    if (args.weight) value = __fmul_rn(__fmul_rn(value, rms), args.weight[i]);
    quantize_block(args.out, (row * args.n + i) / BLOCK, value);
}

template <int ROWS>
static __device__ __forceinline__ void quantize_gated(const GatedArgs& args) {
    const int i = blockIdx.x * QUANTIZE_THREADS + threadIdx.x;
    const int first_row = blockIdx.y * ROWS;
    release_next();
    await_previous();
    if (i >= args.n) return;  // whole warps: n is a multiple of 32
    float gate[ROWS], up[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const size_t at = static_cast<size_t>(min(first_row + r, args.rows - 1)) * args.n + i;
        gate[r] = args.gate[at];
        up[r] = args.up[at];
    }
    expand<ROWS>(args.gate_expand, i / WARP, first_row, args.rows, gate);
    expand<ROWS>(args.up_expand, i / WARP, first_row, args.rows, up);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (first_row + r >= args.rows) return;
        const float silu = __fdiv_rn(gate[r], __fadd_rn(1.0f, expf(-gate[r])));
        const size_t at = static_cast<size_t>(first_row + r) * args.n + i;
        quantize_block(args.out, at / BLOCK, __fmul_rn(silu, up[r]));
    }
}

#define QUANTIZE_GATED(ROWS)                                                                                     \
    extern "C" __global__ void __launch_bounds__(QUANTIZE_THREADS) quantize_gated_r##ROWS(                       \
        const __grid_constant__ GatedArgs args) {                                                                \
        quantize_gated<ROWS>(args);                                                                              \
    }

QUANTIZE_GATED(1)
QUANTIZE_GATED(2)
QUANTIZE_GATED(4)
QUANTIZE_GATED(8)
