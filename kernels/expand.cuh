// The expand y += B u, for the kernels that read y: it costs them no launch of its own.
//
// B of one projection, [n_out, rank], lies in tiles so that a warp's loads are contiguous:
//   b[tile][eighth][lane][8], output o = 32 * tile + lane, column k = 8 * eighth + i; zeros fill the last tile
//   and the last eighth.
// Column k of B meets column columns[k] of u. `rank` counts the columns of this projection, over all of its terms.
#pragma once
#include "common.cuh"

struct Expand {
    const void* b;            // f16 or f32, 16-byte aligned
    const uint32_t* columns;  // [rank]
    const float* u;           // [rows, u_stride]
    int rank;                 // 0: nothing to add
    int u_stride;
    int b_is_f32;
    int unused;
};

// Adds the terms of columns base .. base + 31 to delta, k ascending. u_lane[r] is lane l's u of column base + l;
// bit l of mask[r] is set where that is not 0.
template <class T, int ROWS>
static __device__ __forceinline__ void expand_columns(const Expand& e, int tile, int base, const float (&u_lane)[ROWS],
                                                      const uint32_t (&mask)[ROWS], float (&delta)[ROWS]) {
    const int lane = threadIdx.x % WARP;
    const size_t eighths = (e.rank + 7) / 8;
    uint32_t open = 0;
#pragma unroll
    for (int r = 0; r < ROWS; r++) open |= mask[r];
    Eight<T> loaded[4];
#pragma unroll
    for (int c = 0; c < 4; c++) {
        loaded[c].clear();
        if (open >> 8 * c & 0xff) loaded[c].load(e.b, (tile * eighths + base / 8 + c) * WARP + lane);
    }
#pragma unroll
    for (int c = 0; c < 4; c++) {
        if (!(open >> 8 * c & 0xff)) continue;
        float b[8];
        loaded[c].unpack(b);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float u = __shfl_sync(0xffffffffu, u_lane[r], 8 * c + i);
                if (mask[r] >> (8 * c + i) & 1) delta[r] = __fmaf_rn(u, b[i], delta[r]);
            }
        }
    }
}

// y[r] += sum over k of B[o][k] * u[first_row + r][columns[k]], for output o = 32 * tile + lane and ROWS rows.
//
// Called by a whole warp (threadIdx.x % 32 is the lane); rows past `rows` are left alone. A term whose u is 0 is
// skipped, not multiplied: a row with no open term keeps the bits of y, and B is not read for it.
template <int ROWS>
static __device__ __forceinline__ void expand(const Expand& e, int tile, int first_row, int rows, float (&y)[ROWS]) {
    const int lane = threadIdx.x % WARP;
    float delta[ROWS] = {};
    uint32_t any[ROWS] = {};
    for (int base = 0; base < e.rank; base += WARP) {
        const bool in_range = base + lane < e.rank;
        const uint32_t column = in_range ? e.columns[base + lane] : 0;
        float u_lane[ROWS];
        uint32_t mask[ROWS], open = 0;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const bool load = in_range && first_row + r < rows;
            u_lane[r] = load ? e.u[static_cast<size_t>(first_row + r) * e.u_stride + column] : 0.0f;
            mask[r] = __ballot_sync(0xffffffffu, u_lane[r] != 0.0f);
            any[r] |= mask[r];
            open |= mask[r];
        }
        if (open == 0) continue;
        if (e.b_is_f32) expand_columns<float, ROWS>(e, tile, base, u_lane, mask, delta);
        else expand_columns<__half, ROWS>(e, tile, base, u_lane, mask, delta);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (any[r]) y[r] = __fadd_rn(y[r], delta[r]);
    }
}
