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

// `count` products c = a b: a is (m, k), or (k, m) if transposed; b likewise.  They are added to c if `more`.
static inline void multiply(
    Int gemm, Int count, int transposed_a, int transposed_b, Int m, Int n, Int k, Piece piece, const Real* a,
    const Real* b, int more, Real* c)
{
    Product is = {m, n, k, transposed_a, transposed_b, transposed_a ? m : k, transposed_b ? k : n};
    Int rows = (m + piece.height - 1) / piece.height, columns = (n + piece.width - 1) / piece.width;
    SHARED(count * m * n * k > 1 << 17)
    for (Int p = 0; p < count * rows * columns; p++) {
        Int q = p / columns / rows, i = p / columns % rows * piece.height, j = p % columns * piece.width;
        multiply_piece((Gemm)gemm, is, piece, a + q * m * k, b + q * k * n, i, j, 0, k, more, c + q * m * n);
    }
}

static inline void add_bias(const Real* bias, Int pixels, Int c, Real* y)
{
    SHARED(pixels * c > 1 << 14)
    for (Int i = 0; i < pixels; i++)
        for (Int q = 0; q < c; q++) y[i * c + q] += bias[q];
}

// `work` for each group.  Several groups run in parallel; of a single one the inner loops do.
#define EACH_GROUP(is, work) \
    if (is.groups == 1) { Int group = 0; work; } else \
    SHARED(1) for (Int group = 0; group < is.groups; group++) work

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
