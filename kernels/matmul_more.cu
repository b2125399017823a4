// matmul.cuh for weights of type q5_0, q5_1, iq4_nl, iq4_xs and mxfp4.
#include "blocks_more.cuh"

#include "matmul.cuh"

MATMULS(q5_0, Q5_0Block)
MATMULS(q5_1, Q5_1Block)
MATMULS(iq4_nl, IQ4_NLBlock)
MATMULS(iq4_xs, IQ4_XSBlock)
MATMULS(mxfp4, MXFP4Block)
