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
