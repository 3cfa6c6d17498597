// Averages that move, a number at a time: see the function of the same name in average.py.

#include "compiled.h"

void move(Real* average, const Real* x, double kept, double share, Int n)
{
    Real k = kept, s = share;
    SHARED(n > 1 << 14) for (Int i = 0; i < n; i++) average[i] = average[i] * k + x[i] * s;
}
