// How attention's scores are scaled: weights are powers of two.
#pragma once
#include "common.cuh"

constexpr float LOG2_E = 1.44269504f;
// Below every score.
constexpr float LEAST = -3.402823466e38f;

// The score of a key, times log2 e.
static __device__ __forceinline__ float scaled_score(float dot, float scale, float softcap) {
    if (softcap == 0.0f) return __fmul_rn(dot, scale * LOG2_E);
    return __fmul_rn(tanhf(__fmul_rn(dot, scale / softcap)), softcap * LOG2_E);
}
