// Elementwise kernels: see activation.py.

#include "cpu/compiled.h"

#define EACH SHARED(n > 1 << 14) for (Int i = 0; i < n; i++)

void add(const Real* x, const Real* y, Real* sum, Int n) { EACH sum[i] = x[i] + y[i]; }

void relu(const Real* x, Real* y, Int n)
{
    EACH y[i] = x[i] < 0 ? 0 : x[i];
}

void relu_gradient(const Real* g, const Real* y, Real* d, Int n)
{
    EACH d[i] = y[i] <= 0 ? 0 : g[i];  // g where y is NaN
}

void leaky_relu(const Real* x, double negative_slope, Real* y, Int n)
{
    EACH y[i] = x[i] > 0 ? x[i] : x[i] * (Real)negative_slope;
}

void leaky_relu_gradient(const Real* g, const Real* x, double negative_slope, Real* d, Int n)
{
    EACH d[i] = x[i] > 0 ? g[i] : g[i] * (Real)negative_slope;
}

// x · sigmoid(a x + b x³): SiLU and GELU.

INLINE Real square(Real x) { return x * x < (Real)1e30 ? x * x : (Real)1e30; }  // finite, as b may be 0

void sigmoid_gated(const Real* x, double a, double b, Real* y, Int n)
{
    Real one = a, three = b;
    EACH y[i] = x[i] * sigmoid(x[i] * (one + three * square(x[i])));
}

void sigmoid_gated_gradient(const Real* g, const Real* x, double a, double b, Real* d, Int n)
{
    Real one = a, three = b;
    EACH
    {
        Real s = sigmoid(x[i] * (one + three * square(x[i])));
        d[i] = g[i] * s * (1 + x[i] * (1 - s) * (one + 3 * three * square(x[i])));
    }
}
