// matmul.cuh for weights of type q8_0, q4_0 and q4_1.
#include "matmul.cuh"

MATMULS(q8_0, Q8_0Block)
MATMULS(q4_0, Q4_0Block)
MATMULS(q4_1, Q4_1Block)
