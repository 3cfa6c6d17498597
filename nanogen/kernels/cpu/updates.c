// Adam's update of all parameters in one call: see updates.py.

#include "cpu/compiled.h"

// `arrays` has the addresses of each parameter's gradient, then of each one's weights, first and second moments.  The
// elements of all `count` parameters are split evenly over the threads.  AT gives element i of parameter p.
#define AT(which) arrays[which * count + p][i]

void adam(
    const Real* like, Real* const* arrays, const Int* sizes, Int count, Int total, double beta1, double beta2,
    double eps, double correction, double rate)
{
    Real b1 = beta1, r1 = 1 - beta1, b2 = beta2, r2 = 1 - beta2, e = eps, c = correction, r = rate;
    SHARED(total > 1 << 14)
    for (Int part = 0; part < threads; part++) {
        Int start = 0, first = total * part / threads, end = total * (part + 1) / threads;
        for (Int p = 0; p < count; start += sizes[p++])
            for (Int i = most(first - start, 0), last = least(end - start, sizes[p]); i < last; i++) {
                Real g = AT(0), m = AT(2) * b1 + g * r1, v = AT(3) * b2 + g * g * r2;
                AT(2) = m, AT(3) = v;
                AT(1) -= m / ((Real)sqrt(v) * c + e) * r;
            }
    }
}
