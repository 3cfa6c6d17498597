// Tiles and patches of images, each in one pass: see the functions of the same names in convolution.py.
//
// Images lie as (N, H, W, C).  What is outside an image is 0: a tile's pixel there is read from a row of zeros, and
// written to a row that nobody looks at, so that the loop over channels knows nothing of borders.

#include "compiled.h"

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

// The same in two dimensions, at all channels.  Numbers are in rows of 4 here; in the tiles, t·t of them lie `apart`.

typedef struct { Int th, tw, s, ph, pw; } Tiles;

// The pixels of the tile (i, j), or of each block of it the one at `place`, of s×s.
INLINE void pixels_of_tile(int t, const Real* x, Size of, Tiles in, Int i, Int j, Int place, const Real* outside, Real** at)
{
    Int row = in.s * 2 * i + place / in.s - in.ph, column = in.s * 2 * j + place % in.s - in.pw;
    for (int k = 0; k < t; k++)
        for (int l = 0; l < t; l++) at[4 * k + l] = pixel(x, of, row + in.s * k, column + in.s * l, outside);
}

INLINE void tile(int t, Real* const* from, Int c, Real* to, Int apart)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real d[16], e[16];
        for (int k = 0; k < t; k++)
            for (int l = 0; l < t; l++) d[4 * k + l] = from[4 * k + l][q];
        for (int l = 0; l < t; l++) input(t, d + l, 4, e + l);
        for (int k = 0; k < t; k++) input(t, e + 4 * k, 1, d + 4 * k);
        for (int k = 0; k < t; k++)
            for (int l = 0; l < t; l++) to[(t * k + l) * apart + q] = d[4 * k + l];
    }
}

INLINE void add_tile(int t, const Real* from, Int apart, Int c, Real* const* to)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real d[16], e[16];
        for (int k = 0; k < t; k++)
            for (int l = 0; l < t; l++) d[4 * k + l] = from[(t * k + l) * apart + q];
        for (int l = 0; l < t; l++) input_adjoint(t, d + l, 4, e + l);
        for (int k = 0; k < t; k++) input_adjoint(t, e + 4 * k, 1, d + 4 * k);
        for (int k = 0; k < t; k++)
            for (int l = 0; l < t; l++) to[4 * k + l][q] += d[4 * k + l];
    }
}

INLINE void put_tile(int t, const Real* from, Int apart, const Real* bias, Int c, Real* const* to)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real d[16], e[8], f[4];
        for (int k = 0; k < t; k++)
            for (int l = 0; l < t; l++) d[4 * k + l] = from[(t * k + l) * apart + q];
        for (int l = 0; l < t; l++) output(t, d + l, 4, e + l);
        for (int k = 0; k < 2; k++) output(t, e + 4 * k, 1, f + 2 * k);
        for (int k = 0; k < 4; k++) to[k][q] = f[k] + bias[q];
    }
}

INLINE void slope_of_tile(int t, Real* const* from, Int c, Real* to, Int apart)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real f[4], e[8], d[16];
        for (int k = 0; k < 4; k++) f[k] = from[k][q];
        for (int k = 0; k < 2; k++) output_adjoint(t, f + 2 * k, 1, e + 4 * k);
        for (int l = 0; l < t; l++) output_adjoint(t, e + l, 4, d + l);
        for (int k = 0; k < t; k++)
            for (int l = 0; l < t; l++) to[(t * k + l) * apart + q] = d[4 * k + l];
    }
}

// All tiles: what Python calls.  Inside, t is a constant.

#define OF_T(function, ...) (t == 4 ? function(4, __VA_ARGS__) : function(3, __VA_ARGS__))

void tiles(
    const Real* x, Int n, Int h, Int w, Int c, Int th, Int tw, Int s, Int ph, Int pw, Int t, Real* zeros, Real* out)
{
    Int blocks = tw * s * s, apart = n * th * blocks * c;
    SHARED(apart > 1 << 12)
    for (Int row = 0; row < n * th; row++)
        for (Int block = 0; block < blocks; block++) {
            Real* at[16];
            OF_T(pixels_of_tile, x + row / th * h * w * c, ((Size){n, h, w, c}), ((Tiles){th, tw, s, ph, pw}), row % th,
                 block / (s * s), block % (s * s), zeros, at);
            OF_T(tile, at, c, out + (row * blocks + block) * c, apart);
        }
}

void add_tiles(
    const Real* products, Int n, Int h, Int w, Int c, Int th, Int tw, Int s, Int ph, Int pw, Int t, Real* outside, Real* x)
{
    Int blocks = tw * s * s, apart = n * th * blocks * c;
    SHARED(apart > 1 << 12)
    for (Int m = 0; m < n; m++) {
        memset(x + m * h * w * c, 0, h * w * c * sizeof(Real));
        for (Int block = 0; block < th * blocks; block++) {
            Real* at[16];
            OF_T(pixels_of_tile, x + m * h * w * c, ((Size){n, h, w, c}), ((Tiles){th, tw, s, ph, pw}), block / blocks,
                 block % blocks / (s * s), block % (s * s), outside + m * c, at);
            OF_T(add_tile, products + (m * th * blocks + block) * c, apart, c, at);
        }
    }
}

void put_tiles(const Real* products, Int n, Int h, Int w, Int c, const Real* bias, Int t, Real* outside, Real* y)
{
    Int th = (h + 1) / 2, tw = (w + 1) / 2, apart = n * th * tw * c;
    SHARED(apart > 1 << 12)
    for (Int m = 0; m < n; m++)
        for (Int i = 0; i < th * tw; i++) {
            Real* at[4];
            for (int k = 0; k < 4; k++)
                at[k] = pixel(y + m * h * w * c, (Size){n, h, w, c}, i / tw * 2 + k / 2, i % tw * 2 + k % 2, outside + m * c);
            OF_T(put_tile, products + (m * th * tw + i) * c, apart, bias, c, at);
        }
}

void slopes_of_tiles(const Real* y, Int n, Int h, Int w, Int c, Int t, Real* zeros, Real* out)
{
    Int th = (h + 1) / 2, tw = (w + 1) / 2, apart = n * th * tw * c;
    SHARED(apart > 1 << 12)
    for (Int m = 0; m < n; m++)
        for (Int i = 0; i < th * tw; i++) {
            Real* at[4];
            for (int k = 0; k < 4; k++)
                at[k] = pixel(y + m * h * w * c, (Size){n, h, w, c}, i / tw * 2 + k / 2, i % tw * 2 + k % 2, zeros);
            OF_T(slope_of_tile, at, c, out + (m * th * tw + i) * c, apart);
        }
}

// Patches

typedef struct { Int oh, ow, kh, kw, sh, sw, ph, pw, dh, dw; } Places;

// The places of a line at which a tap is inside the image: from `first`, up to but not `end`; none in a line outside.
INLINE void inside(Places at, Size of, Int row, Int tap, Int* first, Int* end)
{
    Int before = at.pw - tap * at.dw, in = 0 <= row && row < of.h;
    *first = before > 0 ? least(at.ow, (before + at.sw - 1) / at.sw) : 0;
    *end = in && of.w + before > 0 ? most(*first, least(at.ow, (of.w + before + at.sw - 1) / at.sw)) : *first;
}

// A line of places, to or from: tap by tap, with c channels each.
INLINE void line_of_patches(Int c, const Real* image, Size of, Places at, Int i, Real* patches)
{
    for (Int tap = 0; tap < at.kh * at.kw; tap++) {
        Int row = i * at.sh + tap / at.kw * at.dh - at.ph, column = tap % at.kw * at.dw - at.pw, first, end;
        inside(at, of, row, tap % at.kw, &first, &end);
        const Real* from = image + (row * of.w + column) * c;
        Real* to = patches + tap * c;
        Int next = at.kh * at.kw * c, step = at.sw * c;
        for (Int j = 0; j < first; j++)
            for (Int q = 0; q < c; q++) to[j * next + q] = 0;
        for (Int j = first; j < end; j++)
            for (Int q = 0; q < c; q++) to[j * next + q] = from[j * step + q];
        for (Int j = end; j < at.ow; j++)
            for (Int q = 0; q < c; q++) to[j * next + q] = 0;
    }
}

INLINE void add_line_of_patches(Int c, const Real* patches, Size of, Places at, Int i, Real* image)
{
    for (Int tap = 0; tap < at.kh * at.kw; tap++) {
        Int row = i * at.sh + tap / at.kw * at.dh - at.ph, column = tap % at.kw * at.dw - at.pw, first, end;
        inside(at, of, row, tap % at.kw, &first, &end);
        const Real* from = patches + tap * c;
        Real* to = image + (row * of.w + column) * c;
        Int next = at.kh * at.kw * c, step = at.sw * c;
        for (Int j = first; j < end; j++)
#pragma GCC ivdep
            for (Int q = 0; q < c; q++) to[j * step + q] += from[j * next + q];
    }
}

// An image's own channels are few: known to the compiler, they are copied without a loop.
#define OF_C(function, ...) \
    (of.c == 1       ? function(1, __VA_ARGS__) \
         : of.c == 2 ? function(2, __VA_ARGS__) \
         : of.c == 3 ? function(3, __VA_ARGS__) \
                     : function(of.c, __VA_ARGS__))

static void patches_of(const Real* images, Size of, Places at, Real* patches)
{
    Int length = at.ow * at.kh * at.kw * of.c;
    SHARED(of.n * at.oh * length > 1 << 14)
    for (Int line = 0; line < of.n * at.oh; line++)
        OF_C(line_of_patches, images + line / at.oh * of.h * of.w * of.c, of, at, line % at.oh, patches + line * length);
}

static void add_patches_of(const Real* patches, Size of, Places at, Real* images)
{
    Int length = at.ow * at.kh * at.kw * of.c, size = of.h * of.w * of.c;
    SHARED(of.n * at.oh * length > 1 << 14)
    for (Int m = 0; m < of.n; m++) {
        memset(images + m * size, 0, size * sizeof(Real));
        for (Int i = 0; i < at.oh; i++)
            OF_C(add_line_of_patches, patches + (m * at.oh + i) * length, of, at, i, images + m * size);
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

void add_bias(const Real* bias, Int pixels, Int c, Real* y)
{
    SHARED(pixels * c > 1 << 14)
    for (Int i = 0; i < pixels; i++)
        for (Int q = 0; q < c; q++) y[i * c + q] += bias[q];
}
