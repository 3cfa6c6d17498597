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
