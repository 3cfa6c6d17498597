// A matrix product by NumPy's BLAS, in pieces: see `piece` in products.py.

#include "cpu/compiled.h"

// cblas_sgemm or cblas_dgemm: order, whether a and b are transposed, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc
typedef void (*Gemm)(int, int, int, Int, Int, Int, Real, const Real*, Int, const Real*, Int, Real, Real*, Int);
enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111 };

typedef struct { Int height, width, depth; } Piece;

typedef struct { Int m, n, k, transposed_a, transposed_b, lda, ldb; } Product;  // (m, k) times (k, n)

// The piece of c at row i and column j: the product over the depth from `first` to `end`.  It is added to c if `more`.
INLINE void multiply_piece(
    Gemm gemm, Product is, Piece piece, const Real* a, const Real* b, Int i, Int j, Int first, Int end, int more,
    Real* c)
{
    Int height = least(piece.height, is.m - i), width = least(piece.width, is.n - j);
    for (Int l = first; l < end; l += piece.depth) {
        const Real* of_a = a + (is.transposed_a ? l * is.lda + i : i * is.lda + l);
        const Real* of_b = b + (is.transposed_b ? j * is.ldb + l : l * is.ldb + j);
        gemm(
            ROW_MAJOR, NO_TRANSPOSE + is.transposed_a, NO_TRANSPOSE + is.transposed_b, height, width,
            least(piece.depth, end - l), 1, of_a, is.lda, of_b, is.ldb, more || l > first, c + i * is.n + j, is.n);
    }
}

// The sum of the groups' results, in order; each has `size` elements.  `out` may be the same memory as `sums`.
static inline void add_groups(Int groups, Int size, const Real* sums, Real* out)
{
    SHARED(size > 1 << 14)
    for (Int q = 0; q < size; q++) {
        Real sum = 0;
        for (Int group = 0; group < groups; group++) sum += sums[group * size + q];
        out[q] = sum;
    }
}
