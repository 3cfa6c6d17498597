// A linear layer and its gradients, a group of rows at a time: see linear.py.

#include "cpu/products.h"

typedef struct { Int rows, k, m, transposed, groups; Piece forward, weight; } Rows;

static void group_of_rows(
    const Real* a, const Real* b, const Real* w, const Real* bias, Real* out, Real* sums, Int gemm, Rows is, Int group)
{
    Int begin = is.rows * group / is.groups, n = is.rows * (group + 1) / is.groups - begin;
    a += begin * is.k;
    if (w) multiply(gemm, 1, 0, is.transposed, n, is.m, is.k, is.forward, a, w, 0, out + begin * is.m);
    if (bias) add_bias(bias, n, is.m, out + begin * is.m);
    if (!b) return;
    sums += group * is.k * (is.m + 1);
    multiply(gemm, 1, 1, 0, is.k, is.m, n, is.weight, a, b + begin * is.m, 0, sums);
    memset(sums += is.k * is.m, 0, is.k * sizeof(Real));
    for (Int i = 0; i < n; i++)
        for (Int q = 0; q < is.k; q++) sums[q] += a[i * is.k + q];
}

// Of rows a (k) and b (m): out = a w + bias; the first of the groups' `sums` is Σ aᵀ b, then Σ a.
void linear(
    const Real* a, const Real* b, const Real* w, const Real* bias, Real* out, Real* sums, Int gemm, const Rows* of)
{
    const Rows is = *of;
    EACH_GROUP(is, group_of_rows(a, b, w, bias, out, sums, gemm, is, group));
    if (b && is.groups > 1) add_groups(is.groups, is.k * (is.m + 1), sums, sums);
}
