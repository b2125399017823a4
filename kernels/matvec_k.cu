// matvec.cuh for weights of type q4_K, q5_K and q6_K.
#include "types_k.cuh"

#include "matvec.cuh"

MATVECS(q4_K, Q4_K, 1)
MATVECS(q5_K, Q5_K, 2)
MATVECS(q6_K, Q6_K, 2)
