// Convolution by Winograd's tiles and by im2col: see the functions of the same names in convolution.py.
//
// A thread takes a few images through all steps before the next ones, so that the result of one step is still in the
// core's cache for the next step.  The layout of images is (N, H, W, C).  Images are padded with zeros: pixels outside
// are read from a row of zeros and written to a row that is never read.  So loops over channels need no bounds checks.

#include "cpu/products.h"
#include "tiles.h"

// A tile in all channels.  `stride` is the distance between its t·t numbers, each of which is a row of c channels.

INLINE void tile(int t, Real* const* from, Int c, Real* to, Int stride)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real d[16];
        EACH_OF_TILE(t) d[4 * k + l] = from[4 * k + l][q];
        input_of_tile(t, d);
        EACH_OF_TILE(t) to[(t * k + l) * stride + q] = d[4 * k + l];
    }
}

INLINE void add_tile(int t, const Real* from, Int stride, Int c, Real* const* to)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real d[16];
        EACH_OF_TILE(t) d[4 * k + l] = from[(t * k + l) * stride + q];
        input_of_tile_adjoint(t, d);
        EACH_OF_TILE(t) to[4 * k + l][q] += d[4 * k + l];
    }
}

INLINE void put_tile(int t, const Real* from, Int stride, const Real* bias, Int c, Real* const* to)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real d[16];
        EACH_OF_TILE(t) d[4 * k + l] = from[(t * k + l) * stride + q];
        output_of_tile(t, d);
        for (int k = 0; k < 4; k++) to[k][q] = d[4 * (k / 2) + k % 2] + bias[q];
    }
}

INLINE void gradient_tile(int t, Real* const* from, Int c, Real* to, Int stride)
{
#pragma GCC ivdep
    for (Int q = 0; q < c; q++) {
        Real d[16];
        for (int k = 0; k < 4; k++) d[4 * (k / 2) + k % 2] = from[k][q];
        output_of_tile_adjoint(t, d);
        EACH_OF_TILE(t) to[(t * k + l) * stride + q] = d[4 * k + l];
    }
}

// The same for lines of tiles of several images.

typedef struct { Int first, count; } Lines;

#define OF_T(function, ...) (t == 4 ? function(4, __VA_ARGS__) : function(3, __VA_ARGS__))
#define EACH_LINE(of, lines) SHARED(1) for (Int line = 0; line < of.n * lines.count; line++)
#define IMAGE(lines) (line / lines.count)
#define PLACE(lines) (lines.first + line % lines.count)

static void tiles(const Real* x, Size of, Tiles in, Int t, Lines lines, const Real* zeros, Real* out)
{
    Int blocks = in.tw * in.s * in.s, stride = of.n * lines.count * blocks * of.c;
    EACH_LINE(of, lines)
    for (Int block = 0; block < blocks; block++) {
        Real* at[16];
        OF_T(pixels_of_tile, x + IMAGE(lines) * of.h * of.w * of.c, of, in, PLACE(lines), block / (in.s * in.s),
             block % (in.s * in.s), zeros, at);
        OF_T(tile, at, of.c, out + (line * blocks + block) * of.c, stride);
    }
}

// Lines of tiles overlap, so the parallel loop is over images.  Each image has its own row for pixels outside.
static void add_tiles(const Real* products, Size of, Tiles in, Int t, Lines lines, Real* outside, Real* x)
{
    Int blocks = in.tw * in.s * in.s, stride = of.n * lines.count * blocks * of.c;
    SHARED(of.n > 1)
    for (Int m = 0; m < of.n; m++)
        for (Int block = 0; block < lines.count * blocks; block++) {
            Real* at[16];
            OF_T(pixels_of_tile, x + m * of.h * of.w * of.c, of, in, lines.first + block / blocks,
                 block % blocks / (in.s * in.s), block % (in.s * in.s), outside + m * of.c, at);
            OF_T(add_tile, products + (m * lines.count * blocks + block) * of.c, stride, of.c, at);
        }
}

static void put_tiles(
    const Real* products, Size of, Tiles in, Int t, Lines lines, const Real* bias, Real* outside, Real* y)
{
    Int stride = of.n * lines.count * in.tw * of.c;
    EACH_LINE(of, lines)
    for (Int j = 0; j < in.tw; j++) {
        Real* at[4];
        outputs_of_tile(y + IMAGE(lines) * of.h * of.w * of.c, of, PLACE(lines), j, outside + line * of.c, at);
        OF_T(put_tile, products + (line * in.tw + j) * of.c, stride, bias, of.c, at);
    }
}

static void gradient_tiles(const Real* y, Size of, Tiles in, Int t, Lines lines, const Real* zeros, Real* out)
{
    Int stride = of.n * lines.count * in.tw * of.c;
    EACH_LINE(of, lines)
    for (Int j = 0; j < in.tw; j++) {
        Real* at[4];
        outputs_of_tile(y + IMAGE(lines) * of.h * of.w * of.c, of, PLACE(lines), j, zeros, at);
        OF_T(gradient_tile, at, of.c, out + (line * in.tw + j) * of.c, stride);
    }
}

// im2col and col2im for lines of several images

typedef struct { Int kh, kw, sh, sw, ph, pw, dh, dw; } Places;

// The positions of a line at which the kernel's column `tap` is inside the image: first <= j < end; none if `row` is
// outside.
INLINE void inside(Places at, Size of, Int ow, Int row, Int tap, Int* first, Int* end)
{
    Int before = at.pw - tap * at.dw, in = 0 <= row && row < of.h;
    *first = before > 0 ? least(ow, (before + at.sw - 1) / at.sw) : 0;
    *end = in && of.w + before > 0 ? most(*first, least(ow, (of.w + before + at.sw - 1) / at.sw)) : *first;
}

// The patches of a line of positions: for each position, the c channels of each kernel element.
INLINE void line_of_patches(Int c, const Real* image, Size of, Places at, Int ow, Int i, Real* patches)
{
    for (Int tap = 0; tap < at.kh * at.kw; tap++) {
        Int row = i * at.sh + tap / at.kw * at.dh - at.ph, column = tap % at.kw * at.dw - at.pw, first, end;
        inside(at, of, ow, row, tap % at.kw, &first, &end);
        const Real* from = image + (row * of.w + column) * c;
        Real* to = patches + tap * c;
        Int next = at.kh * at.kw * c, step = at.sw * c;
        for (Int j = 0; j < first; j++)
            for (Int q = 0; q < c; q++) to[j * next + q] = 0;
        for (Int j = first; j < end; j++)
            for (Int q = 0; q < c; q++) to[j * next + q] = from[j * step + q];
        for (Int j = end; j < ow; j++)
            for (Int q = 0; q < c; q++) to[j * next + q] = 0;
    }
}

INLINE void add_line_of_patches(Int c, const Real* patches, Size of, Places at, Int ow, Int i, Real* image)
{
    for (Int tap = 0; tap < at.kh * at.kw; tap++) {
        Int row = i * at.sh + tap / at.kw * at.dh - at.ph, column = tap % at.kw * at.dw - at.pw, first, end;
        inside(at, of, ow, row, tap % at.kw, &first, &end);
        const Real* from = patches + tap * c;
        Real* to = image + (row * of.w + column) * c;
        Int next = at.kh * at.kw * c, step = at.sw * c;
        for (Int j = first; j < end; j++)
#pragma GCC ivdep
            for (Int q = 0; q < c; q++) to[j * step + q] += from[j * next + q];
    }
}

// Colour images have few channels: as a compile-time constant, the inner loop is unrolled.
#define OF_C(function, ...) \
    (of.c == 1       ? function(1, __VA_ARGS__) \
         : of.c == 2 ? function(2, __VA_ARGS__) \
         : of.c == 3 ? function(3, __VA_ARGS__) \
                     : function(of.c, __VA_ARGS__))

static void patches(const Real* x, Size of, Places at, Int ow, Lines lines, Real* out)
{
    Int length = ow * at.kh * at.kw * of.c;
    EACH_LINE(of, lines)
    OF_C(line_of_patches, x + IMAGE(lines) * of.h * of.w * of.c, of, at, ow, PLACE(lines), out + line * length);
}

static void add_patches(const Real* patches, Size of, Places at, Int ow, Lines lines, Real* x)
{
    Int length = ow * at.kh * at.kw * of.c;
    SHARED(of.n > 1)
    for (Int m = 0; m < of.n; m++)
        for (Int i = 0; i < lines.count; i++)
            OF_C(add_line_of_patches, patches + (m * lines.count + i) * length, of, at, ow, lines.first + i,
                 x + m * of.h * of.w * of.c);
}

// The functions that Python calls, with x (n, h, w, c) and y (n, oh, ow, o).  The images are split into groups, which
// run in parallel; the loops of a single group do.  A group processes its images in chunks.  It has its own memory and
// its own sum of the kernel's gradients, so results do not depend on the number of threads.

typedef struct {
    Int n, h, w, c, oh, ow, o;
    Int images, lines, groups, memory;  // images and lines per chunk; number of groups; elements of a group's memory
    Piece forward, back, weight;        // of products: with the kernel, with its transpose, for its gradient
    union { struct { Tiles tiles; Int t; }; Places places; };
} Job;

static Int begin(const Job* is, Int group)
{
    Int chunks = (is->n + is->images - 1) / is->images;
    return least(is->n, chunks * group / is->groups * is->images);
}

#define EACH_CHUNK(is)                                                                                           \
    for (Int from = begin(&is, group), end = begin(&is, group + 1), n = least(is.images, end - from); from < end; \
         from += n, n = least(is.images, end - from))
#define EACH_PART(is, all) \
    for (Lines lines = {0, least(is.lines, all)}; lines.first < all; \
         lines.first += is.lines, lines.count = least(is.lines, all - lines.first))

// The row of zeros near the end of a group's memory.  After it, each line has a row for pixels outside.
static Real* zeros_in(const Job* is, Real* memory)
{
    Int row = most(is->c, is->o);
    return memset(memory + is->memory - (1 + is->images * is->lines) * row, 0, row * sizeof(Real));
}

// If kernels G g (t², C, O) are given, out = Aᵀ [(G g) (Bᵀ x)] + bias.  If y is given, gradients = Σ (A y)ᵀ (Bᵀ x).
static void group_of_winograd(
    const Real* x, const Real* y, const Real* kernels, const Real* bias, Real* out, Real* gradients, Real* memory,
    Int gemm, Job is, Int group)
{
    Tiles in = is.tiles;
    Int t = is.t, channels = in.s * in.s * is.c, size = t * t * is.o * channels;
    Real *zeros = zeros_in(&is, memory), *outside = zeros + most(is.c, is.o);
    EACH_CHUNK(is)
    EACH_PART(is, in.th)
    {
        Int rows = n * lines.count * in.tw, at_y = from * is.oh * is.ow * is.o;
        int more = from > begin(&is, group) || lines.first > 0;
        Real *of_x = memory, *products = of_x + t * t * rows * channels;
        Size of_y = {n, is.oh, is.ow, is.o};
        tiles(x + from * is.h * is.w * is.c, (Size){n, is.h, is.w, is.c}, in, t, lines, zeros, of_x);
        if (kernels) {
            multiply(gemm, t * t, 0, 0, rows, is.o, channels, is.forward, of_x, kernels, 0, products);
            put_tiles(products, of_y, in, t, lines, bias ? bias : zeros, outside, out + at_y);
        }
        if (y) {
            gradient_tiles(y + at_y, of_y, in, t, lines, zeros, products);
            Real* sums = gradients + group * size;
            multiply(gemm, t * t, 1, 0, is.o, channels, rows, is.weight, products, of_x, more, sums);
        }
    }
}

void winograd(
    const Real* x, const Real* y, const Real* kernels, const Real* bias, Real* out, Real* gradients, Real* memory,
    Int gemm, const Job* job)
{
    const Job is = *job;
    Int size = is.t * is.t * is.o * is.tiles.s * is.tiles.s * is.c;
    EACH_GROUP(is, group_of_winograd(
                       x, y, kernels, bias, out, gradients, memory + group * is.memory, gemm, is, group));
    if (y && is.groups > 1) add_groups(is.groups, size, gradients, gradients);
}

// out = B [(G g) (A y)] with kernels G g (t², O, C).  If x is given, gradients = Σ (A y)ᵀ (Bᵀ x).
static void group_of_winograd_adjoint(
    const Real* y, const Real* x, const Real* kernels, Real* out, Real* gradients, Real* memory, Int gemm, Job is,
    Int group)
{
    Tiles in = is.tiles;
    Int t = is.t, channels = in.s * in.s * is.c, size = t * t * is.o * channels, image = is.h * is.w * is.c;
    Real *zeros = zeros_in(&is, memory), *outside = zeros + most(is.c, is.o);
    EACH_CHUNK(is)
    {
        memset(out + from * image, 0, n * image * sizeof(Real));
        EACH_PART(is, in.th)
        {
            Int rows = n * lines.count * in.tw;
            int more = from > begin(&is, group) || lines.first > 0;
            Real *of_y = memory, *products = of_y + t * t * rows * is.o;
            Size of_x = {n, is.h, is.w, is.c};
            Size of_out = {n, is.oh, is.ow, is.o};
            gradient_tiles(y + from * is.oh * is.ow * is.o, of_out, in, t, lines, zeros, of_y);
            multiply(gemm, t * t, 0, 0, rows, channels, is.o, is.back, of_y, kernels, 0, products);
            add_tiles(products, of_x, in, t, lines, outside, out + from * image);
            if (x) {
                tiles(x + from * image, of_x, in, t, lines, zeros, products);
                Real* sums = gradients + group * size;
                multiply(gemm, t * t, 1, 0, is.o, channels, rows, is.weight, of_y, products, more, sums);
            }
        }
    }
}

void winograd_adjoint(
    const Real* y, const Real* x, const Real* kernels, Real* out, Real* gradients, Real* memory, Int gemm, const Job* job)
{
    const Job is = *job;
    Int size = is.t * is.t * is.o * is.tiles.s * is.tiles.s * is.c;
    EACH_GROUP(is, group_of_winograd_adjoint(
                       y, x, kernels, out, gradients, memory + group * is.memory, gemm, is, group));
    if (x && is.groups > 1) add_groups(is.groups, size, gradients, gradients);
}

// If a kernel (KH·KW·C, O) is given, out = (patches of x) times the kernel, + bias.  If y is given,
// gradients = Σ yᵀ (patches of x).
static void group_of_im2col(
    const Real* x, const Real* y, const Real* kernel, const Real* bias, Real* out, Real* gradients, Real* memory,
    Int gemm, Job is, Int group)
{
    Places at = is.places;
    Int row = at.kh * at.kw * is.c;
    int as_it_is = row == is.c && at.sh * at.sw == 1 && !at.ph && !at.pw && is.oh == is.h && is.ow == is.w;
    EACH_CHUNK(is)
    EACH_PART(is, is.oh)
    {
        Int rows = n * lines.count * is.ow, at_y = (from * is.oh + lines.first) * is.ow * is.o;
        int more = from > begin(&is, group) || lines.first > 0;
        const Real* images = x + from * is.h * is.w * is.c;
        const Real* of_x = as_it_is ? images + lines.first * is.w * is.c : memory;
        if (!as_it_is) patches(images, (Size){n, is.h, is.w, is.c}, at, is.ow, lines, memory);
        if (kernel) {
            multiply(gemm, 1, 0, 0, rows, is.o, row, is.forward, of_x, kernel, 0, out + at_y);
            if (bias) add_bias(bias, rows, is.o, out + at_y);
        }
        if (y) multiply(gemm, 1, 1, 0, is.o, row, rows, is.weight, y + at_y, of_x, more, gradients + group * is.o * row);
    }
}

void im2col(
    const Real* x, const Real* y, const Real* kernel, const Real* bias, Real* out, Real* gradients, Real* memory,
    Int gemm, const Job* job)
{
    const Job is = *job;
    Int size = is.o * is.places.kh * is.places.kw * is.c;
    EACH_GROUP(is, group_of_im2col(
                       x, y, kernel, bias, out, gradients, memory + group * is.memory, gemm, is, group));
    if (y && is.groups > 1) add_groups(is.groups, size, gradients, gradients);
}

// out = the patches y times the kernel (O, KH·KW·C), summed where they overlap, + bias.
static void group_of_col2im(
    const Real* y, const Real* kernel, const Real* bias, Real* out, Real* memory, Int gemm, Job is, Int group)
{
    Places at = is.places;
    Int row = at.kh * at.kw * is.c, image = is.h * is.w * is.c;
    EACH_CHUNK(is)
    {
        memset(out + from * image, 0, n * image * sizeof(Real));
        EACH_PART(is, is.oh)
        {
            const Real* of_y = y + (from * is.oh + lines.first) * is.ow * is.o;
            multiply(gemm, 1, 0, 0, n * lines.count * is.ow, row, is.o, is.back, of_y, kernel, 0, memory);
            add_patches(memory, (Size){n, is.h, is.w, is.c}, at, is.ow, lines, out + from * image);
        }
        if (bias) add_bias(bias, n * is.h * is.w, is.c, out + from * image);
    }
}

void col2im(
    const Real* y, const Real* kernel, const Real* bias, Real* out, Real* memory, Int gemm, const Job* job)
{
    const Job is = *job;
    EACH_GROUP(is, group_of_col2im(y, kernel, bias, out, memory + group * is.memory, gemm, is, group));
}
