// Sequences in a paged cache, as the checks of rope.cu and attend.cu lay them out: page ids are shuffled, and what no
// position fills stays poison.
#pragma once
#include "reference.h"

#include "../attend.cu"
#include "../attend_many.cu"
#include "../rope.cu"

inline const char* cache_type_name(int type) {
    return type == CACHE_F32 ? "f32" : type == CACHE_F16 ? "f16" : "q8_0";
}

// The nearest f16, ties to even.
inline uint16_t nearest_half(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0, below = to_half(std::fabs(x));
    if (below >= 0x7c00) return sign | below;
    double low = from_half(below), high = below == 0x7bff ? 65536.0 : from_half(below + 1), at = std::fabs(x);
    bool up = at - low > high - at || (at - low == high - at && below % 2);
    return sign | static_cast<uint16_t>(below + up);
}

// A cache of `pages` pages in host memory.
struct PagedCache {
    Cache shape;  // data is null
    int pages;
    std::vector<uint8_t> bytes;

    PagedCache(int type, int head_dim, int kv_heads, int page_len, int pages, int layers = 2, int layer = 1)
        : shape{nullptr, layers, kv_heads, head_dim, page_len, type, layer}, pages(pages) {
        bytes.assign(static_cast<size_t>(pages) * layers * 2 * kv_heads * strip_bytes(shape), 0xff);
    }
    size_t at(uint32_t page, int which, int head) const {
        return static_cast<size_t>(strip(shape, page, which, head) - static_cast<char*>(nullptr));
    }
    // One position of a head: keys (0) or values (1), as a file would round them.
    void write(uint32_t page, int which, int head, int slot, const float* x) {
        const int n = shape.head_dim;
        uint8_t* to = &bytes[at(page, which, head)];
        if (shape.type == CACHE_F32) memcpy(to + 4 * slot * n, x, 4 * n);
        if (shape.type == CACHE_F16) {
            for (int i = 0; i < n; i++) put_half(to + 2 * (slot * n + i), nearest_half(x[i]));
        }
        if (shape.type != CACHE_Q8_0) return;
        for (int b = 0; b < n / BLOCK; b++) {
            float largest = 0;
            for (int i = 0; i < BLOCK; i++) largest = std::fmax(largest, std::fabs(x[b * BLOCK + i]));
            float d = largest / 127.0f, inverse = d == 0.0f ? 0.0f : 1.0f / d;
            for (int i = 0; i < BLOCK; i++) {
                to[slot * n + b * BLOCK + i] = static_cast<uint8_t>(std::round(x[b * BLOCK + i] * inverse));
            }
            put_half(to + shape.page_len * n + 2 * (slot * (n / BLOCK) + b), nearest_half(d));
        }
    }
    float read(uint32_t page, int which, int head, int slot, int i) const {
        const int n = shape.head_dim;
        const uint8_t* from = &bytes[at(page, which, head)];
        if (shape.type == CACHE_F32) {
            float x;
            memcpy(&x, from + 4 * (slot * n + i), 4);
            return x;
        }
        if (shape.type == CACHE_F16) return half_at(from + 2 * (slot * n + i));
        float d = half_at(from + shape.page_len * n + 2 * (slot * (n / BLOCK) + i / BLOCK));
        return d * static_cast<int8_t>(from[slot * n + i]);
    }

private:
    static void put_half(uint8_t* to, uint16_t half) { memcpy(to, &half, 2); }
    static float half_at(const uint8_t* p) { return from_half(static_cast<uint16_t>(p[0] | p[1] << 8)); }
};

// Rows of a step: the sequence and the position of each. Sequence s holds lengths[s] positions.
struct PagedRows {
    std::vector<uint32_t> positions, tables, pages, starts;
    int page_len, page_count = 0;

    PagedRows(const std::vector<int>& lengths, int page_len, Rng& rng) : page_len(page_len) {
        for (int length : lengths) {
            starts.push_back(static_cast<uint32_t>(pages.size()));
            for (int i = 0; i < ceil_div(length, page_len); i++) pages.push_back(page_count++);
        }
        for (size_t i = pages.size(); i > 1; i--) std::swap(pages[i - 1], pages[rng.bits() % i]);
    }
    void add(int sequence, int position) {
        positions.push_back(static_cast<uint32_t>(position));
        tables.push_back(starts[sequence]);
    }
    int count() const { return static_cast<int>(positions.size()); }
    uint32_t page(int row, int position) const { return pages[tables[row] + position / page_len]; }
};

// The same in device memory.
struct DeviceRows {
    Device<uint32_t> positions, tables, pages;

    explicit DeviceRows(const PagedRows& r) : positions(r.positions), tables(r.tables), pages(r.pages) {}
    Rows get() const { return {nullptr, positions.get(), tables.get(), pages.get()}; }
};

// ---- Launches -----------------------------------------------------------------------------------------------------

// `variant`: rows a warp, 1, 2, 4 or 8.
inline void launch_rope_store(int variant, const RopeStoreArgs& args, cudaStream_t stream = 0) {
    auto kernel = variant == 1   ? rope_store_r1
                  : variant == 2 ? rope_store_r2
                  : variant == 4 ? rope_store_r4
                                 : rope_store_r8;
    int tiles = ceil_div(args.heads * args.cache.head_dim, WARP);
    tiles += 2 * ceil_div(args.cache.kv_heads * args.cache.head_dim, WARP);
    dim3 grid(ceil_div(tiles, ROPE_THREADS / WARP), ceil_div(args.n_rows, variant));
    CUDA_LAUNCH(kernel, grid, dim3(ROPE_THREADS), stream, args);
    CUDA(cudaGetLastError());
}

#define ATTEND_ENTRY(D) \
    if (d == D && type == CACHE_F32) return attend_d##D##_f32; \
    if (d == D && type == CACHE_F16) return attend_d##D##_f16; \
    if (d == D) return attend_d##D##_q8_0;

typedef void (*AttendKernel)(const AttendArgs);

inline AttendKernel pick_attend(int d, int type) {
    ATTEND_ENTRY(64)
    ATTEND_ENTRY(96)
    ATTEND_ENTRY(128)
    ATTEND_ENTRY(256)
    return type == CACHE_F32 ? attend_d80_f32 : attend_d80_f16;
}

inline void launch_attend(const AttendArgs& args, cudaStream_t stream = 0) {
    dim3 grid(args.splits, args.cache.kv_heads * args.n_rows);
    CUDA_LAUNCH(pick_attend(args.cache.head_dim, args.cache.type), grid, dim3(ATTEND_THREADS), stream, args);
    CUDA(cudaGetLastError());
}

// Tiles of at most 64 rows over neighbouring rows `first` .. `first` + `rows`, the last ones first.
inline std::vector<uint4> row_tiles(int first, int rows, int height = MANY_WARPS * WARP_ROWS) {
    std::vector<uint4> tiles;
    for (int at = (rows - 1) / height * height; at >= 0; at -= height) {
        tiles.push_back(make_uint4(first + at, std::min(height, rows - at), 0, 0));
    }
    return tiles;
}

inline void launch_attend_many(const AttendManyArgs& args, int tiles, cudaStream_t stream = 0) {
    const int d = args.cache.head_dim;
    auto kernel = d == 64    ? attend_many_d64
                  : d == 80  ? attend_many_d80
                  : d == 96  ? attend_many_d96
                  : d == 128 ? attend_many_d128
                             : attend_many_d256;
    CUDA_LAUNCH(kernel, dim3(tiles, args.heads), dim3(MANY_THREADS), stream, args);
    CUDA(cudaGetLastError());
}

// args.chunks_max for contexts of up to `longest` positions.
inline int chunks_max(int longest) { return std::min(MOST_CHUNKS, ceil_div(longest, LEAST_CHUNK)); }

// Floats of args.partials.
inline size_t partial_floats(const AttendArgs& args) {
    return static_cast<size_t>(args.n_rows) * args.heads * args.chunks_max * (args.cache.head_dim + 2);
}
