// Activations to 8 bits in blocks of 32: d = max|x| / 127, q = round(x * 127 / max|x|) with ties to even, and the sum
// of a block's q; q is in -127..=127.
#pragma once
#include "common.cuh"

struct Quantized {
    int8_t* quants;
    float* scales;
    int32_t* sums;
    float* floats;  // the values before rounding, for the shrink; or null
};

// Lane l holds value l of block `at`, counted over all rows. Called by a whole warp.
//
// A block with an infinity or a NaN has quants 0 and the scale NaN, so that every dot with it is NaN. One whose largest
// value is 0, or so small that 127 / max overflows, is all 0.
static __device__ __forceinline__ void quantize_block(const Quantized& out, size_t at, float x) {
    const int lane = threadIdx.x % WARP;
    // The bits of magnitudes order as the magnitudes do, with NaN above infinity: fmaxf would lose a NaN.
    const float largest = __int_as_float(warp_max(__float_as_int(x) & 0x7fffffff));
    const bool finite = __float_as_int(largest) < 0x7f800000;
    const float step = __fdiv_rn(127.0f, largest);
    const bool representable = finite && __float_as_int(step) < 0x7f800000;
    const int rounded = __float2int_rn(__fmul_rn(x, step));
    const int q = representable ? max(-127, min(127, rounded)) : 0;
    const int sum = warp_sum(q);
    out.quants[at * BLOCK + lane] = static_cast<int8_t>(q);
    if (out.floats) out.floats[at * BLOCK + lane] = x;
    if (lane == 0) {
        const float scale = representable ? __fdiv_rn(largest, 127.0f) : 0.0f;
        out.scales[at] = finite ? scale : __int_as_float(0x7fffffff);
        out.sums[at] = sum;
    }
}
