// The simplest consumers of a projection.
//
//   residual_rR   h += y + B u
//   settle_rR     h += B u, where h is the projection's own y; a row with no open term keeps its bits
//
// Shapes: h, y [rows, n]; settle does not read y.
// Launch: block (64), grid (ceil(n / 64), ceil(rows / ROWS)). A warp covers 32 outputs.
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

template <int ROWS, bool SETTLE>
static __device__ __forceinline__ void residual(const ResidualArgs& args) {
    const int o = blockIdx.x * RESIDUAL_THREADS + threadIdx.x;
    const int first_row = blockIdx.y * ROWS;
    release_next();
    await_previous();
    const float* from = SETTLE ? args.h : args.y;
    float y[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const bool load = o < args.n && first_row + r < args.rows;
        y[r] = load ? from[static_cast<size_t>(first_row + r) * args.n + o] : 0.0f;
    }
    // A tile past the last output has no B; the warp leaves as a whole.
    if (o / WARP * WARP >= args.n) return;
    expand<ROWS>(args.expand, o / WARP, first_row, args.rows, y);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (o >= args.n || first_row + r >= args.rows) continue;
        float* h = &args.h[static_cast<size_t>(first_row + r) * args.n + o];
        *h = SETTLE ? y[r] : __fadd_rn(*h, y[r]);
    }
}

#define RESIDUAL(name, ROWS, SETTLE)                                                                             \
    extern "C" __global__ void __launch_bounds__(RESIDUAL_THREADS) name##_r##ROWS(                               \
        const __grid_constant__ ResidualArgs args) {                                                             \
        residual<ROWS, SETTLE>(args);                                                                            \
    }

RESIDUAL(residual, 1, false)
RESIDUAL(residual, 2, false)
RESIDUAL(residual, 4, false)
RESIDUAL(residual, 8, false)
RESIDUAL(settle, 1, true)
RESIDUAL(settle, 2, true)
RESIDUAL(settle, 4, true)
RESIDUAL(settle, 8, true)
