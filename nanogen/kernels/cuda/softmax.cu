// The cross-entropy of softmax with labels on the GPU: see ../softmax.py.  Correct for any grid, and any block of up to
// 1024 threads.  The threads with the same threadIdx.y share a row of logits.

// The sum or the maximum over the threads of a row: a tree reduction, always in the same order.
__device__ Real together(Real own, bool sum)
{
    __shared__ Real numbers[1024];
    Real* of_row = numbers + threadIdx.y * blockDim.x;
    int x = threadIdx.x;
    of_row[x] = own;
    for (int count = blockDim.x; count > 1;) {
        int half = (count + 1) / 2;
        __syncthreads();
        if (x + half < count) {
            Real a = of_row[x], b = of_row[x + half];
            of_row[x] = sum ? a + b : a > b ? a : b;
        }
        count = half;
    }
    __syncthreads();
    Real result = of_row[0];
    __syncthreads();  // all threads have read before the next call writes
    return result;
}

// The largest logit of a row, and the sum of e^(x − largest).
__device__ void largest_and_total(const Real* x, long long classes, Real& most, Real& sum)
{
    most = x[0];
    sum = 0;
    for (long long k = threadIdx.x; k < classes; k += blockDim.x) most = x[k] > most ? x[k] : most;
    most = together(most, false);
    for (long long k = threadIdx.x; k < classes; k += blockDim.x) sum += exp(x[k] - most);
    sum = together(sum, true);
}

extern "C" __global__ void cross_entropy(
    const Real* logits, const long long* labels, long long rows, long long classes,
    Real* largest, Real* total, Real* loss)
{
    for (long long first = (long long)blockIdx.x * blockDim.y; first < rows; first += gridDim.x * blockDim.y) {
        long long row = first + threadIdx.y;
        bool mine = row < rows;  // other threads have no row, but must reach the barriers
        const Real* x = logits + (mine ? row : first) * classes;
        Real most, sum;
        largest_and_total(x, classes, most, sum);
        if (mine && threadIdx.x == 0) {
            long long label = labels[row];
            bool is_class = 0 <= label && label < classes;  // the host does not check labels: it would wait for the GPU
            largest[row] = most;
            total[row] = sum;
            loss[row] = is_class ? log(sum) - (x[label] - most) : Real(nan(""));
        }
    }
}

extern "C" __global__ void cross_entropy_gradient(
    const Real* g, const Real* logits, const long long* labels, const Real* largest, const Real* total,
    long long rows, long long classes, Real* result)
{
    long long step = (long long)gridDim.x * blockDim.y;
    for (long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += step) {
        Real most = largest[row], sum = total[row], of_loss = g[row];  // once: result might alias
        long long label = labels[row];
        for (long long k = threadIdx.x; k < classes; k += blockDim.x) {
            Real softmax = exp(logits[row * classes + k] - most) / sum;
            result[row * classes + k] = of_loss * (softmax - (k == label));
        }
    }
}
