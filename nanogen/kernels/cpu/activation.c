// Elementwise kernels: see activation.py.

#include "cpu/compiled.h"

#define EACH SHARED(n > 1 << 14) for (Int i = 0; i < n; i++)

void add(const Real* a, const Real* b, Real* out, Int n)
{
    EACH out[i] = a[i] + b[i];
}

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
    Real slope = negative_slope;
    EACH y[i] = x[i] > 0 ? x[i] : x[i] * slope;
}

void leaky_relu_gradient(const Real* g, const Real* x, double negative_slope, Real* d, Int n)
{
    Real slope = negative_slope;
    EACH d[i] = x[i] > 0 ? g[i] : g[i] * slope;
}

void silu(const Real* x, Real* y, Int n)
{
    EACH y[i] = x[i] * sigmoid(x[i]);
}

void silu_gradient(const Real* g, const Real* x, const Real* y, Real* d, Int n)
{
    EACH
    {
        Real s = sigmoid(x[i]);
        d[i] = g[i] * (s + y[i] - y[i] * s);
    }
}

// x · sigmoid(c · (x + 0.044715 x³)), c = √(8/π)
INLINE Real gate_of(Real x) { return sigmoid(x * ((Real)1.5957691216057308 + (Real)0.07135481282553503 * x * x)); }

void gelu(const Real* x, Real* y, Int n)
{
    EACH y[i] = x[i] * gate_of(x[i]);
}

void gelu_gradient(const Real* g, const Real* x, Real* d, Int n)
{
    EACH
    {
        Real s = gate_of(x[i]), slope = (Real)1.5957691216057308 + (Real)0.2140644384766051 * x[i] * x[i];
        d[i] = g[i] * (s + x[i] * s * (1 - s) * slope);
    }
}
