// attend against the scalar truth: cache types, shared heads, contexts about the edges of chunks and pages, and bits
// that depend on a row alone.
#pragma once
#include "check.h"
#include "paged.h"

struct AttendCase {
    int type, head_dim, group, kv_heads, page_len, window;
    float softcap;
    uint64_t seed;

    std::string name(const char* what) const {
        char text[160];
        snprintf(text, sizeof text, "%s %s, head_dim %d, %d heads a key, pages of %d, window %d, softcap %g", what,
                 cache_type_name(type), head_dim, group, page_len, window, softcap);
        return text;
    }
    int heads() const { return group * kv_heads; }
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim)); }
};

struct AttendInputs {
    PagedCache cache;
    PagedRows rows;
    std::vector<float> q;
};

// Sequences whose contexts end about the edges of pages and chunks, one of them read by several rows. What the rows do
// not reach stays poison.
inline AttendInputs attend_inputs(const AttendCase& c, const std::vector<int>& contexts, Rng& rng) {
    PagedRows rows(contexts, c.page_len, rng);
    AttendInputs in{PagedCache(c.type, c.head_dim, c.kv_heads, c.page_len, rows.page_count), rows, {}};
    for (size_t s = 0; s < contexts.size(); s++) in.rows.add(static_cast<int>(s), contexts[s] - 1);
    in.rows.add(static_cast<int>(contexts.size()) - 1, contexts.back() / 2);
    for (size_t s = 0; s < contexts.size(); s++) {
        for (int position = 0; position < contexts[s]; position++) {
            for (int i = 0; i < 2 * c.kv_heads; i++) {
                std::vector<float> x = random_floats(c.head_dim, 2.0f, rng);
                in.cache.write(in.rows.page(static_cast<int>(s), position), i % 2, i / 2, position % c.page_len, &x[0]);
            }
        }
    }
    in.q = random_floats(static_cast<size_t>(in.rows.count()) * c.heads() * c.head_dim, 3.0f, rng);
    return in;
}

struct AttendResult {
    std::vector<float> y;
    Acts quants;
};

inline AttendResult run_attend(const AttendCase& c, const AttendInputs& in, int splits) {
    const size_t n = in.q.size();
    int longest = 0;
    for (uint32_t position : in.rows.positions) longest = std::max(longest, static_cast<int>(position) + 1);
    DeviceRows rows(in.rows);
    Device<uint8_t> data(in.cache.bytes);
    Device<float> q(in.q), y(n), scales(n / BLOCK);
    Device<int8_t> quants(n);
    Device<int32_t> sums(n / BLOCK);
    Device<uint32_t> arrivals(std::vector<uint32_t>(in.rows.count() * c.kv_heads, 0));
    AttendArgs args = {rows.get(), in.cache.shape, q.get(), y.get(), {}, nullptr, arrivals.get(), c.scale(), c.softcap,
                       c.window, c.heads(), in.rows.count(), splits, chunks_max(longest), splits % 2};
    args.cache.data = reinterpret_cast<char*>(data.get());
    Device<float> partials(partial_floats(args));
    args.partials = partials.get();
    const bool whole_blocks = c.group * c.head_dim % BLOCK == 0;
    if (whole_blocks) args.out = {quants.get(), scales.get(), sums.get(), nullptr};
    launch_attend(args);
    CUDA(cudaDeviceSynchronize());
    partials.download();
    for (uint32_t left : arrivals.download()) {
        if (left != 0) fail(c.name("an arrival counter after"));
    }
    AttendResult result{y.download(), {}};
    if (whole_blocks) result.quants = {quants.download(), scales.download(), sums.download()};
    return result;
}

// One row and head; with `halves`, of queries, keys and values as f16. The magnitude is an error in units of 2^-24: a
// score is off by its links times the sum of its terms' magnitudes, a weight by that share of itself, and y by the
// weights' errors times the values, twice, for the total is off as well. As f16 a weight is off by 2^-11 of itself, or
// 2^-25.
inline std::vector<Truth> attend_truth(const AttendCase& c, const AttendInputs& in, int row, int head,
                                       bool halves = false) {
    auto rounded = [&](float x) { return halves ? from_half(nearest_half(x)) : x; };
    auto read = [&](int p, int which, int i) {
        return rounded(in.cache.read(in.rows.page(row, p), which, head / c.group, p % c.page_len, i));
    };
    const int d = c.head_dim, last = static_cast<int>(in.rows.positions[row]);
    const int first = c.window ? std::max(0, last + 1 - c.window) : 0;
    const float* q = &in.q[(static_cast<size_t>(row) * c.heads() + head) * d];
    std::vector<double> scores;
    double top = -HUGE_VAL, total = 0, error = 0;
    for (int p = first; p <= last; p++) {
        Truth dot;
        for (int i = 0; i < d; i++) dot.add(static_cast<double>(rounded(q[i])) * read(p, 0, i));
        double s = c.scale() * dot.value;
        scores.push_back(c.softcap ? c.softcap * std::tanh(s / c.softcap) : s);
        top = std::max(top, scores.back());
        error = std::max(error, c.scale() * dot.magnitude * 24 + std::fabs(s) * 8 + c.softcap * 4);
    }
    for (double& s : scores) total += s = std::exp(s - top);
    std::vector<Truth> y(d);
    for (int i = 0; i < d; i++) {
        for (int p = first; p <= last; p++) y[i].add(scores[p - first] / total * read(p, 1, i));
        y[i].magnitude *= 2 * error + 100 + (halves ? 8192 : 0);
        if (halves) y[i].magnitude += last + 1;
    }
    return y;
}

inline void check_attend(const AttendCase& c, const std::vector<int>& contexts) {
    Rng rng(c.seed);
    AttendInputs in = attend_inputs(c, contexts, rng);
    AttendResult first = run_attend(c, in, 1);
    for (int row = 0; row < in.rows.count(); row++) {
        for (int head = 0; head < c.heads(); head++) {
            std::vector<Truth> truth = attend_truth(c, in, row, head);
            size_t at = (static_cast<size_t>(row) * c.heads() + head) * c.head_dim;
            for (int i = 0; i < c.head_dim; i++) near(c.name("attend"), first.y[at + i], truth[i], 1);
        }
    }
    for (int splits : {2, 5}) {
        AttendResult other = run_attend(c, in, splits);
        same_bits(c.name("attend in other splits"), first.y, other.y);
        same_bits(c.name("attend's quants in other splits"), first.quants.quants, other.quants.quants);
    }
    if (!first.quants.quants.empty()) {
        Acts want = quantize(first.y);
        same_bits(c.name("attend quants"), want.quants, first.quants.quants);
        same_bits(c.name("attend scales"), want.scales, first.quants.scales);
        same_bits(c.name("attend sums"), want.sums, first.quants.sums);
    }
    // A row by itself.
    const size_t width = static_cast<size_t>(c.heads()) * c.head_dim;
    for (int row : {0, in.rows.count() - 1}) {
        AttendInputs alone = in;
        alone.rows.positions = {in.rows.positions[row]}, alone.rows.tables = {in.rows.tables[row]};
        alone.q.assign(in.q.begin() + row * width, in.q.begin() + (row + 1) * width);
        std::vector<float> of_row(first.y.begin() + row * width, first.y.begin() + (row + 1) * width);
        same_bits(c.name("a row by itself"), of_row, run_attend(c, alone, 3).y);
    }
}

// Every head_dim with every type, every group and edge of a context with each type.
inline void check_attends(bool extra) {
    const int dims[] = {64, 80, 96, 128, 256}, groups[] = {1, 2, 3, 4, 8, 9};
    const std::vector<int> contexts[] = {{1, 31, 600}, {255, 257}, {256, 17, 513}};
    uint64_t seed = 700;
    int index = 0;
    for (int type : {CACHE_F32, CACHE_F16, CACHE_Q8_0}) {
        for (int i = 0; i < 6; i++, index++) {
            int dim = type == CACHE_Q8_0 && dims[i % 5] == 80 ? 128 : dims[i % 5];
            int group = groups[(i + index) % 6], page_len = index % 2 ? 16 : 64;
            check_attend({type, dim, group, 2, page_len, 0, 0, seed++}, contexts[index % 3]);
        }
        check_attend({type, 64, 3, 1, 16, 300, 5.0f, seed++}, {600, 290, 40});
        check_attend({type, 128, 4, 1, 512, 1, 0, seed++}, {257, 2});
        // Chunks of several steps, and of twice the least.
        check_attend({type, 64, 2, 1, 64, 0, 0, seed++}, {16500});
        check_attend({type, 64, 1, 1, 64, 700, 0, seed++}, {17000, 4200});
        if (extra) check_attend({type, 128, 4, 2, 64, 0, 0, seed++}, {4096, 30000, 130});
    }
}
