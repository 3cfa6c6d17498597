// Winograd's tiles, for C and for CUDA: F(2×2, r×r) with r = 3 and 2, t = r + 1; see TILINGS in winograd.py.
//
// The layout of images is (N, H, W, C).  A tile has t×t blocks of s×s pixels; neighbouring tiles are two blocks apart.
// The functions below process one channel and one of the s² pixels of each block: t×t numbers, in an array with rows
// of 4.  t is a compile-time constant in every call.

typedef struct { Int n, h, w, c; } Size;
typedef struct { Int th, tw, s, ph, pw; } Tiles;

#define EACH_OF_TILE(t) for (int k = 0; k < t; k++) for (int l = 0; l < t; l++)

INLINE Real* pixel(const Real* x, Size of, Int row, Int column, const Real* outside)
{
    int inside = 0 <= row && row < of.h && 0 <= column && column < of.w;
    return (Real*)(inside ? x + (row * of.w + column) * of.c : outside);
}

// Pointers to the t×t pixels of the tile (i, j): in each block, the pixel number `place` of s×s.
INLINE void pixels_of_tile(
    int t, const Real* x, Size of, Tiles in, Int i, Int j, Int place, const Real* outside, Real** at)
{
    Int row = in.s * 2 * i + place / in.s - in.ph, column = in.s * 2 * j + place % in.s - in.pw;
    EACH_OF_TILE(t) at[4 * k + l] = pixel(x, of, row + in.s * k, column + in.s * l, outside);
}

// Pointers to the 2×2 output pixels of the tile (i, j).
INLINE void outputs_of_tile(const Real* y, Size of, Int i, Int j, const Real* outside, Real** at)
{
    for (int k = 0; k < 4; k++) at[k] = pixel(y, of, 2 * i + k / 2, 2 * j + k % 2, outside);
}

// Along one axis, with stride `step`.

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

// The same in two dimensions, in place: input t×t to t×t, output t×t to 2×2, and their adjoints.

INLINE void input_of_tile(int t, Real* d)
{
    for (int l = 0; l < t; l++) input(t, d + l, 4, d + l);
    for (int k = 0; k < t; k++) input(t, d + 4 * k, 1, d + 4 * k);
}

INLINE void input_of_tile_adjoint(int t, Real* d)
{
    for (int l = 0; l < t; l++) input_adjoint(t, d + l, 4, d + l);
    for (int k = 0; k < t; k++) input_adjoint(t, d + 4 * k, 1, d + 4 * k);
}

INLINE void output_of_tile(int t, Real* d)
{
    for (int l = 0; l < t; l++) output(t, d + l, 4, d + l);
    for (int k = 0; k < 2; k++) output(t, d + 4 * k, 1, d + 4 * k);
}

INLINE void output_of_tile_adjoint(int t, Real* d)
{
    for (int k = 0; k < 2; k++) output_adjoint(t, d + 4 * k, 1, d + 4 * k);
    for (int l = 0; l < t; l++) output_adjoint(t, d + l, 4, d + l);
}
