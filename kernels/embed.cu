// h[row] = the table's row tokens[row], dequantized: the bits of quant::dequantize.
//
// Shapes: table [vocab, cols] in the planes of types.cuh; h [rows, cols]. The host has checked that each token is below
// vocab.
// Launch: block (256), grid (ceil(cols / 256), rows); no dynamic shared memory.
#include "rows.cuh"
#include "types_float.cuh"
#include "types_low.cuh"
#include "types_more.cuh"

constexpr int EMBED_THREADS = 256;

struct EmbedArgs {
    Rows rows;
    const uint4* quants;
    const void* high;
    const void* scales;
    float* h;
    int cols;
    int vocab;
};
static_assert(sizeof(EmbedArgs) == 72, "src/cuda/args.rs mirrors this struct");

template <class W>
static __device__ __forceinline__ void embed(const EmbedArgs& args) {
    release_next();
    await_previous();
    const int column = blockIdx.x * EMBED_THREADS + threadIdx.x;
    if (column >= args.cols) return;
    const size_t row = args.rows.tokens[blockIdx.y], cols = args.cols, vocab = args.vocab;
    const Planes planes = {args.quants, args.high, args.scales, vocab * (cols / BLOCK)};
    args.h[blockIdx.y * cols + column] = W::value(planes, row * cols + column);
}

#define EMBED(name, W)                                                                                           \
    extern "C" __global__ void __launch_bounds__(EMBED_THREADS) embed_##name(                                    \
        const __grid_constant__ EmbedArgs args) {                                                                \
        embed<W>(args);                                                                                          \
    }

EMBED(q8_0, Q8_0)
EMBED(q4_0, Q4_0)
EMBED(q4_1, Q4_1)
EMBED(q2_K, Q2_K)
EMBED(q3_K, Q3_K)
EMBED(q4_K, Q4_K)
EMBED(q5_K, Q5_K)
EMBED(q6_K, Q6_K)
EMBED(q5_0, Q5_0)
EMBED(q5_1, Q5_1)
EMBED(iq4_nl, IQ4_NL)
EMBED(iq4_xs, IQ4_XS)
EMBED(mxfp4, MXFP4)
EMBED(f16, F16)
EMBED(bf16, BF16)
EMBED(f32, F32)
