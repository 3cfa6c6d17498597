// Normalisation of rows (N, P, C), for each image in as few passes as it takes, while it is in the cache: see the
// functions of the same names in normalization.py.  Sums over pixels are made in double.

#include "compiled.h"

// scratch: five arrays of C doubles, for the columns of one image.

static void sums_of(const Real* x, Int p, Int c, double* restrict sums)
{
    memset(sums, 0, c * sizeof(double));
    for (Int i = 0; i < p; i++, x += c)
        for (Int q = 0; q < c; q++) sums[q] += x[q];
}

static void square_sums_of(const Real* x, Int p, Int c, const Real* mean, double* restrict sums)
{
    memset(sums, 0, c * sizeof(double));
    for (Int i = 0; i < p; i++, x += c)
        for (Int q = 0; q < c; q++) {
            Real apart = x[q] - mean[q];
            sums[q] += apart * apart;
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

// Of each column, Σ s and Σ s·(x − mean), where s is the gradient in y; and s itself if it is not g.
static void slope_sums_of(
    const Real* g, const Real* x, Int p, Int c, const Real* mean, const Real* factor, const Real* bias, Int gated,
    Real* restrict slopes, double* restrict sums, double* restrict products)
{
    memset(sums, 0, c * sizeof(double));
    memset(products, 0, c * sizeof(double));
    for (Int i = 0; i < p; i++, g += c, x += c, slopes += c)
        if (gated)
            for (Int q = 0; q < c; q++) {
                Real apart = x[q] - mean[q], y = apart * factor[q] + bias[q], s = sigmoid(y);
                Real slope = g[q] * (s + y * s * (1 - s));
                slopes[q] = slope;
                sums[q] += slope;
                products[q] += slope * apart;
            }
        else
            for (Int q = 0; q < c; q++) {
                sums[q] += g[q];
                products[q] += g[q] * (x[q] - mean[q]);
            }
}

// g may be dx.
static void combine_of(
    const Real* g, const Real* x, Int p, Int c, const Real* mean, const Real* factor, const Real* slope,
    const Real* offset, Real* dx)
{
    for (Int i = 0; i < p; i++, g += c, x += c, dx += c)
#pragma GCC ivdep
        for (Int q = 0; q < c; q++) dx[q] = g[q] * factor[q] + (x[q] - mean[q]) * slope[q] + offset[q];
}

void square_sums(const Real* x, Int n, Int p, Int c, const Real* mean, double* scratch, Real* sums)
{
    for (Int m = 0; m < n; m++, x += p * c, mean += c, sums += c) {
        square_sums_of(x, p, c, mean, scratch);
        for (Int q = 0; q < c; q++) sums[q] = scratch[q];
    }
}

void scale(
    const Real* x, Int n, Int p, Int c, const Real* mean, const Real* factor, const Real* bias, Int gated, Real* y)
{
    for (Int m = 0; m < n; m++, x += p * c, mean += c, factor += c, bias += c, y += p * c)
        scale_of(x, p, c, mean, factor, bias, gated, y);
}

void slope_sums(
    const Real* g, const Real* x, Int n, Int p, Int c, const Real* mean, const Real* factor, const Real* bias,
    Int gated, Real* slopes, double* scratch, Real* sums)
{
    for (Int m = 0; m < n; m++, g += p * c, x += p * c, mean += c, factor += c, bias += c, slopes += p * c) {
        slope_sums_of(g, x, p, c, mean, factor, bias, gated, slopes, scratch, scratch + c);
        for (Int q = 0; q < 2 * c; q++) *sums++ = scratch[q];
    }
}

void combine(
    const Real* g, const Real* x, Int n, Int p, Int c, const Real* mean, const Real* factor, const Real* slope,
    const Real* offset, Real* dx)
{
    for (Int m = 0; m < n; m++, g += p * c, x += p * c, mean += c, factor += c, slope += c, offset += c, dx += p * c)
        combine_of(g, x, p, c, mean, factor, slope, offset, dx);
}

// Where a group lies in an image: all of it at once.

// The mean of each group of numbers, at each of them.
static void group_means(const double* sums, Int count, Int c, Int each, Real* means)
{
    for (Int first = 0; first < c; first += each) {
        double sum = 0;
        for (Int q = first; q < first + each; q++) sum += sums[q];
        for (Int q = first; q < first + each; q++) means[q] = sum / count;
    }
}

void normalize(
    const Real* x, Int n, Int p, Int c, Int each, const Real* weight, const Real* bias, Int apart, double eps,
    Int gated, double* scratch, Real* mean, Real* rstd, Real* out)
{
    Real *variance = (Real*)(scratch + c), *factor = (Real*)(scratch + 2 * c);
    for (Int m = 0; m < n; m++, x += p * c, weight += apart, bias += apart, mean += c, rstd += c, out += p * c) {
        sums_of(x, p, c, scratch);
        group_means(scratch, p * each, c, each, mean);
        square_sums_of(x, p, c, mean, scratch);
        group_means(scratch, p * each, c, each, variance);
        for (Int q = 0; q < c; q++) {
            rstd[q] = 1 / sqrt(variance[q] + eps);
            factor[q] = rstd[q] * weight[q];
        }
        scale_of(x, p, c, mean, factor, bias, gated, out);
    }
}

void normalize_gradients(
    const Real* g, const Real* x, Int n, Int p, Int c, Int each, const Real* weight, const Real* bias, Int apart,
    Int gated, const Real* mean, const Real* rstd, double* scratch, Real* dx, Real* dweight, Real* dbias)
{
    double *sums = scratch, *products = scratch + c;
    Real *factor = (Real*)(scratch + 2 * c), *offset = (Real*)(scratch + 3 * c), *slope = (Real*)(scratch + 4 * c);
    for (Int m = 0; m < n; m++) {
        for (Int q = 0; q < c; q++) factor[q] = rstd[q] * weight[q];
        slope_sums_of(g, x, p, c, mean, factor, bias, gated, dx, sums, products);
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
        g += p * c, x += p * c, weight += apart, bias += apart, mean += c, rstd += c;
        dx += p * c, dweight += c, dbias += c;
    }
}
