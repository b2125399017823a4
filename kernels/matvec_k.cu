// matvec.cuh for weights of type q2_K, q3_K, q4_K, q5_K and q6_K.
#include "types_low.cuh"

#include "matvec.cuh"

MATVECS(q2_K, Q2_K, 2)
MATVECS(q3_K, Q3_K, 2)
MATVECS(q4_K, Q4_K, 1)
MATVECS(q5_K, Q5_K, 2)
MATVECS(q6_K, Q6_K, 2)
