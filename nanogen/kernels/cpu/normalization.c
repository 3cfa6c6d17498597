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
        Int at = m * p * c, k = m * c;
        double* own = scratch + SCRATCH * k;
        gradient_sums_of(g + at, x + at, p, c, mean + k, factor + k, bias + k, gated, dy + at, own, own + c);
        for (Int q = 0; q < 2 * c; q++) sums[2 * k + q] = own[q];
    }
}

void combine(
    const Real* g, const Real* x, Int n, Int p, Int c, const Real* mean, const Real* factor, const Real* slope,
    const Real* offset, Real* dx)
{
    Int each = p * c;
    IMAGES combine_of(
        g + m * each, x + m * each, p, c, mean + m * c, factor + m * c, slope + m * c, offset + m * c, dx + m * each);
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

void normalize(
    const Real* x, Int n, Int p, Int c, Int each, const Real* weight, const Real* bias, Int batch_stride, double eps,
    Int gated, double* scratch, Real* means, Real* rstds, Real* out)
{
    IMAGES
    {
        Int at = m * p * c, own = m * batch_stride;
        double *sums = scratch + SCRATCH * m * c, *squares = sums + c;
        Real *mean = means + m * c, *rstd = rstds + m * c, *off = (Real*)(squares + c);
        Real *variance = (Real*)(squares + 2 * c), *factor = (Real*)(squares + 3 * c);
        sums_of(x + at, p, c, sums);
        group_means(sums, p * each, c, each, mean);
        centred_sums_of(x + at, p, c, mean, sums, squares);
        group_means(sums, p * each, c, each, off);
        group_means(squares, p * each, c, each, variance);
        for (Int q = 0; q < c; q++) {
            Real squared = variance[q] - off[q] * off[q];
            mean[q] += off[q];
            rstd[q] = 1 / sqrt((squared < 0 ? 0 : squared) + eps);
            factor[q] = rstd[q] * weight[own + q];
        }
        scale_of(x + at, p, c, mean, factor, bias + own, gated, out + at);
    }
}

void normalize_gradients(
    const Real* g, const Real* x, Int n, Int p, Int c, Int each, const Real* weight, const Real* bias, Int batch_stride,
    Int gated, const Real* means, const Real* rstds, double* scratch, Real* dx, Real* dweight, Real* dbias)
{
    IMAGES
    {
        Int at = m * p * c, column = m * c, own = m * batch_stride;
        const Real *mean = means + column, *rstd = rstds + column;
        double *sums = scratch + SCRATCH * column, *products = sums + c;
        Real *factor = (Real*)(products + c), *offset = (Real*)(products + 2 * c), *slope = (Real*)(products + 3 * c);
        for (Int q = 0; q < c; q++) factor[q] = rstd[q] * weight[own + q];
        gradient_sums_of(g + at, x + at, p, c, mean, factor, bias + own, gated, dx + at, sums, products);
        for (Int q = 0; q < c; q++) {
            dbias[column + q] = sums[q];
            dweight[column + q] = products[q] * rstd[q];
            sums[q] *= weight[own + q];
            products[q] *= factor[q];
        }
        group_means(sums, p * each, c, each, offset);
        group_means(products, p * each, c, each, slope);
        for (Int q = 0; q < c; q++) {
            offset[q] *= -rstd[q];
            slope[q] *= -rstd[q] * rstd[q];
        }
        combine_of((gated ? dx : g) + at, x + at, p, c, mean, factor, slope, offset, dx + at);
    }
}

// Layer norm: rows of k numbers one by one.  `each` of them share weights and biases.

#define SUM(expression) ({ Real sum = 0; PRAGMA(omp simd reduction(+ : sum)) EACH(sum += expression); sum; })
#define EACH(statement) for (Int q = 0; q < k; q++) statement

void normalize_rows(
    const Real* x, Int n, Int each, Int k, const Real* weights, const Real* biases, double eps, Real* moments, Real* y)
{
    SHARED(n * each * k > 1 << 13)
    for (Int r = 0; r < n * each; r++) {
        const Real *from = x + r * k, *weight = weights + r / each * k, *bias = biases + r / each * k;
        Real mean = SUM(from[q]) / k, variance = SUM((from[q] - mean) * (from[q] - mean)) / k;
        Real rstd = 1 / sqrt(variance + eps), *to = y + r * k;
        EACH(to[q] = (from[q] - mean) * rstd * weight[q] + bias[q]);
        moments[2 * r] = mean, moments[2 * r + 1] = rstd;
    }
}

void normalize_rows_gradients(
    const Real* restrict g, const Real* restrict x, Int n, Int each, Int k, const Real* restrict weights,
    const Real* moments, Real* restrict dx, Real* restrict dweights, Real* restrict dbiases)
{
    SHARED(n * each * k > 1 << 13)
    for (Int m = 0; m < n; m++) {
        Int w = m * k;
        EACH(dweights[w + q] = dbiases[w + q] = 0);
        for (Int r = m * each; r < (m + 1) * each; r++) {
            Int i = r * k;
            Real mean = moments[2 * r], rstd = moments[2 * r + 1], offset = SUM(g[i + q] * weights[w + q]) / k;
            Real slope = SUM(g[i + q] * weights[w + q] * (x[i + q] - mean)) * rstd * rstd / k;
            EACH(dx[i + q] = rstd * (g[i + q] * weights[w + q] - offset - (x[i + q] - mean) * slope));
            EACH(dweights[w + q] += g[i + q] * (x[i + q] - mean) * rstd);
            EACH(dbiases[w + q] += g[i + q]);
        }
    }
}
