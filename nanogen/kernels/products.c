// Products of matrices, by the BLAS that NumPy has, in pieces that threads share: see `in_pieces` in products.py.

#include "compiled.h"

// cblas_sgemm or cblas_dgemm: order, whether a and b are transposed, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
typedef void (*Gemm)(
    int, int, int, Int, Int, Int, Real, const Real*, Int, const Real*, Int, Real, Real*, Int);
enum { ROW_MAJOR = 101, AS_IT_LIES = 111 };

// The matrices (m, k) and (k, n) of a stack lie `next_a` and `next_b` from each other; if transposed, as (k, m) and
// (n, k).  The depth of pieces is in groups, each of which adds up its own, in `sums` if there is more than one.
typedef struct {
    Int count, m, n, k, transposed_a, transposed_b, next_a, next_b, height, width, depth, groups;
} Plan;

void products(const Real* a, const Real* b, Real* out, Real* sums, Int gemm, const Plan* plan)
{
    const Plan is = *plan;
    Int count = is.count, m = is.m, n = is.n, k = is.k, depth = is.depth, groups = is.groups;
    Int height = is.height, width = is.width;
    Int rows = (m + height - 1) / height, columns = (n + width - 1) / width, size = count * m * n;
    Int deep = ((k + depth - 1) / depth + groups - 1) / groups * depth;
    Int lda = is.transposed_a ? m : k, ldb = is.transposed_b ? k : n;
    SHARED(size * k > 1 << 17)
    for (Int piece = 0; piece < count * rows * columns * groups; piece++) {
        Int j = piece % columns * width, i = piece / columns % rows * height, matrix = piece / columns / rows % count;
        Int group = piece / columns / rows / count, first = group * deep, end = least(k, first + deep);
        Real* to = (groups > 1 ? sums + group * size : out) + (matrix * m + i) * n + j;
        for (Int l = first; l < end; l += depth)
            ((Gemm)gemm)(
                ROW_MAJOR, AS_IT_LIES + is.transposed_a, AS_IT_LIES + is.transposed_b, least(height, m - i),
                least(width, n - j), least(depth, end - l), 1,
                a + matrix * is.next_a + (is.transposed_a ? l * m + i : i * k + l), lda,
                b + matrix * is.next_b + (is.transposed_b ? j * k + l : l * n + j), ldb, l > first, to, n);
    }
    if (groups > 1)
        SHARED(size > 1 << 14)
        for (Int q = 0; q < size; q++) {
            Real sum = 0;
            for (Int group = 0; group < groups; group++) sum += sums[group * size + q];
            out[q] = sum;
        }
}
