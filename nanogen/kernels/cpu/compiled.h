// What all C sources of this package share.  Each is compiled for float and for double.

#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <string.h>

typedef long long Int;

extern int threads;  // how many share a loop, see compiled.c

#define PRAGMA(text) _Pragma(#text)
// The loop that follows is shared by threads, if it is worth it, and if it is not within one that is.
#define SHARED(when) PRAGMA(omp parallel for schedule(static) num_threads(threads) if ((when) && !omp_in_parallel()))
#define INLINE static inline __attribute__((always_inline))  // so that a constant among the arguments is one inside

INLINE Int least(Int a, Int b) { return a < b ? a : b; }
INLINE Int most(Int a, Int b) { return a > b ? a : b; }

// eˣ = 2ⁿ eʳ with n = round(x / ln 2), so that |r| ≤ ln 2 / 2; ln 2 in two parts, the first of which times n is exact.
// Cody & Waite 1980, chapter 6.  Eight terms of eʳ are within 6e-9, a tenth of a float's last bit; a double's are libm's.
INLINE Real exponential(Real x)
{
    if (sizeof(Real) > sizeof(float)) return exp(x);
    float y = x < -87 ? -87 : x > 88 ? 88 : x, n = rintf(y * 1.44269504f), r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float series = 1 / 24.f + r * (1 / 120.f + r * (1 / 720.f + r / 5040));
    series = 1 + r * (1 + r * (1 / 2.f + r * (1 / 6.f + r * series)));
    union { unsigned bits; float number; } power = {(unsigned)((int)n + 127) << 23};
    return x < -87 ? 0 : x > 88 ? INFINITY : series * power.number;
}

INLINE Real sigmoid(Real x) { return 1 / (1 + exponential(-x)); }
