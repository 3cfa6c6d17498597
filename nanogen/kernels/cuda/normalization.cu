// Normalisation on the GPU: see normalization.py.  Correct for any block of up to 1024 threads.
//
// x is (images, pixels, channels).  batch_stride is the distance between the weights of two images (0 if all images
// share them), and between the biases.  A column is a channel at all pixels of an image.  A block has several columns:
// threadIdx.x is the column, so that neighbouring threads access neighbouring memory, and threadIdx.y is the pixel.
struct Columns {
    long long pixels, channels, each;  // each: channels per group
    long long first, end;              // the channels of the block, whole groups
};

__device__ Columns columns_of_block(long long pixels, long long channels, long long each, long long count)
{
    long long first = blockIdx.y * count;
    return {pixels, channels, each, first, first + count < channels ? first + count : channels};
}

// The sum over the threads with the same threadIdx.x: a tree reduction, always in the same order.
__device__ Real total(Real own)
{
    __shared__ Real sums[1024];
    Real* of_column = sums + threadIdx.x;
    int y = threadIdx.y, stride = blockDim.x;
    of_column[y * stride] = own;
    for (int count = blockDim.y; count > 1;) {
        int half = (count + 1) / 2;
        __syncthreads();
        if (y + half < count) of_column[y * stride] += of_column[(y + half) * stride];
        count = half;
    }
    __syncthreads();
    Real result = of_column[0];
    __syncthreads();  // all threads have read before the next call writes
    return result;
}

// The mean of each column; with `squares`, the mean of the squared distances from the group's mean.  The variance takes
// this second pass because E[x²] − E[x]² loses all digits if the mean is large.  A mean is computed as the first number
// plus the mean difference from it, so that the mean of equal numbers is exact.
__device__ void column_means(const Real* x, Columns of, bool squares, const Real* mean, Real* means)
{
    for (long long left = of.first; left < of.end; left += blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < of.end;  // other threads add nothing, but must reach the barriers in total()
        long long pixels = mine ? of.pixels : 0;
        Real centre = pixels ? squares ? mean[column / of.each] : x[column] : 0, sum = 0;
        for (long long p = threadIdx.y; p < pixels; p += blockDim.y) {
            Real number = x[p * of.channels + column] - centre;
            sum += squares ? number * number : number;
        }
        sum = total(sum);
        if (mine && threadIdx.y == 0) means[column] = (squares ? 0 : centre) + sum / of.pixels;
    }
    __syncthreads();  // now all threads of the block see the means
}

// The mean of the columns of each group, over `images` images.
__device__ void group_means(const Real* columns, long long images, Columns of, bool squares, Real* means)
{
    for (long long left = of.first / of.each; left < of.end / of.each; left += blockDim.x) {
        long long group = left + threadIdx.x;
        bool mine = group < of.end / of.each;
        long long count = images * of.each, own = mine ? count : 0;
        Real first = mine && !squares ? columns[group * of.each] : 0, sum = 0;
        for (long long k = threadIdx.y; k < own; k += blockDim.y)
            sum += columns[k / of.each * of.channels + group * of.each + k % of.each] - first;
        sum = total(sum);
        if (mine && threadIdx.y == 0) means[group] = first + sum / count;
    }
    __syncthreads();
}

__device__ void scale(
    const Real* x, const Real* weight, const Real* bias, Columns of, const Real* mean, const Real* variance, Real eps,
    bool gated, Real* out)
{
    for (long long column = of.first + threadIdx.x; column < of.end; column += blockDim.x) {
        long long group = column / of.each;
        Real m = mean[group], factor = weight[column] / sqrt(variance[group] + eps), b = bias[column];
        for (long long p = threadIdx.y; p < of.pixels; p += blockDim.y) {
            Real y = (x[p * of.channels + column] - m) * factor + b;
            out[p * of.channels + column] = gated ? y / (1 + exp(-y)) : y;
        }
    }
}

// If a group is within an image, it is within a block, and one launch runs all five steps.  Over the batch, each step
// is a launch, because it needs the results of all blocks.  A block of steps 2 and 4 then has columns of all images.
extern "C" __global__ void normalize(
    const Real* x, const Real* weight, const Real* bias, long long images, long long pixels, long long channels,
    long long each, long long columns, long long batch_stride, double eps, long long over_batch, long long gated,
    long long from, long long to, Real* means, Real* mean, Real* variance, Real* out)
{
    Columns of = columns_of_block(pixels, channels, each, columns);
    long long image = blockIdx.x, together = over_batch ? images : 1;
    x += image * pixels * channels;
    out += image * pixels * channels;
    weight += image * batch_stride;
    bias += image * batch_stride;
    means += image * channels;
    if (!over_batch) {
        mean += image * (channels / each);
        variance += image * (channels / each);
    }
    if (from <= 1) column_means(x, of, false, mean, means);
    if (from <= 2 && 2 <= to) group_means(means, together, of, false, mean);
    if (from <= 3 && 3 <= to) column_means(x, of, true, mean, means);
    if (from <= 4 && 4 <= to) group_means(means, together, of, true, variance);
    if (5 <= to) scale(x, weight, bias, of, mean, variance, eps, gated, out);
}

// The gradient of y, given the gradient of silu(y).
__device__ Real through_silu(Real g, Real y)
{
    Real s = 1 / (1 + exp(-y));
    return g * s * (1 + y * (1 - s));
}

// Σ g and Σ g·x̂ of each column.
__device__ void gradient_sums(
    const Real* g, const Real* x, const Real* weight, const Real* bias, Columns of, const Real* mean,
    const Real* variance, Real eps, bool gated, Real* sum_g, Real* sum_gx)
{
    for (long long left = of.first; left < of.end; left += blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < of.end;
        long long c = mine ? column : left, pixels = mine ? of.pixels : 0;
        Real m = mean[c / of.each], rstd = 1 / sqrt(variance[c / of.each] + eps), own = 0, own_x = 0;
        for (long long p = threadIdx.y; p < pixels; p += blockDim.y) {
            long long at = p * of.channels + c;
            Real normal = (x[at] - m) * rstd;
            Real dy = gated ? through_silu(g[at], normal * weight[c] + bias[c]) : g[at];
            own += dy;
            own_x += dy * normal;
        }
        Real of_g = total(own), of_gx = total(own_x);
        if (mine && threadIdx.y == 0) {
            sum_g[c] = of_g;
            sum_gx[c] = of_gx;
        }
    }
    __syncthreads();
}

// count: the number of elements of a group.
__device__ void gradient(
    const Real* g, const Real* x, const Real* weight, const Real* bias, Columns of, const Real* mean,
    const Real* variance, Real eps, bool gated, const Real* sum_g, const Real* sum_gx, long long count, Real* dx)
{
    for (long long left = of.first; left < of.end; left += blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < of.end;
        long long c = mine ? column : left, group = c / of.each, pixels = mine ? of.pixels : 0;
        Real own = 0, own_x = 0;
        for (long long k = group * of.each + threadIdx.y; k < (group + 1) * of.each; k += blockDim.y) {
            own += weight[k] * sum_g[k];
            own_x += weight[k] * sum_gx[k];
        }
        Real mean_g = total(own) / count, mean_gx = total(own_x) / count;
        Real m = mean[group], rstd = 1 / sqrt(variance[group] + eps);
        for (long long p = threadIdx.y; p < pixels; p += blockDim.y) {
            long long at = p * of.channels + c;
            Real normal = (x[at] - m) * rstd;
            Real dy = gated ? through_silu(g[at], normal * weight[c] + bias[c]) : g[at];
            dx[at] = rstd * (dy * weight[c] - mean_g - normal * mean_gx);
        }
    }
}

// Steps 1 and 2 in one launch; over the batch in two launches, between which the sums are added over the batch.
extern "C" __global__ void normalize_gradients(
    const Real* g, const Real* x, const Real* weight, const Real* bias, const Real* mean, const Real* variance,
    long long images, long long pixels, long long channels, long long each, long long columns, long long batch_stride,
    double eps, long long over_batch, long long gated, long long from, long long to,
    Real* sum_g, Real* sum_gx, Real* dx)
{
    Columns of = columns_of_block(pixels, channels, each, columns);
    long long image = blockIdx.x, at = image * pixels * channels;
    weight += image * batch_stride;
    bias += image * batch_stride;
    if (!over_batch) {
        mean += image * (channels / each);
        variance += image * (channels / each);
    }
    if (!over_batch || from <= 1) {
        sum_g += image * channels;
        sum_gx += image * channels;
    }
    long long count = (over_batch ? images : 1) * pixels * each;
    if (from <= 1) gradient_sums(g + at, x + at, weight, bias, of, mean, variance, eps, gated, sum_g, sum_gx);
    if (2 <= to) gradient(g + at, x + at, weight, bias, of, mean, variance, eps, gated, sum_g, sum_gx, count, dx + at);
}
