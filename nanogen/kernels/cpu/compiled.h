// Shared by all C sources of this folder.  They are compiled twice, with Real as float and as double.

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <string.h>

typedef long long Int;

extern int threads;  // of parallel loops, see compiled.c

#define PRAGMA(text) _Pragma(#text)
// Parallelises the loop that follows, if `when` is true and it is not inside another parallel loop.
#define SHARED(when) PRAGMA(omp parallel for schedule(static) num_threads(threads) if ((when) && !omp_in_parallel()))
#define INLINE static inline __attribute__((always_inline))  // so that constant arguments are constants inside

INLINE Int least(Int a, Int b) { return a < b ? a : b; }
INLINE Int most(Int a, Int b) { return a > b ? a : b; }

// eˣ − less, for `less` 0 or 1: eˣ = 2ⁿ eʳ with n = round(x / ln 2), so |r| ≤ ln 2 / 2.  ln 2 is split in two: n times
// its first part is exact.  Cody & Waite 1980, chapter 6.  Eight terms of eʳ have an error below 6e-9, a tenth of a
// float's last bit.  Doubles use libm.
INLINE Real exponential_minus(int less, Real x)
{
    if (sizeof(Real) > sizeof(float)) return less ? expm1(x) : exp(x);
    float y = x < -87 ? -87 : x > 88 ? 88 : x, n = rintf(y * 1.44269504f), r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float series = 1 / 24.f + r * (1 / 120.f + r * (1 / 720.f + r / 5040));
    series = r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * series)));
    union { unsigned bits; float number; } power = {(unsigned)((int)n + 127) << 23};
    return x < -87 ? -less : x > 88 ? INFINITY : series * power.number + (power.number - less);
}

INLINE Real exponential(Real x) { return exponential_minus(0, x); }
INLINE Real sigmoid(Real x) { return 1 / (1 + exponential(-x)); }

INLINE Real hyperbolic_tangent(Real x)
{
    Real less = exponential_minus(1, -2 * (Real)fabs(x));  // so that small x lose no digits
    return (Real)copysign(less / (2 + less), x);
}
