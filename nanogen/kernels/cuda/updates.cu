// Updates of up to eight parameters in one launch: see updates.py.  Settings are arrays of one double, so that 1 − β is
// computed in double for every type of parameter.

typedef long long Int;

#define EIGHT(type, name) \
    type name##0, type name##1, type name##2, type name##3, type name##4, type name##5, type name##6, type name##7
#define ALL(name) {name##0, name##1, name##2, name##3, name##4, name##5, name##6, name##7}
#define EACH(sizes)                      \
    const Int counts[8] = ALL(sizes);    \
    for (int p = 0; p < 8; p++)          \
        for (Int i = (Int)blockIdx.x * blockDim.x + threadIdx.x; i < counts[p]; i += (Int)gridDim.x * blockDim.x)

extern "C" __global__ void adam(
    EIGHT(const Real*, grad), EIGHT(Real*, param), EIGHT(Real*, mean), EIGHT(Real*, square), EIGHT(Int, size),
    const double* beta1, const double* beta2, const double* eps, const double* correction, const double* rate)
{
    const Real* grads[8] = ALL(grad);
    Real *params[8] = ALL(param), *means[8] = ALL(mean), *squares[8] = ALL(square);
    Real b1 = *beta1, rest1 = 1 - *beta1, b2 = *beta2, rest2 = 1 - *beta2, e = *eps, c = *correction, r = *rate;
    EACH(size)
    {
        Real g = grads[p][i], m = means[p][i] * b1 + g * rest1, v = squares[p][i] * b2 + g * g * rest2;
        means[p][i] = m;
        squares[p][i] = v;
        params[p][i] -= m / (sqrt(v) * c + e) * r;
    }
}

extern "C" __global__ void moving_average(
    EIGHT(const Real*, value), EIGHT(Real*, average), EIGHT(Int, size), const double* kept, const double* share)
{
    const Real* values[8] = ALL(value);
    Real* averages[8] = ALL(average);
    Real old = *kept, own = *share;
    EACH(size) averages[p][i] = averages[p][i] * old + values[p][i] * own;
}
