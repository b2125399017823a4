// matvec.cuh for weights of type f16, bf16 and f32.
#include "types_float.cuh"

#include "matvec.cuh"

MATVECS(f16, F16, 0)
MATVECS(bf16, BF16, 0)
MATVECS(f32, F32, 0)
