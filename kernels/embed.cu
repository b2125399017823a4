// h[row] = the table's row tokens[row], dequantized: the bits of quant::dequantize.
//
// Shapes: table [vocab, cols] in the planes of matvec.cu, cols a multiple of 32; h [rows, cols]. The host has checked
// that each token is below vocab.
// Launch: block (256), grid (ceil(cols / 256), rows); no dynamic shared memory.
#include "rows.cuh"

constexpr int EMBED_THREADS = 256;

struct EmbedArgs {
    Rows rows;
    const void* quants;
    const void* high;
    const void* scales;
    float* h;
    int n_rows;
    int cols;
    int vocab;
    int unused;
};
static_assert(sizeof(EmbedArgs) == 80, "src/cuda/args.rs mirrors this struct");

// Value i of the table, counted over all rows.
struct Q8_0Table {
    static __device__ __forceinline__ float value(const EmbedArgs& args, size_t i) {
        const float q = static_cast<const int8_t*>(args.quants)[i];
        return __fmul_rn(q, half_bits(static_cast<const uint16_t*>(args.scales)[i / BLOCK]));
    }
};

// The nibble of value i: element e of a block is the low half of byte e, or the high one of byte e - 16.
static __device__ __forceinline__ int nibble(const void* quants, size_t i) {
    const int byte = static_cast<const unsigned char*>(quants)[i / BLOCK * (BLOCK / 2) + i % (BLOCK / 2)];
    return i % BLOCK < BLOCK / 2 ? byte & 0xf : byte >> 4;
}

struct Q4_0Table {
    static __device__ __forceinline__ float value(const EmbedArgs& args, size_t i) {
        const float d = half_bits(static_cast<const uint16_t*>(args.scales)[i / BLOCK]);
        return __fmul_rn(static_cast<float>(nibble(args.quants, i) - 8), d);
    }
};

struct Q4_1Table {
    static __device__ __forceinline__ float value(const EmbedArgs& args, size_t i) {
        const uint32_t pair = static_cast<const uint32_t*>(args.scales)[i / BLOCK];
        const float q = static_cast<float>(nibble(args.quants, i));
        return __fadd_rn(__fmul_rn(q, half_bits(pair & 0xffff)), half_bits(pair >> 16));
    }
};

#define EMBED(name, W)                                                                                           \
    extern "C" __global__ void __launch_bounds__(EMBED_THREADS) embed_##name(                                    \
        const __grid_constant__ EmbedArgs args) {                                                                \
        release_next();                                                                                          \
        await_previous();                                                                                        \
        const int column = blockIdx.x * EMBED_THREADS + threadIdx.x;                                             \
        if (column >= args.cols) return;                                                                         \
        const size_t row = args.rows.tokens[blockIdx.y];                                                         \
        args.h[static_cast<size_t>(blockIdx.y) * args.cols + column] = W::value(args, row * args.cols + column); \
    }

EMBED(q8_0, Q8_0Table)
EMBED(q4_0, Q4_0Table)
EMBED(q4_1, Q4_1Table)
