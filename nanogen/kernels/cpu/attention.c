// Attention by the products of NumPy's BLAS, a head of an image at a time, so that its scores stay in the cache: see
// attention.py.

#include <stdlib.h>

#include "cpu/products.h"

typedef struct { Int image, head, row; } Strides;
typedef struct { Int images, heads, queries, keys, depth, width; Strides query, key, value, g; } Attention;

// In what is made, the heads of a row are side by side.
#define GIVEN(x) x + m / is.heads * is.x.image + m % is.heads * is.x.head, is.x.row
#define MADE(x, rows, columns) x + (m / is.heads * rows * is.heads + m % is.heads) * columns, is.heads * columns
#define PRODUCT(ta, tb, rows, columns, deep, scale, ...) times(gemm, ta, tb, rows, columns, deep, scale, __VA_ARGS__)

INLINE void times(
    Int gemm, int ta, int tb, Int rows, Int columns, Int deep, double scale, const Real* a, Int lda, const Real* b,
    Int ldb, Real* c, Int ldc)
{
    ((Gemm)gemm)(
        ROW_MAJOR, NO_TRANSPOSE + ta, NO_TRANSPOSE + tb, rows, columns, deep, scale, a, lda, b, ldb, 0, c, ldc);
}

// Scores are kept transposed, a row for each key.  Their sums over the keys are then sums of rows, which vector units
// add without adding up their own lanes: forward, a third faster with 49 keys, twice as fast with 16 (Intel).
#define EACH_SCORE(work) \
    for (Int j = 0; j < is.keys; j++) { \
        Real* row = x + j * is.queries; \
        PRAGMA(omp simd) \
        for (Int i = 0; i < is.queries; i++) { work; } \
    }

// softmax(scale · K Qᵀ + maskᵀ) over the keys.  `logs`: the logarithm of each query's sum of exponentials, if `known`.
static void softmax_of(
    Real* logs, const Real* query, const Real* key, const Real* mask, double scale, Int gemm, Attention is, Int m,
    int known, Real* sums, Real* x)
{
    Int size = is.queries * is.keys;
    Real* log_sum = logs + m * is.queries;
    PRODUCT(0, 1, is.keys, is.queries, is.depth, scale, GIVEN(key), GIVEN(query), x, is.queries);
    for (Int i = 0; mask && i < size; i++) x[i] += mask[m * size + i];
    if (known) { EACH_SCORE(row[i] = exponential(row[i] - log_sum[i])) return; }
    for (Int i = 0; i < is.queries; i++) log_sum[i] = x[i], sums[i] = 0;
    EACH_SCORE(log_sum[i] = row[i] > log_sum[i] ? row[i] : log_sum[i])
    EACH_SCORE(sums[i] += row[i] = exponential(row[i] - log_sum[i]))
    for (Int i = 0; i < is.queries; i++) log_sum[i] += (Real)log(sums[i]), sums[i] = 1 / sums[i];
    EACH_SCORE(row[i] *= sums[i])
}

#define EACH_HEAD SHARED(is.images * is.heads * size * is.depth > 1 << 15) \
    for (Int m = 0; m < is.images * is.heads; m++)

void attention(
    Real* logs, const Real* query, const Real* key, const Real* value, const Real* mask, double scale, Int gemm,
    const Attention* of, Real* out)
{
    const Attention is = *of;
    Int size = is.queries * is.keys;
    EACH_HEAD
    {
        Real *sums = malloc((is.queries + size) * sizeof(Real)), *p = sums + is.queries;
        softmax_of(logs, query, key, mask, scale, gemm, is, m, 0, sums, p);
        PRODUCT(1, 0, is.queries, is.width, is.keys, 1, p, is.queries, GIVEN(value), MADE(out, is.queries, is.width));
        free(sums);
    }
}

void attention_gradient(
    Real* logs, const Real* query, const Real* key, const Real* value, const Real* mask, double scale, Int gemm,
    const Attention* of, const Real* g, Real* dquery, Real* dkey, Real* dvalue)
{
    const Attention is = *of;
    Int queries = is.queries, keys = is.keys, size = queries * keys;
    EACH_HEAD
    {
        Real *sums = malloc((queries + 2 * size) * sizeof(Real)), *x = sums + queries, *d = x + size;
        softmax_of(logs, query, key, mask, scale, gemm, is, m, 1, sums, x);
        PRODUCT(0, 1, keys, queries, is.width, 1, GIVEN(value), GIVEN(g), d, queries);
        memset(sums, 0, queries * sizeof(Real));
        EACH_SCORE(sums[i] += row[i] * d[j * queries + i])
        EACH_SCORE(d[j * queries + i] = row[i] * (d[j * queries + i] - sums[i]))
        PRODUCT(0, 0, keys, is.width, queries, 1, x, queries, GIVEN(g), MADE(dvalue, keys, is.width));
        PRODUCT(1, 0, queries, is.depth, keys, scale, d, queries, GIVEN(key), MADE(dquery, queries, is.depth));
        PRODUCT(0, 0, keys, is.depth, queries, scale, d, queries, GIVEN(query), MADE(dkey, keys, is.depth));
        free(sums);
    }
}
