// matvec.cuh for weights of type q8_0, q4_0 and q4_1.
#include "matvec.cuh"

MATVECS(q8_0, Q8_0, 0)
MATVECS(q4_0, Q4_0, 0)
MATVECS(q4_1, Q4_1, 0)
