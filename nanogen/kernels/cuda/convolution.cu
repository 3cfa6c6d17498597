// The steps of convolution before and after its matrix products: see convolution.py.
//
// The layout of images is (N, H, W, C).  threadIdx.x is the channel, so that neighbouring threads access neighbouring
// memory; threadIdx.y and blockIdx.x are the row of channels.  Where tiles or patches overlap, one thread sums all
// contributions to a pixel.  So the order of sums is fixed, and no atomics are needed.  Correct for any grid and block.

#define INLINE __device__ __forceinline__
typedef long long Int;
#include "../tiles.h"

#define EACH_ROW(row, rows) \
    for (Int row = (Int)blockIdx.x * blockDim.y + threadIdx.y, step = (Int)gridDim.x * blockDim.y; row < rows; \
         row += step)
#define EACH_CHANNEL(q, c) for (Int q = threadIdx.x; q < c; q += blockDim.x)
#define OF_T(function, ...) (t == 4 ? function(4, __VA_ARGS__) : function(3, __VA_ARGS__))

// `stride` is the distance between the t·t numbers of a tile.

INLINE void load(int t, const Real* from, Int stride, Real* d)
{
    EACH_OF_TILE(t) d[4 * k + l] = from[(t * k + l) * stride];
}

INLINE void store(int t, const Real* d, Int stride, Real* to)
{
    EACH_OF_TILE(t) to[(t * k + l) * stride] = d[4 * k + l];
}

// Which tile a row belongs to: the image, the tile (i, j) in it, and the pixel number `place` in each block.
struct Tile { Int image, i, j, place; };

INLINE Tile tile_of(Int row, Int th, Int tw, Int places)
{
    Int place = row % places, tile = row / places;
    return {tile / tw / th, tile / tw % th, tile % tw, place};
}

INLINE void tile(int t, const Real* x, Size of, Tiles in, Tile at, Real* out, Int stride)
{
    Real *from[16], d[16];
    pixels_of_tile(t, x + at.image * of.h * of.w * of.c, of, in, at.i, at.j, at.place, nullptr, from);
    EACH_CHANNEL(q, of.c)
    {
        EACH_OF_TILE(t) d[4 * k + l] = from[4 * k + l] ? from[4 * k + l][q] : 0;
        input_of_tile(t, d);
        store(t, d, stride, out + q);
    }
}

// Bᵀ d of every tile d: (n, h, w, c) to (t², n·th·tw·s², c).
extern "C" __global__ void tiles(
    const Real* x, Int n, Int h, Int w, Int c, Int th, Int tw, Int s, Int ph, Int pw, Int t, Real* out)
{
    Int rows = n * th * tw * s * s;
    EACH_ROW(row, rows)
    OF_T(tile, x, Size{n, h, w, c}, Tiles{th, tw, s, ph, pw}, tile_of(row, th, tw, s * s), out + row * c, rows * c);
}

// The sum over all tiles that contain the first 2×2 blocks of the tile (at.i, at.j): this tile and those before it.
INLINE void add_tiles_at(int t, const Real* products, Size of, Tiles in, Tile at, Int stride, Real* x)
{
    Real *to[16], d[16];
    pixels_of_tile(2, x + at.image * of.h * of.w * of.c, of, in, at.i, at.j, at.place, nullptr, to);
    EACH_CHANNEL(q, of.c)
    {
        Real sums[4] = {0, 0, 0, 0};
        for (int before = 0; before < 4; before++) {
            int up = before / 2, left = before % 2;
            Int i = at.i - up, j = at.j - left;
            if (i < 0 || i >= in.th || j < 0 || j >= in.tw) continue;
            Int row = ((at.image * in.th + i) * in.tw + j) * in.s * in.s + at.place;
            load(t, products + row * of.c + q, stride, d);
            input_of_tile_adjoint(t, d);
            for (int k = 2 * up; k < 2 * up + 2 && k < t; k++)
                for (int l = 2 * left; l < 2 * left + 2 && l < t; l++) sums[k % 2 * 2 + l % 2] += d[4 * k + l];
        }
        for (int k = 0; k < 4; k++)
            if (to[4 * (k / 2) + k % 2]) to[4 * (k / 2) + k % 2][q] = sums[k];
    }
}

// B m of every tile's products m, summed where tiles overlap: (t², n·th·tw·s², c) to (n, h, w, c).
extern "C" __global__ void add_tiles(
    const Real* products, Int n, Int h, Int w, Int c, Int th, Int tw, Int s, Int ph, Int pw, Int t, Real* x)
{
    Int stride = n * th * tw * s * s * c, rows = n * (th + 1) * (tw + 1) * s * s;
    EACH_ROW(row, rows)
    OF_T(add_tiles_at, products, Size{n, h, w, c}, Tiles{th, tw, s, ph, pw}, tile_of(row, th + 1, tw + 1, s * s),
         stride, x);
}

INLINE void put_tile(int t, const Real* products, Int stride, const Real* bias, Size of, Tile at, Real* y)
{
    Real *to[4], d[16];
    outputs_of_tile(y + at.image * of.h * of.w * of.c, of, at.i, at.j, nullptr, to);
    EACH_CHANNEL(q, of.c)
    {
        load(t, products + q, stride, d);
        output_of_tile(t, d);
        for (int k = 0; k < 4; k++)
            if (to[k]) to[k][q] = d[4 * (k / 2) + k % 2] + (bias ? bias[q] : 0);
    }
}

// Aᵀ m of every tile's products m, plus a bias if `biased`: (t², n·th·tw, c) to (n, h, w, c).
extern "C" __global__ void put_tiles(
    const Real* products, const Real* bias, Int biased, Int n, Int h, Int w, Int c, Int th, Int tw, Int t, Real* y)
{
    Int rows = n * th * tw;
    EACH_ROW(row, rows)
    OF_T(put_tile, products + row * c, rows * c, biased ? bias : nullptr, Size{n, h, w, c}, tile_of(row, th, tw, 1), y);
}

INLINE void gradient_tile(int t, const Real* y, Size of, Tile at, Real* out, Int stride)
{
    Real *from[4], d[16];
    outputs_of_tile(y + at.image * of.h * of.w * of.c, of, at.i, at.j, nullptr, from);
    EACH_CHANNEL(q, of.c)
    {
        for (int k = 0; k < 4; k++) d[4 * (k / 2) + k % 2] = from[k] ? from[k][q] : 0;
        output_of_tile_adjoint(t, d);
        store(t, d, stride, out + q);
    }
}

// A y of every tile's outputs y: (n, h, w, c) to (t², n·th·tw, c).
extern "C" __global__ void gradient_tiles(
    const Real* y, Int n, Int h, Int w, Int c, Int th, Int tw, Int t, Real* out)
{
    Int rows = n * th * tw;
    EACH_ROW(row, rows)
    OF_T(gradient_tile, y, Size{n, h, w, c}, tile_of(row, th, tw, 1), out + row * c, rows * c);
}

// im2col: the pixels under the kernel at each position: (n, h, w, c) to (n·oh·ow, kh·kw·c).
extern "C" __global__ void patches(
    const Real* x, Int n, Int h, Int w, Int c, Int oh, Int ow, Int kh, Int kw, Int sh, Int sw, Int ph, Int pw, Int dh,
    Int dw, Real* out)
{
    Int places = n * oh * ow;
    EACH_ROW(place, places)
    {
        Int j = place % ow, i = place / ow % oh, image = place / ow / oh;
        Real* to = out + place * kh * kw * c;
        for (Int k = 0; k < kh; k++)
            for (Int l = 0; l < kw; l++, to += c) {
                const Real* from =
                    pixel(x + image * h * w * c, Size{n, h, w, c}, i * sh + k * dh - ph, j * sw + l * dw - pw, nullptr);
                EACH_CHANNEL(q, c) to[q] = from ? from[q] : 0;
            }
    }
}

// col2im for a dilation of 1: the sum of all contributions to each pixel.
extern "C" __global__ void add_patches(
    const Real* products, Int n, Int h, Int w, Int c, Int oh, Int ow, Int kh, Int kw, Int sh, Int sw, Int ph, Int pw,
    Real* x)
{
    Int rows = n * h * w;
    EACH_ROW(row, rows)
    {
        Int down = row / w % h + ph, right = row % w + pw, image = row / w / h;
        EACH_CHANNEL(q, c)
        {
            Real sum = 0;
            for (Int k = down % sh; k < kh && k <= down; k += sh)
                for (Int l = right % sw; l < kw && l <= right; l += sw) {
                    Int i = (down - k) / sh, j = (right - l) / sw;
                    if (i < oh && j < ow) sum += products[((((image * oh + i) * ow + j) * kh + k) * kw + l) * c + q];
                }
            x[row * c + q] = sum;
        }
    }
}
