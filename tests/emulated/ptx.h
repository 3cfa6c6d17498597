// What PTX's instructions do, a function each, in the names of the PTX ISA with `_` for `.`; and a launch of a kernel.
//
// A register is an unsigned number of its width: `get<T>` and `put<T>` look at its bits as T.  Arithmetic wraps around
// (-fwrapv) and rounds to nearest.  Numbers that are too small for a normal one stay what they are (`.ftz` does nothing),
// and what is approximate on a GPU is the host's.
#include <fenv.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <type_traits>
#include <unordered_map>
#include <utility>

typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
typedef int8_t s8; typedef int16_t s16; typedef int32_t s32; typedef int64_t s64;
typedef float f32; typedef double f64; typedef u8 b8; typedef u16 b16; typedef u32 b32; typedef u64 b64;
typedef unsigned __int128 u128; typedef __int128 s128;
struct f16 { u16 bits; operator f32() const { _Float16 x; memcpy(&x, &bits, 2); return x; } };

#define FOR(T) template <class T> static inline
template <class T> using Unsigned = std::make_unsigned_t<T>;
template <class T> struct Wide_ { typedef std::conditional_t<std::is_signed_v<T>, s128, u128> type; };
template <> struct Wide_<u16> { typedef u32 type; }; template <> struct Wide_<s16> { typedef s32 type; };
template <> struct Wide_<u32> { typedef u64 type; }; template <> struct Wide_<s32> { typedef s64 type; };
template <class T> using Wide = typename Wide_<T>::type;
template <class T> constexpr unsigned BITS = 8 * sizeof(T);

template <class T, class R> static inline T get(R r)
{
    if constexpr (std::is_integral_v<T>) return T(r);
    else { T v; memcpy(&v, &r, sizeof v); return v; }
}
template <class T, class R> static inline void put(R& r, T v)
{
    if constexpr (std::is_integral_v<T>) r = R(v);
    else { r = 0; memcpy(&r, &v, sizeof v); }
}
FOR(T) T load(const char* p) { T v; memcpy(&v, p, sizeof v); return v; }
FOR(T) void store(char* p, T v) { memcpy(p, &v, sizeof v); }

// Where a thread is, and what its block shares
static Place tid, ntid, ctaid, nctaid;
static char* shared;  // addresses in shared memory count from here
static size_t shared_bytes;
static u32 carry;     // of the thread that is running: it does not rest between what sets it and what reads it
static const char* broken;  // what has gone wrong, for the host

static void stop(const char* why) { if (!broken) broken = why; }
static u32 thread_number() { return tid.x + ntid.x * (tid.y + ntid.y * tid.z); }
static u32 laneid() { return thread_number() & 31; }

// Races: two threads come to the same byte, one of them to write, with no barrier of theirs between.  Whoever is the
// first here need not be on a GPU.  Only if the host asks: it takes long.
enum How { READ, WRITE, ATOMIC, OWN };  // OWN: memory that no other thread has
extern "C" { int watching; unsigned long long executed, moved; }  // and instructions, and bytes of the device's memory
struct Access { u32 block, thread, barriers, of_warp; };
struct Seen { Access write, read; bool written, atomic, been_read, by_threads, by_blocks; };
static std::unordered_map<const char*, Seen> seen, seen_in_block;  // since the launch; in shared memory
static u32 block_number, barriers;   // the block, and how many barriers it has passed
static std::vector<u32> of_warp;     // how many `bar.warp.sync` each thread has passed

static bool meet(Access a, Access b)
{
    if (a.block != b.block) return true;
    bool in_order = a.barriers != b.barriers || (a.thread / 32 == b.thread / 32 && a.of_warp != b.of_warp);
    return a.thread != b.thread && !in_order;
}
static void watch(const char* p, size_t bytes, How how)
{
    Access now = {block_number, thread_number(), barriers, of_warp.empty() ? 0 : of_warp[thread_number()]};
    auto& all = shared <= p && p < shared + shared_bytes ? seen_in_block : seen;
    for (size_t i = 0; i < bytes; i++) {
        Seen& s = all[p + i];
        bool race = s.written && !(how == ATOMIC && s.atomic) && meet(s.write, now);
        if (how != READ && s.been_read)
            race = race || s.by_blocks || meet(s.read, now) || (s.by_threads && s.read.barriers == now.barriers);
        if (race) stop("a race: two threads at the same place, one of them writing, with no barrier between");
        if (how == READ) {
            bool later = !s.been_read || s.read.barriers != now.barriers;
            s.by_blocks = s.by_blocks || (s.been_read && s.read.block != now.block);
            s.by_threads = !later && (s.by_threads || s.read.thread != now.thread);
            s.been_read = true, s.read = now;
        } else s = {now, {}, true, how == ATOMIC, false, false, false};
    }
}
static char* global(u64 address, size_t bytes, How how)
{
    char* p = reinterpret_cast<char*>(address);
    if (how != OWN) moved += how == ATOMIC ? 2 * bytes : bytes;
    if (watching && how != OWN) watch(p, bytes, how);
    return p;
}
static char* in_shared(u64 at, size_t bytes, How how)
{
    static char nowhere[64];
    if (at + bytes > shared_bytes) {
        stop("outside of shared memory");
        return nowhere;
    }
    if (watching) watch(shared + at, bytes, how);
    return shared + at;
}

// Arithmetic
FOR(T) T add(T a, T b) { return a + b; }
FOR(T) T sub(T a, T b) { return a - b; }
FOR(T) T mul(T a, T b) { return a * b; }
FOR(T) T mul_lo(T a, T b) { return T(u64(a) * u64(b)); }
FOR(T) T mul_hi(T a, T b) { return T(Wide<T>(a) * b >> BITS<T>); }
FOR(T) Wide<T> mul_wide(T a, T b) { return Wide<T>(a) * b; }
FOR(T) T mad_lo(T a, T b, T c) { return T(mul_lo(a, b) + c); }
FOR(T) T mad_hi(T a, T b, T c) { return T(mul_hi(a, b) + c); }
FOR(T) Wide<T> mad_wide(T a, T b, Wide<T> c) { return Wide<T>(a) * b + c; }
static inline f32 fma_(f32 a, f32 b, f32 c) { return fmaf(a, b, c); }
static inline f64 fma_(f64 a, f64 b, f64 c) { return fma(a, b, c); }
FOR(T) T mad(T a, T b, T c) { return fma_(a, b, c); }
template <class F> static auto rounded(int how, F f)
{
    int before = fegetround();
    fesetround(how);
    volatile auto r = f();
    fesetround(before);
    return r;
}
#define DIRECTED(name, how) \
    FOR(T) T add_##name(T a, T b) { volatile T x = a, y = b; return rounded(how, [&] { return x + y; }); } \
    FOR(T) T mul_##name(T a, T b) { volatile T x = a, y = b; return rounded(how, [&] { return x * y; }); } \
    FOR(T) T fma_##name(T a, T b, T c) \
    { volatile T x = a, y = b, z = c; return rounded(how, [&] { return fma_(x, y, z); }); }
DIRECTED(rz, FE_TOWARDZERO) DIRECTED(rm, FE_DOWNWARD) DIRECTED(rp, FE_UPWARD)
FOR(T) T div_(T a, T b)
{
    if constexpr (std::is_floating_point_v<T>) return a / b;
    else if (!b) return T(-1);
    else return std::is_signed_v<T> && b == T(-1) ? T(-a) : T(a / b);
}
FOR(T) T rem_(T a, T b) { return !b ? a : std::is_signed_v<T> && b == T(-1) ? T(0) : T(a % b); }
FOR(T) T abs_(T a) { if constexpr (std::is_floating_point_v<T>) return fabs(a); else return a < 0 ? -a : a; }
FOR(T) T neg(T a) { return -a; }
FOR(T) T min_(T a, T b) { if constexpr (std::is_floating_point_v<T>) return fmin(a, b); else return a < b ? a : b; }
FOR(T) T max_(T a, T b) { if constexpr (std::is_floating_point_v<T>) return fmax(a, b); else return a > b ? a : b; }
FOR(T) T min_NaN(T a, T b) { return a != a || b != b ? T(NAN) : min_(a, b); }
FOR(T) T max_NaN(T a, T b) { return a != a || b != b ? T(NAN) : max_(a, b); }
FOR(T) T rcp(T a) { return T(1) / a; }
FOR(T) T sqrt_(T a) { return sqrt(a); }
FOR(T) T rsqrt(T a) { return T(1) / sqrt_(a); }
FOR(T) T ex2(T a) { return exp2(a); }
FOR(T) T lg2(T a) { return log2(a); }
FOR(T) T sin_(T a) { return sin(a); }
FOR(T) T cos_(T a) { return cos(a); }
FOR(T) T tanh_(T a) { return tanh(a); }
FOR(T) T copysign_(T a, T b) { return copysign(b, a); }
FOR(T) T saturated(T a) { return a != a || a < 0 ? T(0) : a > 1 ? T(1) : a; }

// With a carry
FOR(T) T with_carry(u128 sum, bool keep) { if (keep) carry = u32(sum >> BITS<T> & 1); return T(sum); }
FOR(T) T add_cc(T a, T b) { return with_carry<T>(u128(Unsigned<T>(a)) + Unsigned<T>(b), true); }
FOR(T) T addc(T a, T b) { return with_carry<T>(u128(Unsigned<T>(a)) + Unsigned<T>(b) + carry, false); }
FOR(T) T addc_cc(T a, T b) { return with_carry<T>(u128(Unsigned<T>(a)) + Unsigned<T>(b) + carry, true); }
FOR(T) T sub_cc(T a, T b) { return with_carry<T>(u128(Unsigned<T>(a)) - Unsigned<T>(b), true); }
FOR(T) T subc(T a, T b) { return with_carry<T>(u128(Unsigned<T>(a)) - Unsigned<T>(b) - carry, false); }
FOR(T) T subc_cc(T a, T b) { return with_carry<T>(u128(Unsigned<T>(a)) - Unsigned<T>(b) - carry, true); }
FOR(T) T mad_lo_cc(T a, T b, T c) { return add_cc(mul_lo(a, b), c); }
FOR(T) T mad_hi_cc(T a, T b, T c) { return add_cc(mul_hi(a, b), c); }
FOR(T) T madc_lo(T a, T b, T c) { return addc(mul_lo(a, b), c); }
FOR(T) T madc_hi(T a, T b, T c) { return addc(mul_hi(a, b), c); }
FOR(T) T madc_lo_cc(T a, T b, T c) { return addc_cc(mul_lo(a, b), c); }
FOR(T) T madc_hi_cc(T a, T b, T c) { return addc_cc(mul_hi(a, b), c); }

// Bits
FOR(T) T and_(T a, T b) { return a & b; }
FOR(T) T or_(T a, T b) { return a | b; }
FOR(T) T xor_(T a, T b) { return a ^ b; }
FOR(T) T not_(T a) { return std::is_same_v<T, bool> ? T(!a) : T(~a); }
FOR(T) T shl(T a, u32 n) { return n >= BITS<T> ? T(0) : T(Unsigned<T>(a) << n); }
FOR(T) T shr(T a, u32 n) { return n >= BITS<T> ? T(a < 0 ? -1 : 0) : T(a >> n); }
FOR(T) u32 shf_l(u32 low, u32 high, u32 n) { return u32(((u64(high) << 32 | low) << n) >> 32); }
FOR(T) u32 shf_r(u32 low, u32 high, u32 n) { return u32((u64(high) << 32 | low) >> n); }
FOR(T) u32 shf_l_wrap(u32 low, u32 high, u32 n) { return shf_l<T>(low, high, n & 31); }
FOR(T) u32 shf_r_wrap(u32 low, u32 high, u32 n) { return shf_r<T>(low, high, n & 31); }
FOR(T) u32 shf_l_clamp(u32 low, u32 high, u32 n) { return n > 31 ? low : shf_l<T>(low, high, n); }
FOR(T) u32 shf_r_clamp(u32 low, u32 high, u32 n) { return n > 31 ? high : shf_r<T>(low, high, n); }
FOR(T) u32 popc(T a) { return __builtin_popcountll(a); }
FOR(T) u32 clz(T a) { return a ? __builtin_clzll(a) - (64 - BITS<T>) : BITS<T>; }
FOR(T) u32 bfind_shiftamt(T a) { return a ? clz(a) : u32(-1); }
FOR(T) T brev(T a) { T r = 0; for (unsigned i = 0; i < BITS<T>; i++) r |= (a >> i & 1) << (BITS<T> - 1 - i); return r; }
FOR(T) T ones(u32 n) { return n >= BITS<T> ? T(-1) : T((u64(1) << n) - 1); }
FOR(T) T bfe(T a, u32 at, u32 n)
{
    at &= 255, n &= 255;
    if (!n) return 0;
    Unsigned<T> r = at >= BITS<T> ? 0 : Unsigned<T>(a) >> at;
    u32 last = at + n - 1 < BITS<T> ? at + n - 1 : BITS<T> - 1;
    bool sign = std::is_signed_v<T> && (u64(a) >> last & 1);
    Unsigned<T> mask = ones<Unsigned<T>>(at >= BITS<T> ? 0 : last - at + 1);
    return T(sign ? r | ~mask : r & mask);
}
FOR(T) T bfi(T a, T b, u32 at, u32 n)
{
    at &= 255, n &= 255;
    if (at >= BITS<T>) return b;
    T mask = ones<T>(n) << at;
    return (b & ~mask) | (a << at & mask);
}
FOR(T) u32 prmt(u32 a, u32 b, u32 which)
{
    u64 bytes = u64(b) << 32 | a;
    u32 r = 0;
    for (int i = 0; i < 4; i++) {
        u32 c = which >> 4 * i & 15, byte = bytes >> 8 * (c & 7) & 255;
        r |= (c & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * i;
    }
    return r;
}
FOR(T) T lop3(T a, T b, T c, u32 table)
{
    T r = 0;
    for (int i = 0; i < 8; i++)
        if (table >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return r;
}

// Comparisons; those that end in u are true of a NaN
FOR(T) bool nan(T a, T b) { return a != a || b != b; }
FOR(T) bool num(T a, T b) { return !nan(a, b); }
FOR(T) bool eq(T a, T b) { return a == b; }
FOR(T) bool ne(T a, T b) { return a != b && !nan(a, b); }
FOR(T) bool lt(T a, T b) { return a < b; }
FOR(T) bool le(T a, T b) { return a <= b; }
FOR(T) bool gt(T a, T b) { return a > b; }
FOR(T) bool ge(T a, T b) { return a >= b; }
FOR(T) bool equ(T a, T b) { return a == b || nan(a, b); }
FOR(T) bool neu(T a, T b) { return a != b; }
FOR(T) bool ltu(T a, T b) { return a < b || nan(a, b); }
FOR(T) bool leu(T a, T b) { return a <= b || nan(a, b); }
FOR(T) bool gtu(T a, T b) { return a > b || nan(a, b); }
FOR(T) bool geu(T a, T b) { return a >= b || nan(a, b); }
FOR(T) bool infinite(T a) { return fabs(a) == T(INFINITY); }
FOR(T) bool finite_(T a) { return fabs(a) < T(INFINITY); }
FOR(T) bool notanumber(T a) { return a != a; }
FOR(T) bool number(T a) { return a == a; }
FOR(T) T selp(T a, T b, bool which) { return which ? a : b; }

// Conversions: to T from S.  A number that T does not have becomes the nearest that it has; NaN becomes 0.
template <class T, class S> static inline T clamped(S v)
{
    if (v != v) return 0;
    T least = std::is_signed_v<T> ? T(u64(1) << (BITS<T> - 1)) : T(0), most = T(~least);
    return f64(v) <= f64(least) ? least : f64(v) >= ldexp(1.0, BITS<T> - std::is_signed_v<T>) ? most : T(v);
}
template <class T, class S> static inline T cvt(S v) { return T(v); }
template <> inline f16 cvt<f16, f32>(f32 v) { _Float16 x = v; f16 r; memcpy(&r.bits, &x, 2); return r; }
#define ROUNDING(name, function) \
    template <class T, class S> static inline T cvt_##name(S v) \
    { if constexpr (std::is_integral_v<T>) return clamped<T, S>(function(v)); else return T(function(v)); }
ROUNDING(rni, nearbyint) ROUNDING(rzi, trunc) ROUNDING(rmi, floor) ROUNDING(rpi, ceil)

// Threads that wait for each other: all of a block, or some of a warp
enum { RUNS, AT_BARRIER, AT_WARP_SYNC };
struct Waiting { int at; u32 members; };
static std::vector<Waiting> waiting;
static std::vector<u32> lanes;  // what each thread shows the others of its warp

static void wait(int at, u32 members)
{
    Place mine = tid;
    waiting[current] = {at, members};
    rest();
    tid = mine;
}
static void sync_warp(u32 members) { wait(AT_WARP_SYNC, members); of_warp[current]++; }
static u32 shfl(char mode, u32 value, u32 b, u32 c, u32 members, bool& within)
{
    size_t warp = current & ~size_t(31);
    b &= 31;
    u32 lane = laneid(), clamp = c & 31, segment = c >> 8 & 31, first = lane & segment, last = first | (clamp & ~segment);
    u32 from = mode == 'u' ? lane - b : mode == 'd' ? lane + b : mode == 'b' ? lane ^ b : first | (b & ~segment);
    within = mode == 'u' ? s32(from) >= s32(last) : s32(from) <= s32(last);
    lanes[current] = value;
    wait(AT_WARP_SYNC, members);
    u32 found = lanes[warp + (within ? from : lane)];
    wait(AT_WARP_SYNC, members);
    return found;
}
static u32 ballot(bool value, u32 members)
{
    size_t warp = current & ~size_t(31);
    u32 found = 0;
    lanes[current] = value;
    wait(AT_WARP_SYNC, members);
    for (size_t i = 0; i < 32; i++)
        if ((members >> i & 1) && warp + i < ended.size() && !ended[warp + i] && lanes[warp + i]) found |= 1u << i;
    wait(AT_WARP_SYNC, members);
    return found;
}

// Threads of a warp go on once all whom they wait for have come or ended; true if any could.
static bool warps_go_on(size_t threads)
{
    bool any = false;
    for (size_t i = 0; i < threads; i++) {
        size_t warp = i & ~size_t(31);
        u32 members = waiting[i].members;
        bool all = !ended[i] && waiting[i].at == AT_WARP_SYNC;
        auto is_member = [&](size_t j) { return j < threads && (members >> (j - warp) & 1) && !ended[j]; };
        for (size_t j = warp; all && j < warp + 32; j++)
            all = !is_member(j) || (waiting[j].at == AT_WARP_SYNC && waiting[j].members == members);
        for (size_t j = warp; all && j < warp + 32; j++)
            if (is_member(j)) waiting[j].at = RUNS;
        any = any || all;
    }
    return any;
}

// A barrier opens when all threads of the block have come to it or ended.
static void run_block(size_t threads)
{
    ended.assign(threads, 0);
    waiting.assign(threads, {RUNS, 0});
    lanes.assign(threads + 32, 0);
    of_warp.assign(threads, 0);
    for (;;) {
        for (current = 0; current < threads; current++)
            if (!ended[current] && waiting[current].at == RUNS) {
                tid = place(current, ntid);
                go_on();
            }
        if (warps_go_on(threads)) continue;
        bool any = false;
        for (size_t i = 0; i < threads; i++) {
            if (!ended[i] && waiting[i].at == AT_WARP_SYNC) return stop("a warp's threads wait for each other for ever");
            any = any || !ended[i];
            waiting[i].at = RUNS;
        }
        if (!any) return;
        barriers++;
    }
}

template <class Thread> static const char* launch(const unsigned* sizes, size_t bytes, bool together, Thread thread)
{
    nctaid = {sizes[0], sizes[1], sizes[2]};
    ntid = {sizes[3], sizes[4], sizes[5]};
    std::vector<char> memory(bytes);
    shared = memory.data();
    shared_bytes = bytes;
    broken = nullptr;
    seen.clear();
    of_warp.clear();
    size_t blocks = size_t(nctaid.x) * nctaid.y * nctaid.z, threads = size_t(ntid.x) * ntid.y * ntid.z;
    if (together) {
        work = thread;
        make_fibres(threads);
    }
    for (size_t b = 0; b < blocks; b++) {
        ctaid = place(b, nctaid);
        block_number = b, barriers = 0;
        seen_in_block.clear();
        if (bytes) memset(shared, 255, bytes);
        if (together) run_block(threads);
        else
            for (size_t t = 0; t < threads; t++) {
                tid = place(t, ntid);
                thread();
            }
    }
    return broken;
}
