// Timings on a GPU: one kernel at a time, then a whole feed-forward half, with and without a valve.
//
// Each measurement is a CUDA graph of many launches over weights that rotate through more memory than four L2
// caches, replayed and timed by events; the figure is the median replay divided by its launches. Bytes are what a
// launch has to read once (weights, A, B); GB/s are 1e9 bytes, and the copy they stand beside counts bytes read plus
// bytes written.
#pragma once
#include <algorithm>
#include <ctime>
#include <functional>

#include "host.h"

// ---- Memory of random bytes and halves ----------------------------------------------------------------------------

__global__ void fill_random(uint32_t* p, size_t n, uint32_t seed, uint32_t keep, uint32_t set) {
    size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
        uint32_t x = static_cast<uint32_t>(i) * 2654435761u ^ static_cast<uint32_t>(i >> 32) ^ seed;
        x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu, x ^= x >> 16;
        p[i] = (x & keep) | set;
    }
}

// Hands out pieces in turn and starts over when they run out: the rotation.
class Pool {
public:
    // `halves`: f16 of either sign with magnitudes in [2^-9, 2^-8); else plain random bytes.
    Pool(size_t bytes, bool halves) : bytes_(bytes) {
        CUDA(cudaMalloc(&p_, bytes));
        fill_random<<<1024, 256>>>(static_cast<uint32_t*>(p_), bytes / 4, 12345u + halves,
                                   halves ? 0x83ff83ffu : ~0u, halves ? 0x18001800u : 0u);
        CUDA(cudaGetLastError());
    }
    ~Pool() { cudaFree(p_); }
    const void* take(size_t bytes) {
        bytes = (bytes + 255) / 256 * 256;
        if (bytes > bytes_) fprintf(stderr, "a pool of %zu bytes is too small\n", bytes_), exit(2);
        if (at_ + bytes > bytes_) at_ = 0;
        at_ += bytes;
        return static_cast<const char*>(p_) + at_ - bytes;
    }

private:
    void* p_ = nullptr;
    size_t bytes_, at_ = 0;
};

// ---- Timing -------------------------------------------------------------------------------------------------------

struct Gpu {
    cudaDeviceProp props;
    cudaStream_t stream;
    double copy_gb_s = 0;
    Pool quants{1200u << 20, false}, scales{160u << 20, true}, halves{256u << 20, true};

    Gpu() {
        CUDA(cudaGetDeviceProperties(&props, 0));
        CUDA(cudaStreamCreate(&stream));
    }
};

struct Timing {
    double median_us, min_us, max_us;
};

// Times `replay`, which enqueues on gpu.stream, over 15 runs after 3 of warm-up.
inline Timing time_replays(Gpu& gpu, int launches, const std::function<void()>& replay) {
    cudaEvent_t start, stop;
    CUDA(cudaEventCreate(&start));
    CUDA(cudaEventCreate(&stop));
    std::vector<double> us;
    for (int run = 0; run < 18; run++) {
        CUDA(cudaEventRecord(start, gpu.stream));
        replay();
        CUDA(cudaEventRecord(stop, gpu.stream));
        CUDA(cudaEventSynchronize(stop));
        float ms;
        CUDA(cudaEventElapsedTime(&ms, start, stop));
        if (run >= 3) us.push_back(ms * 1e3 / launches);
    }
    CUDA(cudaEventDestroy(start));
    CUDA(cudaEventDestroy(stop));
    std::sort(us.begin(), us.end());
    return {us[us.size() / 2], us.front(), us.back()};
}

// Captures `launches` calls of `launch` into a graph and times it.
inline Timing time_graph(Gpu& gpu, int launches, const std::function<void()>& launch) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamBeginCapture(gpu.stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches; i++) launch();
    CUDA(cudaStreamEndCapture(gpu.stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    Timing timing = time_replays(gpu, launches, [&] { CUDA(cudaGraphLaunch(exec, gpu.stream)); });
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    return timing;
}

inline int rotation(const Gpu& gpu, double bytes) {
    return static_cast<int>(std::min(2000.0, std::max(20.0, std::ceil(4.0 * gpu.props.l2CacheSize / bytes))));
}

inline void measure_copy(Gpu& gpu) {
    size_t bytes = 512u << 20;
    void* p = const_cast<void*>(gpu.quants.take(2 * bytes));
    auto copy = [&] {
        CUDA(cudaMemcpyAsync(static_cast<char*>(p) + bytes, p, bytes, cudaMemcpyDeviceToDevice, gpu.stream));
    };
    gpu.copy_gb_s = 2.0 * bytes / time_replays(gpu, 1, copy).median_us / 1e3;
    printf("copy of %zu MiB: %.0f GB/s read plus written\n\n", bytes >> 20, gpu.copy_gb_s);
}

// ---- Results ------------------------------------------------------------------------------------------------------

struct Row {
    std::string kernel, model;
    const char* type;
    int n_out, n_in, rows, rank, outs;
    bool picked;  // the variant that the program would choose
    bool programmatic;
    double bytes;
    Timing time;
};

struct Report {
    const Gpu& gpu;
    std::vector<Row> rows;

    static void header() {
        printf("%-14s %-5s %-5s %14s %4s %6s %4s %9s %8s %6s\n", "kernel", "model", "type", "n_out x n_in", "rows",
               "rank", "outs ", "us", "GB/s", "% copy");
    }
    double gb_s(const Row& r) const { return r.bytes / r.time.median_us / 1e3; }
    void add(Row r) {
        char rank[16];
        snprintf(rank, sizeof rank, r.rank < 0 ? "%d shut" : "%d", std::abs(r.rank));
        const char* picked = r.picked ? "*" : " ";
        const char* programmatic = r.programmatic ? "p" : " ";
        printf("%-14s %-5s %-5s %6d x %5d %6d %6s %3d%s%s %9.2f %8.0f %6.1f\n", r.kernel.c_str(), r.model.c_str(),
               r.type, r.n_out, r.n_in, r.rows, rank, r.outs, picked, programmatic, r.time.median_us, gb_s(r),
               100 * gb_s(r) / gpu.copy_gb_s);
        rows.push_back(r);
    }
    void write(const std::string& path) const {
        FILE* f = fopen(path.c_str(), "w");
        if (!f) fprintf(stderr, "cannot write %s\n", path.c_str()), exit(2);
        int driver, runtime;
        CUDA(cudaDriverGetVersion(&driver));
        CUDA(cudaRuntimeGetVersion(&runtime));
        time_t now = time(nullptr);
        char date[32];
        strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
        fprintf(f, "{\"date\": \"%s\", \"device\": \"%s\", ", date, gpu.props.name);
        fprintf(f, "\"compute_capability\": \"%d.%d\", \"multiprocessors\": %d, ", gpu.props.major, gpu.props.minor,
                gpu.props.multiProcessorCount);
        fprintf(f, "\"l2_bytes\": %d, \"driver_api\": %d, \"runtime\": %d, \"nvidia_driver\": \"%s\", ",
                gpu.props.l2CacheSize, driver, runtime, getenv("NVIDIA_DRIVER") ? getenv("NVIDIA_DRIVER") : "");
        fprintf(f, "\"copy_gb_per_s\": %.1f,\n \"rows\": [\n", gpu.copy_gb_s);
        for (size_t i = 0; i < rows.size(); i++) {
            const Row& r = rows[i];
            fprintf(f, "  {\"kernel\": \"%s\", \"model\": \"%s\", \"type\": \"%s\", \"n_out\": %d, \"n_in\": %d, ",
                    r.kernel.c_str(), r.model.c_str(), r.type, r.n_out, r.n_in);
            fprintf(f, "\"rows\": %d, \"rank\": %d, \"open\": %s, \"outs\": %d, \"picked\": %s, ", r.rows,
                    std::abs(r.rank), r.rank > 0 ? "true" : "false", r.outs, r.picked ? "true" : "false");
            fprintf(f, "\"programmatic\": %s, ", r.programmatic ? "true" : "false");
            fprintf(f, "\"bytes\": %.0f, \"us\": %.3f, \"us_min\": %.3f, \"us_max\": %.3f, ", r.bytes,
                    r.time.median_us, r.time.min_us, r.time.max_us);
            fprintf(f, "\"gb_per_s\": %.1f, \"pct_of_copy\": %.2f}%s\n", gb_s(r), 100 * gb_s(r) / gpu.copy_gb_s,
                    i + 1 < rows.size() ? "," : "");
        }
        fprintf(f, " ]}\n");
        fclose(f);
    }
};

// ---- What is timed ------------------------------------------------------------------------------------------------

struct Shape {
    const char* model;
    int n_out, n_in;
};

constexpr Shape SHAPES[] = {{"8B", 4096, 4096},   {"8B", 14336, 4096},  {"8B", 4096, 14336},   {"8B", 128256, 4096},
                            {"1B", 2048, 2048},   {"1B", 8192, 2048},   {"1B", 2048, 8192},    {"1B", 128256, 2048},
                            {"135M", 576, 576},   {"135M", 1536, 576},  {"135M", 576, 1536},   {"135M", 49152, 576}};
constexpr int MAX_ROWS = 8, MAX_RANK = 128, MAX_IN = 14336, MAX_OUT = 128256;

inline double weight_bytes(WeightType type, double n_out, double n_in) {
    return n_out * n_in / BLOCK * (type == TYPE_Q8_0 ? 34 : type == TYPE_Q4_0 ? 18 : 20);
}

// Activations and a valve's small tables, allocated once at their largest.
struct Scratch {
    Device<float> x{MAX_ROWS * MAX_IN}, floats{MAX_ROWS * MAX_IN}, x_scales{MAX_ROWS * MAX_IN / BLOCK};
    Device<int8_t> x_quants{MAX_ROWS * MAX_IN};
    Device<int32_t> x_sums{MAX_ROWS * MAX_IN / BLOCK};
    Device<float> y{static_cast<size_t>(MAX_ROWS) * MAX_OUT}, y2{MAX_ROWS * MAX_IN}, h{MAX_ROWS * MAX_IN};
    Device<float> u{MAX_ROWS * MAX_RANK}, openings{MAX_ROWS}, scale{MAX_RANK}, norm{MAX_IN};
    Device<uint32_t> slot{MAX_RANK}, columns{MAX_RANK};

    Scratch() {
        Rng rng(1);
        std::vector<float> values(MAX_ROWS * MAX_IN);
        for (float& v : values) v = rng.uniform();
        x.upload(values), h.upload(values), y2.upload(values), floats.upload(values);
        norm.upload(std::vector<float>(values.begin(), values.begin() + MAX_IN));
        y.upload(std::vector<float>(static_cast<size_t>(MAX_ROWS) * MAX_OUT, 0.5f));
        u.upload(std::vector<float>(MAX_ROWS * MAX_RANK, 0.25f));
        scale.upload(std::vector<float>(MAX_RANK, 2.0f));
        slot.upload(std::vector<uint32_t>(MAX_RANK, 0));
        std::vector<uint32_t> identity(MAX_RANK);
        for (int j = 0; j < MAX_RANK; j++) identity[j] = j;
        columns.upload(identity);
        open(true);
    }
    void open(bool wide) { openings.upload(std::vector<float>(MAX_ROWS, wide ? 0.7f : 0.0f)); }
    Quantized quantized() { return {x_quants.get(), x_scales.get(), x_sums.get(), floats.get()}; }
    MatvecArgs matvec(int n_in, int rows) {
        MatvecArgs args = {};
        args.x = {reinterpret_cast<const uint4*>(x_quants.get()), x_scales.get(), x_sums.get(), nullptr};
        args.n_in = n_in;
        args.rows = rows;
        return args;
    }
    Shrink shrink(const void* a, int rank) {
        return {a, floats.get(), openings.get(), nullptr, scale.get(), slot.get(), u.get(), rank, 1, rank, 0};
    }
    Expand expand(const void* b, int first, int rank, int u_stride) {
        return {b, columns.get() + first, u.get(), rank, u_stride, 0, 0};
    }
};

inline MatvecPart random_part(Gpu& gpu, WeightType type, float* y, int n_out, int n_in) {
    size_t blocks = static_cast<size_t>(n_out) * n_in / BLOCK;
    const uint4* quants = static_cast<const uint4*>(gpu.quants.take(blocks * (type == TYPE_Q8_0 ? 32 : 16)));
    return {quants, nullptr, gpu.scales.take(blocks * (type == TYPE_Q4_1 ? 4 : 2)), y, n_out, 0};
}

inline void time_matvecs(Gpu& gpu, Scratch& s, Report& report) {
    for (const Shape& shape : SHAPES) {
        for (WeightType type : {TYPE_Q4_0, TYPE_Q4_1, TYPE_Q8_0}) {
            for (int rows : {1, 2, 4, 8}) {
                launch_quantize({s.x.get(), nullptr, nullptr, s.quantized(), shape.n_in, 0.0f}, rows, gpu.stream);
                const Matvec& picked = pick_matvec(rows, shape.n_out, gpu.props.multiProcessorCount);
                for (const Matvec& variant : MATVEC_TABLE) {
                    if (variant.rows != rows) continue;
                    for (int rank : {0, 16, 64}) {
                        if (rank && &variant != &picked) continue;
                        double bytes = weight_bytes(type, shape.n_out, shape.n_in) + 2.0 * rank * shape.n_in;
                        Timing time = time_graph(gpu, rotation(gpu, bytes), [&] {
                            MatvecArgs args = s.matvec(shape.n_in, rows);
                            args.parts[0] = random_part(gpu, type, s.y.get(), shape.n_out, shape.n_in);
                            if (rank) args.shrink = s.shrink(gpu.halves.take(2 * rank * shape.n_in), rank);
                            launch_matvec(variant, type, args, gpu.stream);
                        });
                        report.add({"matvec", shape.model, type_name(type), shape.n_out, shape.n_in, rows, rank,
                                    variant.outs, &variant == &picked, programmatic, bytes, time});
                    }
                }
            }
        }
    }
}

inline void time_consumers(Gpu& gpu, Scratch& s, Report& report) {
    struct Size {
        const char* model;
        int n, ff;
    };
    for (Size size : {Size{"8B", 4096, 14336}, Size{"1B", 2048, 8192}, Size{"135M", 576, 1536}}) {
        for (int rows : {1, 8}) {
            auto add = [&](const char* name, int n, int rank, double bytes, const std::function<void()>& launch) {
                Timing time = time_graph(gpu, 200, launch);
                report.add({name, size.model, "f16", n, 0, rows, rank, 0, true, programmatic, bytes, time});
            };
            for (const float* norm : {static_cast<const float*>(nullptr), static_cast<const float*>(s.norm.get())}) {
                QuantizeArgs args = {s.x.get(), norm, nullptr, s.quantized(), size.n, 1e-5f};
                add(norm ? "norm+quantize" : "quantize", size.n, 0, 4.0 * rows * size.n,
                    [&] { launch_quantize(args, rows, gpu.stream); });
            }
            for (int rank : {0, 16, 64}) {
                add("residual", size.n, rank, 12.0 * rows * size.n + 2.0 * rank * size.n, [&] {
                    Expand e = s.expand(gpu.halves.take(2 * rank * size.n), 0, rank, rank);
                    launch_residual(rows, {s.h.get(), s.x.get(), e, size.n, rows}, gpu.stream);
                });
                add("gated", size.ff, rank, 8.0 * rows * size.ff + 4.0 * rank * size.ff, [&] {
                    Expand gate = s.expand(gpu.halves.take(2 * rank * size.ff), 0, rank, rank), up = gate;
                    up.b = gpu.halves.take(2 * rank * size.ff);
                    launch_gated(rows, {s.y.get(), s.y2.get(), gate, up, s.quantized(), size.ff, rows}, gpu.stream);
                });
            }
        }
    }
}

// norm + quantize, [gate, up] + shrink, silu * up + expand + quantize, down + shrink, residual + expand: five launches
// with and without a valve. A negative rank is a valve that is attached and closed.
inline void time_ffn(Gpu& gpu, Scratch& s, Report& report, const char* model, int n, int ff, WeightType type, int rows,
                     int rank) {
    int r = std::abs(rank), sms = gpu.props.multiProcessorCount;
    double bytes = weight_bytes(type, ff, 3.0 * n) + (rank > 0 ? 2.0 * r * (3.0 * n + 3.0 * ff) : 0.0);
    s.open(rank > 0);
    Timing time = time_graph(gpu, rotation(gpu, bytes), [&] {
        launch_quantize({s.x.get(), s.norm.get(), nullptr, s.quantized(), n, 1e-5f}, rows, gpu.stream);
        MatvecArgs args = s.matvec(n, rows);
        args.parts[0] = random_part(gpu, type, s.y.get(), ff, n);
        args.parts[1] = random_part(gpu, type, s.y2.get(), ff, n);
        if (r) args.shrink = s.shrink(gpu.halves.take(4 * r * n), 2 * r);
        launch_matvec(pick_matvec(rows, 2 * ff, sms), type, args, gpu.stream);
        Expand gate = s.expand(gpu.halves.take(2 * r * ff), 0, r, 2 * r);
        Expand up = s.expand(gpu.halves.take(2 * r * ff), r, r, 2 * r);
        launch_gated(rows, {s.y.get(), s.y2.get(), gate, up, s.quantized(), ff, rows}, gpu.stream);
        args = s.matvec(ff, rows);
        args.parts[0] = random_part(gpu, type, s.y.get(), n, ff);
        if (r) args.shrink = s.shrink(gpu.halves.take(2 * r * ff), r);
        launch_matvec(pick_matvec(rows, n, sms), type, args, gpu.stream);
        Expand down = s.expand(gpu.halves.take(2 * r * n), 0, r, r);
        launch_residual(rows, {s.h.get(), s.y.get(), down, n, rows}, gpu.stream);
    });
    s.open(true);
    report.add({"ffn half", model, type_name(type), ff, n, rows, rank, 0, true, programmatic, bytes, time});
}

inline void time_ffns(Gpu& gpu, Scratch& s, Report& report, WeightType type) {
    for (int rows : {1, 2, 4, 8}) {
        for (int rank : {0, -16, 16, 64}) {
            time_ffn(gpu, s, report, "8B", 4096, 14336, type, rows, rank);
            time_ffn(gpu, s, report, "1B", 2048, 8192, type, rows, rank);
            time_ffn(gpu, s, report, "135M", 576, 1536, type, rows, rank);
        }
    }
}

inline void print_device() {
    cudaDeviceProp props;
    CUDA(cudaGetDeviceProperties(&props, 0));
    printf("%s, compute capability %d.%d, %d multiprocessors, L2 %d MB\n", props.name, props.major, props.minor,
           props.multiProcessorCount, props.l2CacheSize >> 20);
}
