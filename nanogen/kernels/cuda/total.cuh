// The sum of what the threads of one threadIdx.x have: by halves, in the same order every time.
__device__ Real total(Real own)
{
    __shared__ Real sums[1024];
    Real* of_column = sums + threadIdx.x;
    int y = threadIdx.y, apart = blockDim.x;
    of_column[y * apart] = own;
    for (int count = blockDim.y; count > 1;) {
        int half = (count + 1) / 2;
        __syncthreads();
        if (y + half < count) of_column[y * apart] += of_column[(y + half) * apart];
        count = half;
    }
    __syncthreads();
    Real result = of_column[0];
    __syncthreads();  // all have read before anyone writes the next number
    return result;
}
