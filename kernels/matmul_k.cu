// matmul.cuh for weights of type q2_K, q3_K, q4_K, q5_K and q6_K.
#include "blocks_k.cuh"

#include "matmul.cuh"

MATMULS(q2_K, Q2_KBlock)
MATMULS(q3_K, Q3_KBlock)
MATMULS(q4_K, Q4_KBlock)
MATMULS(q5_K, Q5_KBlock)
MATMULS(q6_K, Q6_KBlock)
