// Tiles and patches of images, each in one pass: see the functions of the same names in convolution.py.
//
// Images lie as (N, H, W, C).  What is outside an image is 0: a tile's pixel there is read from a row of zeros, and
// written to a row that nobody looks at, so that the loop over channels knows nothing of borders.

#include "compiled.h"

#define INLINE static inline __attribute__((always_inline))  // so that t and r are constants, and loops over them none

typedef struct { Int n, h, w, c; } Size;

INLINE Real* pixel(const Real* x, Size of, Int row, Int column, const Real* outside)
{
    int inside = 0 <= row && row < of.h && 0 <= column && column < of.w;
    return (Real*)(inside ? x + (row * of.w + column) * of.c : outside);
}

// F(2×2, r×r) along one axis: r = 3 and 2, t = r + 1, see TILINGS.  Numbers lie a step from each other.

INLINE void input(int t, const Real* d, int step, Real* m)  // Bᵀ d
{
    Real d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = t == 4 ? d[3 * step] : 0;
    m[0] = t == 4 ? d0 - d2 : d0 - d1;
    m[step] = t == 4 ? d1 + d2 : d1;
    m[2 * step] = d2 - d1;
    if (t == 4) m[3 * step] = d1 - d3;
}

INLINE void input_adjoint(int t, const Real* m, int step, Real* d)  // B m
{
    Real m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = t == 4 ? m[3 * step] : 0;
    d[0] = m0;
    d[step] = t == 4 ? m1 - m2 + m3 : m1 - m0 - m2;
    d[2 * step] = t == 4 ? m1 + m2 - m0 : m2;
    if (t == 4) d[3 * step] = -m3;
}

INLINE void output(int t, const Real* m, int step, Real* y)  // Aᵀ m
{
    Real m0 = m[0], m1 = m[step], m2 = m[2 * step], m3 = t == 4 ? m[3 * step] : 0;
    y[0] = t == 4 ? m0 + m1 + m2 : m0 + m1;
    y[step] = t == 4 ? m1 - m2 - m3 : m1 + m2;
}

INLINE void output_adjoint(int t, const Real* y, int step, Real* m)  // A y
{
    Real y0 = y[0], y1 = y[step];
    m[0] = y0;
    m[step] = y0 + y1;
    m[2 * step] = t == 4 ? y0 - y1 : y1;
    if (t == 4) m[3 * step] = -y1;
}

// The same in two dimensions, at all channels: numbers in rows of 4 between the two, on all tiles.

typedef struct { Int th, tw, s, ph, pw; } Tiles;

INLINE void tiles_of(int t, const Real* x, Size of, Tiles in, const Real* zeros, Real* out)
{
    Int apart = of.n * in.th * in.tw * in.s * in.s * of.c;
    for (Int m = 0; m < of.n; m++, x += of.h * of.w * of.c)
        for (Int i = 0; i < in.th; i++)
            for (Int j = 0; j < in.tw; j++)
                for (Int a = 0; a < in.s; a++)
                    for (Int b = 0; b < in.s; b++, out += of.c) {
                        const Real* from[16];
                        for (int k = 0; k < t; k++)
                            for (int l = 0; l < t; l++)
                                from[4 * k + l] = pixel(
                                    x, of, in.s * (2 * i + k) + a - in.ph, in.s * (2 * j + l) + b - in.pw, zeros);
#pragma GCC ivdep
                        for (Int q = 0; q < of.c; q++) {
                            Real d[16], e[16];
                            for (int k = 0; k < t; k++)
                                for (int l = 0; l < t; l++) d[4 * k + l] = from[4 * k + l][q];
                            for (int l = 0; l < t; l++) input(t, d + l, 4, e + l);
                            for (int k = 0; k < t; k++) input(t, e + 4 * k, 1, d + 4 * k);
                            for (int k = 0; k < t; k++)
                                for (int l = 0; l < t; l++) out[(t * k + l) * apart + q] = d[4 * k + l];
                        }
                    }
}

INLINE void add_tiles_of(int t, const Real* products, Real* x, Size of, Tiles in, Real* outside)
{
    Int apart = of.n * in.th * in.tw * in.s * in.s * of.c;
    memset(x, 0, of.n * of.h * of.w * of.c * sizeof(Real));
    for (Int m = 0; m < of.n; m++, x += of.h * of.w * of.c)
        for (Int i = 0; i < in.th; i++)
            for (Int j = 0; j < in.tw; j++)
                for (Int a = 0; a < in.s; a++)
                    for (Int b = 0; b < in.s; b++, products += of.c) {
                        Real* to[16];
                        for (int k = 0; k < t; k++)
                            for (int l = 0; l < t; l++)
                                to[4 * k + l] = pixel(
                                    x, of, in.s * (2 * i + k) + a - in.ph, in.s * (2 * j + l) + b - in.pw, outside);
#pragma GCC ivdep
                        for (Int q = 0; q < of.c; q++) {
                            Real d[16], e[16];
                            for (int k = 0; k < t; k++)
                                for (int l = 0; l < t; l++) d[4 * k + l] = products[(t * k + l) * apart + q];
                            for (int l = 0; l < t; l++) input_adjoint(t, d + l, 4, e + l);
                            for (int k = 0; k < t; k++) input_adjoint(t, e + 4 * k, 1, d + 4 * k);
                            for (int k = 0; k < t; k++)
                                for (int l = 0; l < t; l++) to[4 * k + l][q] += d[4 * k + l];
                        }
                    }
}

INLINE void put_tiles_of(int t, const Real* products, const Real* bias, Real* y, Size of, Real* outside)
{
    Int th = (of.h + 1) / 2, tw = (of.w + 1) / 2, apart = of.n * th * tw * of.c;
    for (Int m = 0; m < of.n; m++, y += of.h * of.w * of.c)
        for (Int i = 0; i < th; i++)
            for (Int j = 0; j < tw; j++, products += of.c) {
                Real* to[4];
                for (int k = 0; k < 4; k++) to[k] = pixel(y, of, 2 * i + k / 2, 2 * j + k % 2, outside);
#pragma GCC ivdep
                for (Int q = 0; q < of.c; q++) {
                    Real d[16], e[8], f[4];
                    for (int k = 0; k < t; k++)
                        for (int l = 0; l < t; l++) d[4 * k + l] = products[(t * k + l) * apart + q];
                    for (int l = 0; l < t; l++) output(t, d + l, 4, e + l);
                    for (int k = 0; k < 2; k++) output(t, e + 4 * k, 1, f + 2 * k);
                    for (int k = 0; k < 4; k++) to[k][q] = f[k] + bias[q];
                }
            }
}

INLINE void slopes_of_tiles_of(int t, const Real* y, Size of, const Real* zeros, Real* out)
{
    Int th = (of.h + 1) / 2, tw = (of.w + 1) / 2, apart = of.n * th * tw * of.c;
    for (Int m = 0; m < of.n; m++, y += of.h * of.w * of.c)
        for (Int i = 0; i < th; i++)
            for (Int j = 0; j < tw; j++, out += of.c) {
                const Real* from[4];
                for (int k = 0; k < 4; k++) from[k] = pixel(y, of, 2 * i + k / 2, 2 * j + k % 2, zeros);
#pragma GCC ivdep
                for (Int q = 0; q < of.c; q++) {
                    Real f[4], e[8], d[16];
                    for (int k = 0; k < 4; k++) f[k] = from[k][q];
                    for (int k = 0; k < 2; k++) output_adjoint(t, f + 2 * k, 1, e + 4 * k);
                    for (int l = 0; l < t; l++) output_adjoint(t, e + l, 4, d + l);
                    for (int k = 0; k < t; k++)
                        for (int l = 0; l < t; l++) out[(t * k + l) * apart + q] = d[4 * k + l];
                }
            }
}

// What Python calls: with t a constant.

#define OF_T(name, ...) t == 4 ? name(4, __VA_ARGS__) : name(3, __VA_ARGS__)

void tiles(const Real* x, Int n, Int h, Int w, Int c, Int th, Int tw, Int s, Int ph, Int pw, Int t, const Real* zeros, Real* out)
{
    OF_T(tiles_of, x, ((Size){n, h, w, c}), ((Tiles){th, tw, s, ph, pw}), zeros, out);
}

void add_tiles(const Real* products, Int n, Int h, Int w, Int c, Int th, Int tw, Int s, Int ph, Int pw, Int t, Real* outside, Real* x)
{
    OF_T(add_tiles_of, products, x, ((Size){n, h, w, c}), ((Tiles){th, tw, s, ph, pw}), outside);
}

void put_tiles(const Real* products, Int n, Int h, Int w, Int c, const Real* bias, Int t, Real* outside, Real* y)
{
    OF_T(put_tiles_of, products, bias, y, ((Size){n, h, w, c}), outside);
}

void slopes_of_tiles(const Real* y, Int n, Int h, Int w, Int c, Int t, const Real* zeros, Real* out)
{
    OF_T(slopes_of_tiles_of, y, ((Size){n, h, w, c}), zeros, out);
}

// Patches

typedef struct { Int oh, ow, kh, kw, sh, sw, ph, pw, dh, dw; } Places;

// The taps of a patch's line that begins at a column, which are inside the image: from `first`, up to but not `end`.
INLINE void inside(Places at, Size of, Int column, Int* first, Int* end)
{
    *first = column < 0 ? least(at.kw, (-column + at.dw - 1) / at.dw) : 0;
    *end = column < of.w ? most(*first, least(at.kw, (of.w - column + at.dw - 1) / at.dw)) : *first;
}

static void patches_of(const Real* x, Size of, Places at, Real* out)
{
    for (Int m = 0; m < of.n; m++, x += of.h * of.w * of.c)
        for (Int i = 0; i < at.oh; i++)
            for (Int j = 0; j < at.ow; j++)
                for (Int k = 0; k < at.kh; k++, out += at.kw * of.c) {
                    Int row = i * at.sh + k * at.dh - at.ph, column = j * at.sw - at.pw, first, end;
                    inside(at, of, column, &first, &end);
                    if (row < 0 || row >= of.h) first = end = 0;
                    const Real* line = x + (row * of.w + column) * of.c;
                    for (Int q = 0; q < first * of.c; q++) out[q] = 0;
                    if (at.dw == 1)
                        for (Int q = first * of.c; q < end * of.c; q++) out[q] = line[q];
                    else
                        for (Int l = first; l < end; l++)
                            for (Int q = 0; q < of.c; q++) out[l * of.c + q] = line[l * at.dw * of.c + q];
                    for (Int q = end * of.c; q < at.kw * of.c; q++) out[q] = 0;
                }
}

static void add_patches_of(const Real* products, Size of, Places at, Real* x)
{
    memset(x, 0, of.n * of.h * of.w * of.c * sizeof(Real));
    for (Int m = 0; m < of.n; m++, x += of.h * of.w * of.c)
        for (Int i = 0; i < at.oh; i++)
            for (Int j = 0; j < at.ow; j++)
                for (Int k = 0; k < at.kh; k++, products += at.kw * of.c) {
                    Int row = i * at.sh + k - at.ph, column = j * at.sw - at.pw, first, end;
                    inside(at, of, column, &first, &end);
                    if (row < 0 || row >= of.h) continue;
                    Real* line = x + (row * of.w + column) * of.c;
#pragma GCC ivdep
                    for (Int q = first * of.c; q < end * of.c; q++) line[q] += products[q];
                }
}

void patches(
    const Real* x, Int n, Int h, Int w, Int c, Int oh, Int ow, Int kh, Int kw, Int sh, Int sw, Int ph, Int pw, Int dh,
    Int dw, Real* out)
{
    patches_of(x, (Size){n, h, w, c}, (Places){oh, ow, kh, kw, sh, sw, ph, pw, dh, dw}, out);
}

void add_patches(
    const Real* products, Int n, Int h, Int w, Int c, Int oh, Int ow, Int kh, Int kw, Int sh, Int sw, Int ph, Int pw,
    Real* x)
{
    add_patches_of(products, (Size){n, h, w, c}, (Places){oh, ow, kh, kw, sh, sw, ph, pw, 1, 1}, x);
}
