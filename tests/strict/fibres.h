// The threads of a block on one thread of a CPU: each a fibre, which goes on until it rests.
//
// A fibre has a stack of its own, made by makecontext; from then on setjmp and longjmp take turns, which, unlike
// swapcontext, ask nothing of the system.
#include <setjmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <ucontext.h>
#include <functional>
#include <vector>

static const size_t STACK = 1 << 16;
static jmp_buf scheduler;
static ucontext_t starter;
struct Fibre { jmp_buf here; ucontext_t start; };
static std::vector<Fibre> fibres;
static std::vector<char> ended;
static std::function<void()> work;  // what a thread does, once a block
static size_t current;              // the thread that is running

static void rest() { if (!_setjmp(fibres[current].here)) _longjmp(scheduler, 1); }
static void go_on() { if (!_setjmp(scheduler)) _longjmp(fibres[current].here, 1); }

static void fibre()
{
    if (!_setjmp(fibres[current].here)) swapcontext(&fibres[current].start, &starter);
    for (;;) {
        work();
        ended[current] = 1;
        rest();
    }
}

static void make_fibres(size_t threads)
{
    static std::vector<char*> stacks;
    while (stacks.size() < threads) stacks.push_back(static_cast<char*>(malloc(STACK)));
    fibres.resize(threads);
    for (current = 0; current < threads; current++) {
        ucontext_t& start = fibres[current].start;
        getcontext(&start);
        start.uc_stack.ss_sp = stacks[current];
        start.uc_stack.ss_size = STACK;
        makecontext(&start, fibre, 0);
        swapcontext(&starter, &start);
    }
}

struct Place { unsigned x, y, z; };
static Place place(size_t i, Place of)
{
    return {unsigned(i % of.x), unsigned(i / of.x % of.y), unsigned(i / of.x / of.y)};
}
