// The nonlinearities, a number at a time: see the functions of the same names in activation.py.

#include "compiled.h"

#define EACH SHARED(n > 1 << 14) for (Int i = 0; i < n; i++)

void relu(const Real* x, Real* y, Int n)
{
    EACH y[i] = x[i] < 0 ? 0 : x[i];
}

void relu_slope(const Real* g, const Real* y, Real* d, Int n)
{
    EACH d[i] = y[i] <= 0 ? 0 : g[i];  // of a NaN too it is g
}

void leaky_relu(const Real* x, double negative_slope, Real* y, Int n)
{
    Real slope = negative_slope;
    EACH y[i] = x[i] > 0 ? x[i] : x[i] * slope;
}

void leaky_relu_slope(const Real* g, const Real* x, double negative_slope, double rest, Real* d, Int n)
{
    Real slope = negative_slope, whole = slope + (Real)rest;
    EACH d[i] = g[i] * (x[i] > 0 ? whole : slope);
}

void silu(const Real* x, Real* y, Int n)
{
    EACH y[i] = x[i] * sigmoid(x[i]);
}

void silu_slope(const Real* g, const Real* x, const Real* y, Real* d, Int n)
{
    EACH
    {
        Real s = sigmoid(x[i]);
        d[i] = g[i] * (s + y[i] - y[i] * s);
    }
}
