// What the checks and the timings share: launches, guarded device buffers, random numbers, the launch facts.
// The same text compiles with nvcc and, with emulation/cuda_host.h included first, with a C++ compiler.
#pragma once

#ifndef CUDA_HOST_EMU
// Whether a kernel may start before the one ahead of it in the stream has ended: see common.cuh.
static bool programmatic = false;

template <class Args>
void launch_kernel(void (*kernel)(Args), dim3 grid, dim3 block, cudaStream_t stream, Args args) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = block, config.stream = stream;
    config.attrs = &attribute, config.numAttrs = programmatic;
    cudaLaunchKernelEx(&config, kernel, args);  // the caller asks for the last error
}

#define CUDA_LAUNCH(kernel, grid, block, stream, args) launch_kernel(kernel, grid, block, stream, args)
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../expand.cu"
#include "../matvec.cu"
#include "../quantize.cu"

#define CUDA(call)                                                                                                \
    do {                                                                                                          \
        cudaError_t error_ = (call);                                                                              \
        if (error_ != cudaSuccess) {                                                                              \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_));            \
            exit(2);                                                                                              \
        }                                                                                                         \
    } while (0)

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// ---- Random numbers: xorshift64*, the same everywhere -------------------------------------------------------------

struct Rng {
    uint64_t state;

    explicit Rng(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15ull + 1) {}
    uint32_t bits() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<uint32_t>(state * 0x2545f4914f6cdd1dull >> 32);
    }
    float uniform() { return static_cast<float>(static_cast<int32_t>(bits())) * 0x1p-31f; }  // -1..1
};

// ---- Device memory with a guard behind it, filled so that a missing write and a write too far both show ----------

template <class T>
class Device {
public:
    static constexpr size_t GUARD_BYTES = 256;
    static constexpr unsigned char POISON = 0xff;  // a NaN as a float

    explicit Device(size_t n) : n_(n) {
        CUDA(cudaMalloc(&p_, bytes() + GUARD_BYTES));
        poison();
    }
    explicit Device(const std::vector<T>& from) : Device(from.size()) { upload(from); }
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    ~Device() { cudaFree(p_); }

    T* get() const { return static_cast<T*>(p_); }
    size_t bytes() const { return n_ * sizeof(T); }

    void poison() {
        std::vector<unsigned char> fill(bytes() + GUARD_BYTES, POISON);
        CUDA(cudaMemcpy(p_, fill.data(), fill.size(), cudaMemcpyHostToDevice));
    }
    void upload(const std::vector<T>& from) { CUDA(cudaMemcpy(p_, from.data(), bytes(), cudaMemcpyHostToDevice)); }
    std::vector<T> download() const {
        std::vector<T> to(n_);
        CUDA(cudaMemcpy(to.data(), p_, bytes(), cudaMemcpyDeviceToHost));
        std::vector<unsigned char> guard(GUARD_BYTES);
        CUDA(cudaMemcpy(guard.data(), static_cast<char*>(p_) + bytes(), GUARD_BYTES, cudaMemcpyDeviceToHost));
        for (unsigned char byte : guard) {
            if (byte != POISON) fprintf(stderr, "a kernel wrote past the end of a buffer\n"), exit(1);
        }
        return to;
    }

private:
    void* p_ = nullptr;
    size_t n_;
};

// ---- Launches -----------------------------------------------------------------------------------------------------

enum WeightType { TYPE_Q8_0, TYPE_Q4_0, TYPE_Q4_1 };

inline const char* type_name(WeightType type) {
    return type == TYPE_Q8_0 ? "q8_0" : type == TYPE_Q4_0 ? "q4_0" : "q4_1";
}

struct Matvec {
    int rows, outs;
    void (*kernel[3])(const MatvecArgs);  // by WeightType
};

#define MATVEC_ENTRY(R, O) \
    { R, O, { matvec_q8_0_r##R##_o##O, matvec_q4_0_r##R##_o##O, matvec_q4_1_r##R##_o##O } }

static const Matvec MATVEC_TABLE[] = {MATVEC_ENTRY(1, 1), MATVEC_ENTRY(1, 2), MATVEC_ENTRY(1, 4), MATVEC_ENTRY(2, 1),
                                   MATVEC_ENTRY(2, 2), MATVEC_ENTRY(4, 2), MATVEC_ENTRY(8, 2)};

// The variant for a batch and a weight: enough rows a warp for the batch, and as many outputs a warp as still leave
// WARPS_PER_SM warps for each multiprocessor. src/cuda picks by the same rule.
constexpr int WARPS_PER_SM = 16;

inline const Matvec& pick_matvec(int rows, int n_out, int multiprocessors) {
    const Matvec* best = nullptr;
    for (const Matvec& v : MATVEC_TABLE) {
        if (v.rows < rows && v.rows != 8) continue;
        if (best && best->rows < v.rows) break;
        if (!best || n_out / v.outs >= WARPS_PER_SM * multiprocessors) best = &v;
    }
    return *best;
}

// Launches one variant. The parts' block counts follow from its outputs a warp.
inline void launch_matvec(const Matvec& variant, WeightType type, MatvecArgs args, cudaStream_t stream = 0) {
    int blocks = args.shrink.rank;
    for (int p = 0; p < MAX_PARTS; p++) {
        args.parts[p].blocks = ceil_div(args.parts[p].n_out, WARPS * variant.outs);
        blocks += args.parts[p].blocks;
    }
    dim3 grid(blocks, ceil_div(args.rows, variant.rows));
    CUDA_LAUNCH(variant.kernel[type], grid, dim3(WARPS * WARP), stream, args);
    CUDA(cudaGetLastError());
}

inline void launch_quantize(const QuantizeArgs& args, int rows, cudaStream_t stream = 0) {
    CUDA_LAUNCH(quantize_rows, dim3(ceil_div(args.n, QUANTIZE_THREADS), rows), dim3(QUANTIZE_THREADS), stream, args);
    CUDA(cudaGetLastError());
}

// `variant`: rows a thread, 1, 2, 4 or 8.
inline void launch_gated(int variant, const GatedArgs& args, cudaStream_t stream = 0) {
    auto kernel = variant == 1   ? quantize_gated_r1
                  : variant == 2 ? quantize_gated_r2
                  : variant == 4 ? quantize_gated_r4
                                 : quantize_gated_r8;
    dim3 grid(ceil_div(args.n, QUANTIZE_THREADS), ceil_div(args.rows, variant));
    CUDA_LAUNCH(kernel, grid, dim3(QUANTIZE_THREADS), stream, args);
    CUDA(cudaGetLastError());
}

inline void launch_residual(int variant, const ResidualArgs& args, cudaStream_t stream = 0) {
    auto kernel = variant == 1 ? residual_r1 : variant == 2 ? residual_r2 : variant == 4 ? residual_r4 : residual_r8;
    dim3 grid(ceil_div(args.n, RESIDUAL_THREADS), ceil_div(args.rows, variant));
    CUDA_LAUNCH(kernel, grid, dim3(RESIDUAL_THREADS), stream, args);
    CUDA(cudaGetLastError());
}
