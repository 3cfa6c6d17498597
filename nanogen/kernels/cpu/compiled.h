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

// eˣ = 2ⁿ eʳ with n = round(x / ln 2), so |r| ≤ ln 2 / 2.  ln 2 is split in two: n times its first part is exact.
// Cody & Waite 1980, chapter 6.  Eight terms of eʳ have an error below 6e-9, a tenth of a float's last bit.  Doubles
// use libm's exp.
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
