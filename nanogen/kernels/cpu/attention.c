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

// The softmax of scale · Q Kᵀ + mask.  `logs`: the logarithm of each row's sum of exponentials, if `known`.
static void softmax_of(
    Real* logs, const Real* query, const Real* key, const Real* mask, double scale, Int gemm, Attention is, Int m,
    int known, Real* x)
{
    Int keys = is.keys;
    PRODUCT(0, 1, is.queries, keys, is.depth, scale, GIVEN(query), GIVEN(key), x, keys);
    for (Int i = 0; mask && i < is.queries * keys; i++) x[i] += mask[m * is.queries * keys + i];
    for (Real* log_sum = logs + m * is.queries; log_sum < logs + (m + 1) * is.queries; log_sum++, x += keys) {
        Real top = largest_of(x, keys), sum = 0;
        if (known) {
            for (Int j = 0; j < keys; j++) x[j] = exponential(x[j] - *log_sum);
            continue;
        }
        PRAGMA(omp simd reduction(+ : sum))
        for (Int j = 0; j < keys; j++) sum += x[j] = exponential(x[j] - top);
        for (Int j = 0; j < keys; j++) x[j] *= 1 / sum;
        *log_sum = top + (Real)log(sum);
    }
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
        Real* p = malloc(size * sizeof(Real));
        softmax_of(logs, query, key, mask, scale, gemm, is, m, 0, p);
        PRODUCT(0, 0, is.queries, is.width, is.keys, 1, p, is.keys, GIVEN(value), MADE(out, is.queries, is.width));
        free(p);
    }
}

void attention_gradient(
    Real* logs, const Real* query, const Real* key, const Real* value, const Real* mask, double scale, Int gemm,
    const Attention* of, const Real* g, Real* dquery, Real* dkey, Real* dvalue)
{
    const Attention is = *of;
    Int size = is.queries * is.keys, keys = is.keys;
    EACH_HEAD
    {
        Real *p = malloc(2 * size * sizeof(Real)), *d = p + size;
        softmax_of(logs, query, key, mask, scale, gemm, is, m, 1, p);
        PRODUCT(0, 1, is.queries, keys, is.width, 1, GIVEN(g), GIVEN(value), d, keys);
        for (Int i = 0; i < size; i += keys) {
            Real sum = 0;
            PRAGMA(omp simd reduction(+ : sum))
            for (Int j = i; j < i + keys; j++) sum += d[j] * p[j];
            for (Int j = i; j < i + keys; j++) d[j] = p[j] * (d[j] - sum);
        }
        PRODUCT(1, 0, keys, is.width, is.queries, 1, p, keys, GIVEN(g), MADE(dvalue, keys, is.width));
        PRODUCT(0, 0, is.queries, is.depth, keys, scale, d, keys, GIVEN(key), MADE(dquery, is.queries, is.depth));
        PRODUCT(1, 0, keys, is.depth, is.queries, scale, d, keys, GIVEN(query), MADE(dkey, keys, is.depth));
        free(p);
    }
}
