// Tensor-core products of f16 with f32 sums, and how their operands come out of shared memory.
//
// A fragment of mma_f16 [16, 16]: lane 4g + t holds rows g and g + 8 at columns 2t, 2t + 1 (a[0], a[1]) and 2t + 8,
// 2t + 9 (a[2], a[3]). B [16, 8]: column g at rows 2t, 2t + 1 (b[0]) and 2t + 8, 2t + 9 (b[1]). C [16, 8]: columns 2t,
// 2t + 1 of row g (c[0], c[1]) and of row g + 8 (c[2], c[3]). Two halves make a word, the first in its low bits.
#pragma once
#include "common.cuh"

// Two floats to a word of two halves.
static __device__ __forceinline__ uint32_t pack_halves(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    const uint32_t upper = __half_as_ushort(__float2half_rn(high));
    return __half_as_ushort(__float2half_rn(low)) | upper << 16;
#endif
}

// c += a b. Called by a whole warp. Each row of c depends on its row of a alone.
static __device__ __forceinline__ void mma_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#elif defined(__CUDA_ARCH__)
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#elif defined(CUDA_HOST_EMU)
    cuemu::mma_f16(c, a, b0, b1);
#endif
}

// Four 8 x 8 matrices of halves. Lane 8i + r gives the address of row r of matrix i, 16 aligned bytes in shared memory,
// and of each matrix gets row lane / 4 at columns 2 (lane % 4), + 1; TRANSPOSED, the same of its transpose.
template <bool TRANSPOSED>
static __device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const uint16_t* row) {
#ifdef __CUDA_ARCH__
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                     : "r"(at)
                     : "memory");
    }
#elif defined(CUDA_HOST_EMU)
    cuemu::load_matrices(to, row, TRANSPOSED);
#endif
}

// 16 bytes from global to shared memory, there after the matching wait; before compute capability 8.0 at once.
static __device__ __forceinline__ void copy_async(void* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
#elif defined(CUDA_HOST_EMU)
    cuemu::copy_async(to, from, 16);
#else
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
#endif
}

// The same for 4 bytes.
static __device__ __forceinline__ void copy_word_async(void* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(at), "l"(from) : "memory");
#elif defined(CUDA_HOST_EMU)
    cuemu::copy_async(to, from, 4);
#else
    *static_cast<uint32_t*>(to) = *static_cast<const uint32_t*>(from);
#endif
}

// Ends a group of copies.
static __device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#elif defined(CUDA_HOST_EMU)
    cuemu::commit_copies();
#endif
}

// Waits for all groups of this thread's copies but the last PENDING.
template <int PENDING>
static __device__ __forceinline__ void wait_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#elif defined(CUDA_HOST_EMU)
    cuemu::wait_copies(PENDING);
#endif
}
