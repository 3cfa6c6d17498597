// Normalisation of images (N, P, C), each in few passes while it is in the cache: see normalization.py.  A column is a
// channel at all pixels of an image.  Sums over pixels are in double.

#include "cpu/compiled.h"

#define SCRATCH 5  // arrays of C doubles for an image's columns

static void sums_of(const Real* x, Int p, Int c, double* restrict sums)
{
    memset(sums, 0, c * sizeof(double));
    for (Int i = 0; i < p; i++, x += c)
        for (Int q = 0; q < c; q++) sums[q] += x[q];
}

// Σ (x − near) and Σ (x − near)² of each column, where `near` is the mean up to rounding.
static void centred_sums_of(
    const Real* x, Int p, Int c, const Real* near, double* restrict sums, double* restrict squares)
{
    memset(sums, 0, c * sizeof(double));
    memset(squares, 0, c * sizeof(double));
    for (Int i = 0; i < p; i++, x += c)
        for (Int q = 0; q < c; q++) {
            Real centred = x[q] - near[q];
            sums[q] += centred;
            squares[q] += centred * centred;
        }
}

static void scale_of(
    const Real* x, Int p, Int c, const Real* mean, const Real* factor, const Real* bias, Int gated, Real* restrict y)
{
    for (Int i = 0; i < p; i++, x += c, y += c)
        if (gated)
            for (Int q = 0; q < c; q++) {
                Real own = (x[q] - mean[q]) * factor[q] + bias[q];
                y[q] = own * sigmoid(own);
            }
        else
            for (Int q = 0; q < c; q++) y[q] = (x[q] - mean[q]) * factor[q] + bias[q];
}

// Σ s and Σ s·(x − mean) of each column, where s is the gradient of y.  If gated, s is not g, and is written to dy.
static void gradient_sums_of(
    const Real* g, const Real* x, Int p, Int c, const Real* mean, const Real* factor, const Real* bias, Int gated,
    Real* restrict dy, double* restrict sums, double* restrict products)
{
    memset(sums, 0, c * sizeof(double));
    memset(products, 0, c * sizeof(double));
    for (Int i = 0; i < p; i++, g += c, x += c, dy += c)
        if (gated)
            for (Int q = 0; q < c; q++) {
                Real centred = x[q] - mean[q], y = centred * factor[q] + bias[q], s = sigmoid(y);
                Real d = g[q] * (s + y * s * (1 - s));
                dy[q] = d;
                sums[q] += d;
                products[q] += d * centred;
            }
        else
            for (Int q = 0; q < c; q++) {
                sums[q] += g[q];
                products[q] += g[q] * (x[q] - mean[q]);
            }
}

// dx = g·factor + (x − mean)·slope + offset.  g and dx may be the same memory.
static void combine_of(
    const Real* g, const Real* x, Int p, Int c, const Real* mean, const Real* factor, const Real* slope,
    const Real* offset, Real* dx)
{
    for (Int i = 0; i < p; i++, g += c, x += c, dx += c)
#pragma GCC ivdep
        for (Int q = 0; q < c; q++) dx[q] = g[q] * factor[q] + (x[q] - mean[q]) * slope[q] + offset[q];
}

#define IMAGES SHARED(n * p * c > 1 << 13) for (Int m = 0; m < n; m++)

void centred_sums(const Real* x, Int n, Int p, Int c, const Real* near, double* scratch, Real* sums)
{
    IMAGES
    {
        double* own = scratch + m * SCRATCH * c;
        centred_sums_of(x + m * p * c, p, c, near + m * c, own, own + c);
        for (Int q = 0; q < 2 * c; q++) sums[2 * m * c + q] = own[q];
    }
}

void scale(
    const Real* x, Int n, Int p, Int c, const Real* mean, const Real* factor, const Real* bias, Int gated, Real* y)
{
    IMAGES scale_of(x + m * p * c, p, c, mean + m * c, factor + m * c, bias + m * c, gated, y + m * p * c);
}

void gradient_sums(
    const Real* g, const Real* x, Int n, Int p, Int c, const Real* mean, const Real* factor, const Real* bias,
    Int gated, Real* dy, double* scratch, Real* sums)
{
    IMAGES
    {
        Int at = m * p * c, column = m * c;
        double* own = scratch + SCRATCH * column;
        gradient_sums_of(
            g + at, x + at, p, c, mean + column, factor + column, bias + column, gated, dy + at, own, own + c);
        for (Int q = 0; q < 2 * c; q++) sums[2 * column + q] = own[q];
    }
}

void combine(
    const Real* g, const Real* x, Int n, Int p, Int c, const Real* mean, const Real* factor, const Real* slope,
    const Real* offset, Real* dx)
{
    IMAGES
    {
        Int at = m * p * c, column = m * c;
        combine_of(
            g + at, x + at, p, c, mean + column, factor + column, slope + column, offset + column, dx + at);
    }
}

// Groups within an image (group and layer norm): all steps for one image.

// The mean of each group of `each` columns, written to all of its columns.
static void group_means(const double* sums, Int count, Int c, Int each, Real* means)
{
    for (Int first = 0; first < c; first += each) {
        double sum = 0;
        for (Int q = first; q < first + each; q++) sum += sums[q];
        for (Int q = first; q < first + each; q++) means[q] = sum / count;
    }
}

static void normalize_of(
    const Real* x, Int p, Int c, Int each, const Real* weight, const Real* bias, double eps, Int gated, double* sums,
    double* squares, Real* off, Real* variance, Real* factor, Real* mean, Real* rstd, Real* out)
{
    sums_of(x, p, c, sums);
    group_means(sums, p * each, c, each, mean);
    centred_sums_of(x, p, c, mean, sums, squares);
    group_means(sums, p * each, c, each, off);
    group_means(squares, p * each, c, each, variance);
    for (Int q = 0; q < c; q++) {
        Real squared = variance[q] - off[q] * off[q];
        mean[q] += off[q];
        rstd[q] = 1 / sqrt((squared < 0 ? 0 : squared) + eps);
        factor[q] = rstd[q] * weight[q];
    }
    scale_of(x, p, c, mean, factor, bias, gated, out);
}

void normalize(
    const Real* x, Int n, Int p, Int c, Int each, const Real* weight, const Real* bias, Int batch_stride, double eps,
    Int gated, double* scratch, Real* mean, Real* rstd, Real* out)
{
    IMAGES
    {
        double* own = scratch + m * SCRATCH * c;
        normalize_of(
            x + m * p * c, p, c, each, weight + m * batch_stride, bias + m * batch_stride, eps, gated, own, own + c,
            (Real*)(own + 2 * c), (Real*)(own + 3 * c), (Real*)(own + 4 * c), mean + m * c, rstd + m * c,
            out + m * p * c);
    }
}

static void normalize_gradients_of(
    const Real* g, const Real* x, Int p, Int c, Int each, const Real* weight, const Real* bias, Int gated,
    const Real* mean, const Real* rstd, double* sums, double* products, Real* factor, Real* offset, Real* slope,
    Real* dx, Real* dweight, Real* dbias)
{
    for (Int q = 0; q < c; q++) factor[q] = rstd[q] * weight[q];
    gradient_sums_of(g, x, p, c, mean, factor, bias, gated, dx, sums, products);
    for (Int q = 0; q < c; q++) {
        dbias[q] = sums[q];
        dweight[q] = products[q] * rstd[q];
        sums[q] *= weight[q];
        products[q] *= factor[q];
    }
    group_means(sums, p * each, c, each, offset);
    group_means(products, p * each, c, each, slope);
    for (Int q = 0; q < c; q++) {
        offset[q] *= -rstd[q];
        slope[q] *= -rstd[q] * rstd[q];
    }
    combine_of(gated ? dx : g, x, p, c, mean, factor, slope, offset, dx);
}

void normalize_gradients(
    const Real* g, const Real* x, Int n, Int p, Int c, Int each, const Real* weight, const Real* bias, Int batch_stride,
    Int gated, const Real* mean, const Real* rstd, double* scratch, Real* dx, Real* dweight, Real* dbias)
{
    IMAGES
    {
        Int at = m * p * c, column = m * c;
        double* own = scratch + SCRATCH * column;
        normalize_gradients_of(
            g + at, x + at, p, c, each, weight + m * batch_stride, bias + m * batch_stride, gated, mean + column,
            rstd + column, own, own + c, (Real*)(own + 2 * c), (Real*)(own + 3 * c), (Real*)(own + 4 * c), dx + at,
            dweight + column, dbias + column);
    }
}
