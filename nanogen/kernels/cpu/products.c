// Products of matrices, by the BLAS that NumPy has, in pieces that threads share: see `in_pieces` in products.py.

#include "cpu/products.h"

// The matrices (m, k) and (k, n) of a stack lie `next_a` and `next_b` from each other; if transposed, as (k, m) and
// (n, k).  The depth of pieces is in groups, each of which adds up its own, in `sums` if there is more than one.
typedef struct {
    Int count;
    Product product;
    Int next_a, next_b;
    Piece piece;
    Int groups;
} Plan;

void products(const Real* a, const Real* b, Real* out, Real* sums, Int gemm, const Plan* plan)
{
    const Plan is = *plan;
    Int m = is.product.m, n = is.product.n, k = is.product.k, groups = is.groups, size = is.count * m * n;
    Int rows = (m + is.piece.height - 1) / is.piece.height, columns = (n + is.piece.width - 1) / is.piece.width;
    Int deep = ((k + is.piece.depth - 1) / is.piece.depth + groups - 1) / groups * is.piece.depth;
    SHARED(size * k > 1 << 17)
    for (Int q = 0; q < groups * is.count * rows * columns; q++) {
        Int j = q % columns * is.piece.width, i = q / columns % rows * is.piece.height;
        Int matrix = q / columns / rows % is.count, group = q / columns / rows / is.count;
        multiply_piece(
            (Gemm)gemm, is.product, is.piece, a + matrix * is.next_a, b + matrix * is.next_b, i, j, group * deep,
            least(k, (group + 1) * deep), 0, (groups > 1 ? sums + group * size : out) + matrix * m * n);
    }
    if (groups > 1) add_groups(groups, size, sums, out);
}
