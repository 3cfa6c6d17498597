// The gates of the autoregressive networks, for pixels with their channels side by side: see gates.py.

#include "cpu/compiled.h"

#define EACH SHARED(pixels * c > 1 << 13) for (Int p = 0; p < pixels; p++) PRAGMA(omp simd) for (Int q = 0; q < c; q++)
#define OF(array, parts, part) array[(parts * p + part) * c + q]  // of a pixel's parts, each of c channels

void gate(const Real* x, Real* y, Int pixels, Int c)
{
    EACH OF(y, 1, 0) = hyperbolic_tangent(OF(x, 2, 0)) * sigmoid(OF(x, 2, 1));
}

void gate_gradient(const Real* g, const Real* x, Real* dx, Int pixels, Int c)
{
    EACH
    {
        Real t = hyperbolic_tangent(OF(x, 2, 0)), s = sigmoid(OF(x, 2, 1)), d = OF(g, 1, 0) * s;
        OF(dx, 2, 0) = d * (1 - t * t);
        OF(dx, 2, 1) = d * t * (1 - s);
    }
}

void lstm(const Real* gates, const Real* before, Real* state, Int pixels, Int c)
{
    EACH
    {
        Real i = sigmoid(OF(gates, 4, 0)), f = sigmoid(OF(gates, 4, 1)), g = hyperbolic_tangent(OF(gates, 4, 2));
        Real cell = f * OF(before, 2, 1) + i * g;
        OF(state, 2, 0) = sigmoid(OF(gates, 4, 3)) * hyperbolic_tangent(cell);
        OF(state, 2, 1) = cell;
    }
}

void lstm_gradient(
    const Real* d, const Real* gates, const Real* before, const Real* state, Real* dgates, Real* dbefore, Int pixels,
    Int c)
{
    EACH
    {
        Real i = sigmoid(OF(gates, 4, 0)), f = sigmoid(OF(gates, 4, 1)), g = hyperbolic_tangent(OF(gates, 4, 2));
        Real o = sigmoid(OF(gates, 4, 3)), t = hyperbolic_tangent(OF(state, 2, 1));
        Real dh = OF(d, 2, 0), dcell = OF(d, 2, 1) + dh * o * (1 - t * t);
        OF(dgates, 4, 0) = dcell * g * i * (1 - i);
        OF(dgates, 4, 1) = dcell * OF(before, 2, 1) * f * (1 - f);
        OF(dgates, 4, 2) = dcell * i * (1 - g * g);
        OF(dgates, 4, 3) = dh * t * o * (1 - o);
        OF(dbefore, 2, 0) = 0;
        OF(dbefore, 2, 1) = dcell * f;
    }
}
