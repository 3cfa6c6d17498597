// Softmax cross-entropy, a row of logits at a time: see the functions of the same names in cross_entropy.py.

#include "compiled.h"

#define ROWS SHARED(rows * k > 1 << 13) for (Int r = 0; r < rows; r++)

INLINE int known(Int label, Int k) { return 0 <= label && label < k; }  // else its memory is somebody else's

void cross_entropy(const Real* logits, Int rows, Int k, const Int* labels, Real* largest, Real* total, Real* loss)
{
    ROWS
    {
        const Real* x = logits + r * k;
        Real top = k ? x[0] : 0, sum = 0;
        PRAGMA(omp simd reduction(max : top))
        for (Int q = 1; q < k; q++) top = x[q] > top ? x[q] : top;
        PRAGMA(omp simd reduction(+ : sum))
        for (Int q = 0; q < k; q++) sum += exponential(x[q] - top);
        largest[r] = top;
        total[r] = sum;
        loss[r] = known(labels[r], k) ? log(sum) - (x[labels[r]] - top) : NAN;
    }
}

void cross_entropy_slope(
    const Real* g, const Real* logits, Int rows, Int k, const Int* labels, const Real* largest, const Real* total,
    Real* slope)
{
    ROWS
    {
        const Real* x = logits + r * k;
        Real *d = slope + r * k, top = largest[r], share = g[r] / total[r];
        for (Int q = 0; q < k; q++) d[q] = exponential(x[q] - top) * share;
        if (known(labels[r], k)) d[labels[r]] -= g[r];
    }
}
