// Updates of up to eight parameters in one launch: see updates.py.  Settings are arrays of one number.

typedef long long Int;

#define ALL(name) {name##0, name##1, name##2, name##3, name##4, name##5, name##6, name##7}
#define EACH(sizes)                      \
    const Int counts[8] = ALL(sizes);    \
    for (int p = 0; p < 8; p++)          \
        for (Int i = (Int)blockIdx.x * blockDim.x + threadIdx.x; i < counts[p]; i += (Int)gridDim.x * blockDim.x)

extern "C" __global__ void adam(
    const Real* grad0, const Real* grad1, const Real* grad2, const Real* grad3, const Real* grad4, const Real* grad5, const Real* grad6, const Real* grad7,
    Real* param0, Real* param1, Real* param2, Real* param3, Real* param4, Real* param5, Real* param6, Real* param7,
    Real* mean0, Real* mean1, Real* mean2, Real* mean3, Real* mean4, Real* mean5, Real* mean6, Real* mean7,
    Real* square0, Real* square1, Real* square2, Real* square3, Real* square4, Real* square5, Real* square6, Real* square7,
    Int size0, Int size1, Int size2, Int size3, Int size4, Int size5, Int size6, Int size7,
    const Real* beta1, const Real* beta2, const Real* eps, const Real* correction, const Real* rate)
{
    const Real* grads[8] = ALL(grad);
    Real *params[8] = ALL(param), *means[8] = ALL(mean), *squares[8] = ALL(square);
    Real b1 = *beta1, b2 = *beta2, e = *eps, c = *correction, r = *rate;
    EACH(size)
    {
        Real g = grads[p][i], m = means[p][i] * b1 + g * (1 - b1), v = squares[p][i] * b2 + g * g * (1 - b2);
        means[p][i] = m;
        squares[p][i] = v;
        params[p][i] -= m / (sqrt(v) * c + e) * r;
    }
}

extern "C" __global__ void moving_average(
    const Real* value0, const Real* value1, const Real* value2, const Real* value3, const Real* value4, const Real* value5, const Real* value6, const Real* value7,
    Real* average0, Real* average1, Real* average2, Real* average3, Real* average4, Real* average5, Real* average6, Real* average7,
    Int size0, Int size1, Int size2, Int size3, Int size4, Int size5, Int size6, Int size7, const Real* kept, const Real* share)
{
    const Real* values[8] = ALL(value);
    Real* averages[8] = ALL(average);
    EACH(size) averages[p][i] = averages[p][i] * *kept + values[p][i] * *share;
}
