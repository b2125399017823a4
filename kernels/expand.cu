// The residual add, the simplest consumer of a projection: h += y + B u.
//
// Shapes: h, y [rows, n]. Launch: block (64), grid (ceil(n / 64), ceil(rows / ROWS)). A warp covers 32 outputs.
#include "expand.cuh"

constexpr int RESIDUAL_THREADS = 64;

struct ResidualArgs {
    float* h;
    const float* y;
    Expand expand;
    int n;
    int rows;
};
static_assert(sizeof(ResidualArgs) == 64, "src/cuda/args.rs mirrors this struct");

template <int ROWS>
static __device__ __forceinline__ void residual(const ResidualArgs& args) {
    const int o = blockIdx.x * RESIDUAL_THREADS + threadIdx.x;
    const int first_row = blockIdx.y * ROWS;
    release_next();
    await_previous();
    float y[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const bool load = o < args.n && first_row + r < args.rows;
        y[r] = load ? args.y[static_cast<size_t>(first_row + r) * args.n + o] : 0.0f;
    }
    // A tile past the last output has no B; the warp leaves as a whole.
    if (o / WARP * WARP >= args.n) return;
    expand<ROWS>(args.expand, o / WARP, first_row, args.rows, y);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (o >= args.n || first_row + r >= args.rows) continue;
        float* h = &args.h[static_cast<size_t>(first_row + r) * args.n + o];
        *h = __fadd_rn(*h, y[r]);
    }
}

#define RESIDUAL(ROWS)                                                                                           \
    extern "C" __global__ void __launch_bounds__(RESIDUAL_THREADS) residual_r##ROWS(                             \
        const __grid_constant__ ResidualArgs args) {                                                             \
        residual<ROWS>(args);                                                                                    \
    }

RESIDUAL(1)
RESIDUAL(2)
RESIDUAL(4)
RESIDUAL(8)
