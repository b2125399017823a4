// The shrink of a valve, u = opening * scale * (A x), as the kernels that compute it are told of it.
#pragma once
#include "common.cuh"

struct Shrink {
    const void* a;            // f16 or f32 [rank, n_in]
    const float* x;           // f32 [rows, n_in]: not the quantized activations, as on the CPU
    const float* openings;    // f32 [rows of the batch, slots]
    const uint32_t* row_map;  // row of the batch for each row of x, or null where they are the same
    const float* scale;       // f32 [rank]
    const uint32_t* slot;     // [rank]: column of openings
    float* u;
    int rank;                 // 0: no valve
    int slots;
    int u_stride;
    int a_is_f32;
};
