// Attention by the products of NumPy's BLAS, a head of an image at a time, so that its scores stay in the cache: see
// attention.py.

#include <stdlib.h>

#include "cpu/products.h"

typedef struct { Int image, head, row; } Strides;
typedef struct { Int images, heads, queries, keys, depth, width; Strides query, key, value, mask, g; } Attention;

// What is made has the heads of a row side by side.
#define GIVEN(x) x + m / is.heads * is.x.image + m % is.heads * is.x.head, is.x.row
#define MADE(x, rows, columns) x + (m / is.heads * rows * is.heads + m % is.heads) * columns, is.heads * columns
#define PRODUCT(ta, tb, rows, columns, deep, scale, ...) times((Gemm)gemm, ta, tb, rows, columns, deep, scale, __VA_ARGS__)

INLINE void times(
    Gemm gemm, int ta, int tb, Int rows, Int columns, Int deep, double scale, const Real* a, Int lda, const Real* b,
    Int ldb, Real* out, Int ldc)
{
    gemm(ROW_MAJOR, NO_TRANSPOSE + ta, NO_TRANSPOSE + tb, rows, columns, deep, scale, a, lda, b, ldb, 0, out, ldc);
}

// scale · Q Kᵀ + mask
static void scores_of(
    const Real* query, const Real* key, const Real* mask, double scale, Int gemm, Attention is, Int m, Real* scores)
{
    PRODUCT(0, 1, is.queries, is.keys, is.depth, scale, GIVEN(query), GIVEN(key), scores, is.keys);
    if (mask)
        for (Int i = 0; i < is.queries * is.keys; i++)
            scores[i] += (mask + m / is.heads * is.mask.image + m % is.heads * is.mask.head)
                [i / is.keys * is.mask.row + i % is.keys];
}

// `logs`: of each row's sum of exponentials
void attention(
    Real* logs, const Real* query, const Real* key, const Real* value, const Real* mask, double scale, Int gemm,
    const Attention* of, Real* out)
{
    const Attention is = *of;
    Int n = is.images * is.heads;
    SHARED(n * is.queries * is.keys * is.depth > 1 << 15)
    for (Int m = 0; m < n; m++) {
        Real *scores = malloc(is.queries * is.keys * sizeof(Real)), *x = scores;
        scores_of(query, key, mask, scale, gemm, is, m, scores);
        for (Int i = 0; i < is.queries; i++, x += is.keys) {
            Real top = x[0], sum = 0;
            PRAGMA(omp simd reduction(max : top))
            for (Int j = 1; j < is.keys; j++) top = x[j] > top ? x[j] : top;
            PRAGMA(omp simd reduction(+ : sum))
            for (Int j = 0; j < is.keys; j++) sum += x[j] = exponential(x[j] - top);
            Real factor = 1 / sum;
            for (Int j = 0; j < is.keys; j++) x[j] *= factor;
            logs[m * is.queries + i] = top + (Real)log(sum);
        }
        PRODUCT(0, 0, is.queries, is.width, is.keys, 1, scores, is.keys, GIVEN(value), MADE(out, is.queries, is.width));
        free(scores);
    }
}

// P = e^(scores − logs),  dV = Pᵀ G,  dS = P · (G Vᵀ − Σ P · G Vᵀ),  dQ = scale · dS K,  dK = scale · dSᵀ Q
void attention_gradient(
    const Real* logs, const Real* query, const Real* key, const Real* value, const Real* mask, double scale, Int gemm,
    const Attention* of, const Real* g, Real* dquery, Real* dkey, Real* dvalue)
{
    const Attention is = *of;
    Int n = is.images * is.heads, size = is.queries * is.keys;
    SHARED(n * size * is.depth > 1 << 15)
    for (Int m = 0; m < n; m++) {
        Real *p = malloc(2 * size * sizeof(Real)), *d = p + size;
        scores_of(query, key, mask, scale, gemm, is, m, p);
        PRODUCT(0, 1, is.queries, is.keys, is.width, 1, GIVEN(g), GIVEN(value), d, is.keys);
        for (Int i = 0; i < is.queries; i++) {
            Real *x = p + i * is.keys, *s = d + i * is.keys, log = logs[m * is.queries + i], sum = 0;
            PRAGMA(omp simd reduction(+ : sum))
            for (Int j = 0; j < is.keys; j++) sum += s[j] * (x[j] = exponential(x[j] - log));
            for (Int j = 0; j < is.keys; j++) s[j] = x[j] * (s[j] - sum);
        }
        PRODUCT(1, 0, is.keys, is.width, is.queries, 1, p, is.keys, GIVEN(g), MADE(dvalue, is.keys, is.width));
        PRODUCT(0, 0, is.queries, is.depth, is.keys, scale, d, is.keys, GIVEN(key), MADE(dquery, is.queries, is.depth));
        PRODUCT(1, 0, is.keys, is.depth, is.queries, scale, d, is.keys, GIVEN(query), MADE(dkey, is.keys, is.depth));
        free(p);
    }
}
