// Sums on the GPU: see `column_sums` in reduction.py.  Correct for any block of up to 1024 threads.

#include "total.cuh"

// Sums over the pixels: (images, pixels, channels) to (images, channels).  A block has adjacent columns of an image.
extern "C" __global__ void column_sums(const Real* rows, long long pixels, long long channels, Real* sums)
{
    rows += blockIdx.x * pixels * channels;
    sums += blockIdx.x * channels;
    for (long long left = blockIdx.y * blockDim.x; left < channels; left += gridDim.y * blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < channels;  // other threads add nothing, but must reach the barriers in total()
        long long own = mine ? pixels : 0;
        Real sum = 0;
        for (long long p = threadIdx.y; p < own; p += blockDim.y) sum += rows[p * channels + column];
        sum = total(sum);
        if (mine && threadIdx.y == 0) sums[column] = sum;
    }
}
