// Many arrays made one on a GPU: see `join` in joining.py.
// Right for any number of threads in a block.

__device__ __forceinline__ Real* join_one(Real* to, const Real* from, long long n)
{
    long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x, threads = (long long)gridDim.x * blockDim.x;
    for (long long i = first; i < n; i += threads) to[i] = from[i];
    return to + n;
}

// The arrays a to p, of the sizes na to np, one after the other.
extern "C" __global__ void join(
    const Real* a, const Real* b, const Real* c, const Real* d, const Real* e, const Real* f, const Real* g,
    const Real* h, const Real* i, const Real* j, const Real* k, const Real* l, const Real* m, const Real* n,
    const Real* o, const Real* p, long long na, long long nb, long long nc, long long nd, long long ne, long long nf,
    long long ng, long long nh, long long ni, long long nj, long long nk, long long nl, long long nm, long long nn,
    long long no, long long np, Real* whole)
{
    whole = join_one(join_one(join_one(join_one(whole, a, na), b, nb), c, nc), d, nd);
    whole = join_one(join_one(join_one(join_one(whole, e, ne), f, nf), g, ng), h, nh);
    whole = join_one(join_one(join_one(join_one(whole, i, ni), j, nj), k, nk), l, nl);
    whole = join_one(join_one(join_one(join_one(whole, m, nm), n, nn), o, no), p, np);
}
