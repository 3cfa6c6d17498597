// The cross-entropy of softmax with labels, over rows of k logits: see ../softmax.py.

#include "cpu/compiled.h"

INLINE Real largest_of(const Real* x, Int k)
{
    Real top = k ? x[0] : 0;
    PRAGMA(omp simd reduction(max : top))
    for (Int q = 1; q < k; q++) top = x[q] > top ? x[q] : top;
    return top;
}

#define ROWS SHARED(rows * k > 1 << 13) for (Int r = 0; r < rows; r++)

INLINE int known(Int label, Int k) { return 0 <= label && label < k; }  // other labels would read outside of the row

void cross_entropy(const Real* logits, const Int* labels, Int rows, Int k, Real* largest, Real* total, Real* loss)
{
    ROWS
    {
        const Real* x = logits + r * k;
        Real top = largest_of(x, k), sum = 0;
        PRAGMA(omp simd reduction(+ : sum))
        for (Int q = 0; q < k; q++) sum += exponential(x[q] - top);
        largest[r] = top;
        total[r] = sum;
        loss[r] = known(labels[r], k) ? log(sum) - (x[labels[r]] - top) : NAN;
    }
}

void cross_entropy_gradient(
    const Real* g, const Real* logits, const Int* labels, const Real* largest, const Real* total, Int rows, Int k,
    Real* result)
{
    ROWS
    {
        const Real* x = logits + r * k;
        Real *d = result + r * k, top = largest[r], share = g[r] / total[r];
        for (Int q = 0; q < k; q++) d[q] = exponential(x[q] - top) * share;
        if (known(labels[r], k)) d[labels[r]] -= g[r];
    }
}
