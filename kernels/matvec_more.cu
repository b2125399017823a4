// matvec.cuh for weights of type q5_0, q5_1, iq4_nl, iq4_xs and mxfp4.
#include "types_more.cuh"

#include "matvec.cuh"

MATVECS(q5_0, Q5_0, 1)
MATVECS(q5_1, Q5_1, 1)
MATVECS(iq4_nl, IQ4_NL, 1)
MATVECS(iq4_xs, IQ4_XS, 1)
MATVECS(mxfp4, MXFP4, 1)
