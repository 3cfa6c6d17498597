// The gates of the autoregressive networks, for rows of channels, one a pixel: see gates.py.

#include "cpu/compiled.h"

#define EACH_PIXEL SHARED(pixels * c > 1 << 13) for (Int p = 0; p < pixels; p++)
#define EACH_CHANNEL PRAGMA(omp simd) for (Int q = 0; q < c; q++)

void gate(const Real* x, Real* out, Int pixels, Int c)
{
    EACH_PIXEL
    {
        const Real* a = x + 2 * p * c;
        Real* y = out + p * c;
        EACH_CHANNEL y[q] = hyperbolic_tangent(a[q]) * sigmoid(a[c + q]);
    }
}

void gate_gradient(const Real* g, const Real* x, Real* dx, Int pixels, Int c)
{
    EACH_PIXEL
    {
        const Real *a = x + 2 * p * c, *dy = g + p * c;
        Real* d = dx + 2 * p * c;
        EACH_CHANNEL
        {
            Real t = hyperbolic_tangent(a[q]), s = sigmoid(a[c + q]), share = dy[q] * s;
            d[q] = share * (1 - t * t);
            d[c + q] = share * t * (1 - s);
        }
    }
}

void lstm(const Real* gates, const Real* old, Real* state, Int pixels, Int c)
{
    EACH_PIXEL
    {
        const Real *z = gates + 4 * p * c, *before = old + 2 * p * c;
        Real* h = state + 2 * p * c;
        EACH_CHANNEL
        {
            Real cell = sigmoid(z[c + q]) * before[c + q] + sigmoid(z[q]) * hyperbolic_tangent(z[2 * c + q]);
            h[q] = sigmoid(z[3 * c + q]) * hyperbolic_tangent(cell);
            h[c + q] = cell;
        }
    }
}

void lstm_gradient(
    const Real* g, const Real* gates, const Real* old, const Real* state, Real* dgates, Real* dold, Int pixels, Int c)
{
    EACH_PIXEL
    {
        const Real *z = gates + 4 * p * c, *before = old + 2 * p * c, *cell = state + (2 * p + 1) * c;
        const Real* dh = g + 2 * p * c;
        Real *dz = dgates + 4 * p * c, *dbefore = dold + 2 * p * c;
        EACH_CHANNEL
        {
            Real i = sigmoid(z[q]), f = sigmoid(z[c + q]), new = hyperbolic_tangent(z[2 * c + q]);
            Real o = sigmoid(z[3 * c + q]), t = hyperbolic_tangent(cell[q]);
            Real dcell = dh[c + q] + dh[q] * o * (1 - t * t);
            dz[q] = dcell * new * i * (1 - i);
            dz[c + q] = dcell * before[c + q] * f * (1 - f);
            dz[2 * c + q] = dcell * i * (1 - new * new);
            dz[3 * c + q] = dh[q] * t * o * (1 - o);
            dbefore[q] = 0;
            dbefore[c + q] = dcell * f;
        }
    }
}
