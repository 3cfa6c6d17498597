// Batched matrix products by NumPy's BLAS, in pieces that are distributed over threads: see products.py.

#include "cpu/products.h"

// `count` products of (m, k) and (k, n).  Transposed factors are stored as (k, m) and (n, k).  The depth is split into
// groups.  If there are several, each writes its own product to `sums`, and these are added up at the end.
typedef struct {
    Int count;
    Product product;
    Int stride_a, stride_b;  // batch strides
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
            (Gemm)gemm, is.product, is.piece, a + matrix * is.stride_a, b + matrix * is.stride_b, i, j, group * deep,
            least(k, (group + 1) * deep), 0, (groups > 1 ? sums + group * size : out) + matrix * m * n);
    }
    if (groups > 1) add_groups(groups, size, sums, out);
}
