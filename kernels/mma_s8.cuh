// Tensor-core products of int8 with exact int32 sums.
//
// A fragment of A [16, 32]: lane 4g + t holds columns 4t .. 4t + 3 of row g (a[0]) and of row g + 8 (a[1]), then
// columns 16 + 4t .. of the same two rows (a[2], a[3]). B [32, 8]: column g at rows 4t .. (b0) and 16 + 4t .. (b1).
// C [16, 8]: columns 2t, 2t + 1 of row g (c[0], c[1]) and of row g + 8 (c[2], c[3]). Four values make a word, the
// first lowest.
// In memory where a row of A, or a column of B, is contiguous, load_matrices of mma_f16.cuh fetches such fragments: a
// row of one of its matrices is 16 values.
#pragma once
#include "mma_f16.cuh"

// c = start + a b. Called by a whole warp.
static __device__ __forceinline__ void mma_s8(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                              int start) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %10, %10, %10};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(start));
#elif defined(__CUDA_ARCH__)
#pragma unroll
    for (int half = 0; half < 2; half++) {
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
            : "=r"(c[2 * half]), "=r"(c[2 * half + 1])
            : "r"(a[half]), "r"(b0), "r"(start));
        asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
            : "+r"(c[2 * half]), "+r"(c[2 * half + 1])
            : "r"(a[2 + half]), "r"(b1));
    }
#elif defined(CUDA_HOST_EMU)
    cuemu::mma_s8(c, a, b0, b1, start);
#endif
}

// c = start + a b of the first half of such an A, whose a[0] and a[1] are these, and the first of such a B, or of the
// last halves: 16 columns by 16 rows.
static __device__ __forceinline__ void mma_s8_half(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b, int start) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
        : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(start));
#elif defined(__CUDA_ARCH__)
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
        : "=r"(c[0]), "=r"(c[1])
        : "r"(a0), "r"(b), "r"(start));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%4, %4};"
        : "=r"(c[2]), "=r"(c[3])
        : "r"(a1), "r"(b), "r"(start));
#elif defined(CUDA_HOST_EMU)
    const uint32_t a[4] = {a0, a1, 0, 0};
    cuemu::mma_s8(c, a, b, 0, start);
#endif
}
