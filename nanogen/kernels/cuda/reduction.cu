// Sums on a GPU: see `column_sums` in reduction.py.
// Right for any number of threads in a block, as long as these are no more than 1024.

#include "total.cuh"

// Over the pixels: (images, pixels, channels) to (images, channels).  A block has neighbouring columns of one image.
extern "C" __global__ void column_sums(const Real* rows, long long pixels, long long channels, Real* sums)
{
    rows += blockIdx.x * pixels * channels;
    sums += blockIdx.x * channels;
    for (long long left = blockIdx.y * blockDim.x; left < channels; left += gridDim.y * blockDim.x) {
        long long column = left + threadIdx.x;
        bool mine = column < channels;  // else there is nothing to add, but all take part
        long long own = mine ? pixels : 0;
        Real sum = 0;
        for (long long p = threadIdx.y; p < own; p += blockDim.y) sum += rows[p * channels + column];
        sum = total(sum);
        if (mine && threadIdx.y == 0) sums[column] = sum;
    }
}
