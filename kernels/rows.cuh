// A step's rows and the key/value cache, as the kernels that know of sequences read them.
#pragma once
#include "common.cuh"

// [rows] each, in device memory, written anew each step.
struct Rows {
    const uint32_t* tokens;
    const uint32_t* positions;  // of the row in its sequence
    const uint32_t* tables;     // where in `pages` the page table of the row's sequence starts
    const uint32_t* pages;      // the page tables of all sequences, one after the other
};

constexpr int CACHE_F32 = 0, CACHE_F16 = 1, CACHE_Q8_0 = 2;

// Keys and values of all layers. Position p of a sequence lies in slot p % page_len of page table[p / page_len].
//
// A strip is one head's keys, or its values, in one page: page_len positions of head_dim values. Strips lie in the
// order [page][layer][keys, values][kv_head], so that a page is one piece of memory. f32 and f16:
// [page_len][head_dim]; q8_0: int8 [page_len][head_dim], then f16 d [page_len][head_dim / 32].
struct Cache {
    char* data;
    int layers, kv_heads, head_dim;
    int page_len;  // a power of two
    int type;      // CACHE_*
    int layer;     // the one this launch works on
};

static __host__ __device__ __forceinline__ size_t strip_bytes(const Cache& c) {
    const size_t values = static_cast<size_t>(c.page_len) * c.head_dim;
    return c.type == CACHE_F32 ? 4 * values : c.type == CACHE_F16 ? 2 * values : values + values / BLOCK * 2;
}

// The strip of keys (values: which = 1) of a head in a page.
static __host__ __device__ __forceinline__ char* strip(const Cache& c, uint32_t page, int which, int kv_head) {
    const size_t at = ((static_cast<size_t>(page) * c.layers + c.layer) * 2 + which) * c.kv_heads + kv_head;
    return c.data + at * strip_bytes(c);
}
