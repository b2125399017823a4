// Checks of likeliest.cu: the very tokens that sorting all of them finds.
#pragma once
#include "check.h"

#include "../likeliest.cu"

#include <algorithm>

// Logits in steps so coarse that many are equal, with all that is not a number among them.
inline std::vector<float> strange_logits(size_t n, int possible, Rng& rng) {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    const float odd[] = {inf, -inf, nan, -nan, 0.0f, -0.0f, 3.4028235e38f, -3.4028235e38f, 1e-45f, -1e-45f};
    std::vector<float> logits(n, -inf);
    for (size_t i = 0; i < n && static_cast<int>(i) < possible; i++) {
        const float coarse = std::floor(16.0f * (rng.uniform() - 0.5f)) / 4.0f;
        logits[i] = rng.bits() % 8 ? coarse : odd[rng.bits() % 10];
    }
    for (size_t i = n; i > 1; i--) std::swap(logits[i - 1], logits[rng.bits() % i]);
    return logits;
}

// Tokens by falling logit, equal ones by rising token; those that can not be drawn are left out.
inline std::vector<uint32_t> sorted_tokens(const float* logits, int n) {
    const float inf = std::numeric_limits<float>::infinity(), largest = std::numeric_limits<float>::max();
    std::vector<uint32_t> tokens;
    for (int i = 0; i < n; i++) {
        if (!std::isnan(logits[i]) && logits[i] > -inf) tokens.push_back(i);
    }
    std::stable_sort(tokens.begin(), tokens.end(), [&](uint32_t a, uint32_t b) {
        return std::min(logits[a], largest) > std::min(logits[b], largest);
    });
    return tokens;
}

inline void check_likeliest(int n, int rows, int k, int possible, uint64_t seed) {
    Rng rng(seed);
    const Case c{TYPE_Q8_0, n, k, 0, rows, true, seed};
    const std::vector<float> logits = strange_logits(static_cast<size_t>(n) * rows, possible, rng);
    const int chunks = ceil_div(n, LIKELIEST_CHUNK);
    Device<float> from(logits);
    Device<Key> keys(static_cast<size_t>(rows) * chunks * k), best(static_cast<size_t>(rows) * k);
    const LikeliestArgs first = {from.get(), keys.get(), n, k}, second = {keys.get(), best.get(), chunks * k, k};
    CUDA_LAUNCH(likeliest_logits, dim3(chunks, rows), dim3(LIKELIEST_THREADS), 0, first);
    CUDA_LAUNCH(likeliest_keys, dim3(1, rows), dim3(LIKELIEST_THREADS), 0, second);
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    std::vector<Key> got = best.download(), want;
    for (int r = 0; r < rows; r++) {
        const float* row = &logits[static_cast<size_t>(r) * n];
        std::vector<uint32_t> tokens = sorted_tokens(row, n);
        for (int i = 0; i < k; i++) {
            const bool there = i < static_cast<int>(tokens.size());
            want.push_back(there ? key_of(row[tokens[i]], static_cast<int>(tokens[i])) : 0);
            if (there && static_cast<uint32_t>(~got[r * k + i]) != tokens[i]) fail(c.name("likeliest: another token"));
        }
    }
    same_bits(c.name("likeliest"), want, got);
}

inline void check_likeliests(bool extra) {
    uint64_t seed = 900;
    for (int n : {1, 31, 4096, 4097, 9000}) {
        for (int k : {1, 2, 40}) {
            check_likeliest(n, 2, k, n, seed++);
            check_likeliest(n, 1, k, 3, seed++);  // fewer than k in all
        }
    }
    check_likeliest(5000, 3, 128, 5000, seed++);
    if (extra) check_likeliest(128256, 4, 128, 128256, seed++);
}
