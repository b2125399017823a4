// Timings of rope_store and attention at the shapes of an 8B model: 32 heads, 8 of keys and values, head_dim 128.
//
// A launch reads one layer of a cache with so many layers that they exceed four L2 caches, or two where one layer does.
// In the table n_out is the context, n_in the rows of a tile's span or 1, and outs the splits.
#pragma once
#include "paged.h"
#include "time.h"

constexpr int TIMED_HEADS = 32, TIMED_KV_HEADS = 8, TIMED_DIM = 128, TIMED_PAGE = 64;

// Splits so that every chunk has a block, as long as there are fewer than this many blocks a multiprocessor.
constexpr int SPLIT_BLOCKS = 16;

inline int pick_splits(int chunks, int kv_heads, int rows, int multiprocessors) {
    int chunks_a_block = ceil_div(chunks * kv_heads * rows, SPLIT_BLOCKS * multiprocessors);
    return ceil_div(chunks, chunks_a_block);
}

// A cache of `sequences` contexts, and all that attention reads and writes for some rows.
struct AttentionScratch {
    PagedRows rows;
    Cache cache;
    double layer_bytes = 0;
    void* data = nullptr;
    Device<float> q, k, v, y, scales, partials;
    Device<int8_t> quants;
    Device<int32_t> sums;
    Device<uint32_t> arrivals;
    Device<double> turns;

    // `last_rows`: rows a sequence, its last ones.
    AttentionScratch(const Gpu& gpu, int type, int sequences, int context, int last_rows, Rng& rng)
        : AttentionScratch(type, PagedRows(std::vector<int>(sequences, context), TIMED_PAGE, rng), context,
                           static_cast<size_t>(sequences) * last_rows) {
        for (int s = 0; s < sequences; s++) {
            for (int i = 0; i < last_rows; i++) rows.add(s, context - last_rows + i);
        }
        layer_bytes = 2.0 * TIMED_KV_HEADS * strip_bytes(cache) * rows.page_count;
        cache.layers = std::max(2, static_cast<int>(4.0 * gpu.props.l2CacheSize / layer_bytes));
        size_t bytes = static_cast<size_t>(layer_bytes) * cache.layers;
        CUDA(cudaMalloc(&data, bytes));
        fill_random<<<1024, 256>>>(static_cast<uint32_t*>(data), bytes / 4, 1u, 0x83ff83ffu, 0x18001800u);
        CUDA(cudaGetLastError());
        cache.data = static_cast<char*>(data);
        for (Device<float>* x : {&q, &k, &v}) {
            x->upload(std::vector<float>(width() * rows.count(), 0.25f));
        }
    }
    ~AttentionScratch() { cudaFree(data); }

    static size_t width() { return static_cast<size_t>(TIMED_HEADS) * TIMED_DIM; }
    Quantized out() { return {quants.get(), scales.get(), sums.get(), nullptr}; }
    Cache next_layer() {
        cache.layer = (cache.layer + 1) % cache.layers;
        return cache;
    }

private:
    AttentionScratch(int type, const PagedRows& sequences, int context, size_t n)
        : rows(sequences), cache{nullptr, 1, TIMED_KV_HEADS, TIMED_DIM, TIMED_PAGE, type, 0}, q(n * width()),
          k(n * width()), v(n * width()), y(n * width()), scales(n * width() / BLOCK),
          partials(n * TIMED_HEADS * chunks_max(context) * (TIMED_DIM + 2)), quants(n * width()),
          sums(n * width() / BLOCK), arrivals(std::vector<uint32_t>(n * TIMED_KV_HEADS, 0)),
          turns(std::vector<double>(TIMED_DIM / 2, 0.01)) {}
};

inline void time_decode(Gpu& gpu, Report& report, int type, int sequences, int context) {
    Rng rng(5);
    AttentionScratch s(gpu, type, sequences, context, 1, rng);
    DeviceRows rows(s.rows);
    int chunks = chunks_max(context);
    int splits = pick_splits(chunks, TIMED_KV_HEADS, sequences, gpu.props.multiProcessorCount);
    const bool fits = s.layer_bytes < gpu.props.l2CacheSize / 2;
    const int launches = std::max(20, std::min(400, s.cache.layers));
    auto add = [&](const char* name, double bytes, const std::function<void()>& launch) {
        Timing time = time_graph(gpu, launches, launch);
        report.add({name, "8B", cache_type_name(type), context, 1, sequences, 0, splits, true, programmatic, bytes,
                    time});
    };
    add("attend", s.layer_bytes, [&] {
        launch_attend({rows.get(), s.next_layer(), s.q.get(), s.y.get(), s.out(), s.partials.get(), s.arrivals.get(),
                       0.088f, 0.0f, 0, TIMED_HEADS, sequences, splits, chunks, fits}, gpu.stream);
    });
    int variant = sequences > 4 ? 8 : sequences > 2 ? 4 : sequences;
    double q_bytes = 8.0 * sequences * AttentionScratch::width();
    add("rope+store", q_bytes * (1.0 + 1.0 * TIMED_KV_HEADS / TIMED_HEADS), [&] {
        RopeStoreArgs args = {rows.get(), s.next_layer(), s.q.get(), s.k.get(), s.v.get(), s.turns.get()};
        args.heads = TIMED_HEADS, args.n_rows = sequences, args.rotated = TIMED_DIM;
        launch_rope_store(variant, args, gpu.stream);
    });
}

// The last `rows` rows of one sequence.
inline void time_prefill(Gpu& gpu, Report& report, int type, int context, int n_rows) {
    Rng rng(6);
    AttentionScratch s(gpu, type, 1, context, n_rows, rng);
    DeviceRows rows(s.rows);
    std::vector<uint4> list = row_tiles(0, n_rows);
    Device<uint4> tiles(list);
    Timing time = time_graph(gpu, 20, [&] {
        launch_attend_many({rows.get(), s.next_layer(), s.q.get(), s.y.get(), s.out(), tiles.get(), 0.088f, 0.0f, 0,
                            TIMED_HEADS}, static_cast<int>(list.size()), gpu.stream);
    });
    report.add({"attend_many", "8B", cache_type_name(type), context, n_rows, n_rows, 0, 0, true, programmatic,
                s.layer_bytes, time});
    // Two products of a multiply and an add for each of the pairs that the mask leaves.
    double pairs = static_cast<double>(n_rows) * context - 0.5 * n_rows * (n_rows - 1.0);
    printf("%-14s %.1f TFLOP/s\n", "", 4.0 * pairs * TIMED_HEADS * TIMED_DIM / time.median_us / 1e6);
}

inline void time_attentions(Gpu& gpu, Report& report) {
    for (int context : {128, 4096, 32768}) {
        for (int type : {CACHE_F16, CACHE_Q8_0, CACHE_F32}) {
            for (int sequences : {1, 8}) time_decode(gpu, report, type, sequences, context);
        }
    }
    for (int type : {CACHE_F16, CACHE_Q8_0}) {
        for (int n_rows : {16, 64, 512}) {
            for (int context : {512, 4096, 32768}) time_prefill(gpu, report, type, context, n_rows);
        }
    }
}
