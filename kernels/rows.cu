// Moves rows of a matrix to its front: what is left of a batch once only some of its rows matter.
//
//   data[i] = data[rows[i]], i = 0 .. n_rows - 1, where rows ascend
//
// Shapes: data [>= rows[n_rows - 1] + 1, n] in place; rows [n_rows]. Launch: block (256), grid (ceil(n / 256), 1).
// A thread moves one column, from the first row to the last: as rows ascend, none is overwritten before it is read.
#include "common.cuh"

constexpr int GATHER_THREADS = 256;

struct GatherArgs {
    float* data;
    const uint32_t* rows;
    int n;
    int n_rows;
};
static_assert(sizeof(GatherArgs) == 24, "src/cuda/args.rs mirrors this struct");

extern "C" __global__ void __launch_bounds__(GATHER_THREADS) gather_rows(const __grid_constant__ GatherArgs args) {
    release_next();
    await_previous();
    const int column = blockIdx.x * GATHER_THREADS + threadIdx.x;
    if (column >= args.n) return;
    for (int i = 0; i < args.n_rows; i++) {
        const size_t from = args.rows[i], to = i, n = args.n;
        if (from != to) args.data[to * n + column] = args.data[from * n + column];
    }
}
