// Update rules, a number at a time: see the functions of the same names in optim.py.

#include "compiled.h"

#define EACH SHARED(n > 1 << 14) for (Int i = 0; i < n; i++)

void adam(
    Real* x, const Real* g, Real* mean, Real* square, double beta1, double rest1, double beta2, double rest2, double eps,
    double correction2, double rate, Int n)
{
    Real b1 = beta1, r1 = rest1, b2 = beta2, r2 = rest2, e = eps, c2 = correction2, r = rate;
    EACH
    {
        mean[i] = mean[i] * b1 + g[i] * r1;
        square[i] = square[i] * b2 + g[i] * g[i] * r2;
        x[i] -= mean[i] / ((Real)sqrt(square[i]) * c2 + e) * r;
    }
}
