// The k likeliest tokens of each row, likeliest first: all that a sampler draws from which starts with top-k or takes
// the best, so that a row's logits need not leave the device.
//
//   likeliest_logits   of every 4096 logits      from [rows, n] f32, to [rows, ceil(n / 4096), k]
//   likeliest_keys     of what that has left     from [rows, n] keys, n <= 4096, to [rows, k]
//
// A key orders as the logit does and, of equal logits, before that of a later token; key_of is the format. What is NaN
// or -infinity can not be drawn: its key is 0, as is one where there are fewer than k tokens.
// Launch: block (256), grid (ceil(n / 4096), rows). No dynamic shared memory.
//
// Every round takes the highest key of all: a reduction of some 40 instructions a warp, so about 100 ns, 4 us for the
// usual k of 40, twice. 128256 logits are 513 KB: 10 to 25 us over PCIe, and some 40 us of a processor to look through.
#include "common.cuh"

constexpr int LIKELIEST_THREADS = 256;
constexpr int LIKELIEST_WARPS = LIKELIEST_THREADS / WARP;
constexpr int KEYS = 16;  // of a thread
constexpr int LIKELIEST_CHUNK = KEYS * LIKELIEST_THREADS;

typedef unsigned long long Key;

struct LikeliestArgs {
    const void* from;
    Key* to;
    int n;
    int k;
};
static_assert(sizeof(LikeliestArgs) == 24, "src/cuda/args.rs mirrors this struct");

// The logit's bits in the order of numbers above the token's complement. Infinity counts as the largest number, and
// both zeros as one.
static __device__ __forceinline__ Key key_of(float logit, int token) {
    constexpr uint32_t LARGEST = 0x7f7fffffu, INFINITE = 0x7f800000u, SIGN = 0x80000000u;
    uint32_t bits = static_cast<uint32_t>(__float_as_int(logit));
    if ((bits & ~SIGN) > INFINITE || bits == (SIGN | INFINITE)) return 0;
    if (bits == INFINITE) bits = LARGEST;
    if (bits == SIGN) bits = 0;
    const uint32_t ordered = bits & SIGN ? ~bits : bits | SIGN;
    return static_cast<Key>(ordered) << 32 | static_cast<uint32_t>(~token);
}

static __device__ __forceinline__ Key warp_max(Key key) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const uint32_t high = __shfl_xor_sync(0xffffffffu, static_cast<int>(key >> 32), distance);
        const uint32_t low = __shfl_xor_sync(0xffffffffu, static_cast<int>(key), distance);
        const Key other = static_cast<Key>(high) << 32 | low;
        key = key > other ? key : other;
    }
    return key;
}

static __device__ __forceinline__ Key max_of(const Key (&keys)[KEYS]) {
    Key best = keys[0];
#pragma unroll
    for (int i = 1; i < KEYS; i++) best = best > keys[i] ? best : keys[i];
    return best;
}

template <bool LOGITS>
static __device__ __forceinline__ void likeliest(const LikeliestArgs& args, Key (&best)[2][LIKELIEST_WARPS]) {
    const size_t row = blockIdx.y, out = row * gridDim.x + blockIdx.x;
    release_next();
    await_previous();
    Key keys[KEYS];
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
        const int at = blockIdx.x * LIKELIEST_CHUNK + i * LIKELIEST_THREADS + threadIdx.x;
        keys[i] = 0;
        if (at >= args.n) continue;
        if (LOGITS) keys[i] = key_of(static_cast<const float*>(args.from)[row * args.n + at], at);
        else keys[i] = static_cast<const Key*>(args.from)[row * args.n + at];
    }
    Key own = max_of(keys);
    for (int round = 0; round < args.k; round++) {
        // Two sets by turns: one barrier a round keeps a fast warp out of what a slow one still reads.
        Key(&warps)[LIKELIEST_WARPS] = best[round % 2];
        const Key of_warp = warp_max(own);
        if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = of_warp;
        __syncthreads();
        Key highest = warps[0];
#pragma unroll
        for (int w = 1; w < LIKELIEST_WARPS; w++) highest = highest > warps[w] ? highest : warps[w];
        if (threadIdx.x == 0) args.to[out * args.k + round] = highest;
        if (own != highest || own == 0) continue;
        // No other thread has this key: it names a token.
#pragma unroll
        for (int i = 0; i < KEYS; i++) {
            if (keys[i] == highest) keys[i] = 0;
        }
        own = max_of(keys);
    }
}

#define LIKELIEST(name, LOGITS)                                                                                  \
    extern "C" __global__ void __launch_bounds__(LIKELIEST_THREADS) name(                                        \
        const __grid_constant__ LikeliestArgs args) {                                                            \
        __shared__ Key best[2][LIKELIEST_WARPS];                                                                 \
        likeliest<LOGITS>(args, best);                                                                           \
    }

LIKELIEST(likeliest_logits, true)
LIKELIEST(likeliest_keys, false)
