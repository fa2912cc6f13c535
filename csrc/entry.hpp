// From the C interface's arguments to a kernel instance, for one instruction set and storage type.
#pragma once
#include <time.h>

#include "backward.hpp"
#include "kernels.hpp"

namespace UNROLLED_ISA {

template <class Pass>
int run_pass(const unrolled_args &args) {
    unrolled_args a = args;
    a.threads = a.threads < 1 ? 1 : a.threads > 256 ? 256 : a.threads;
    for (;;) {
        Workspace memory;
        Pass pass(a);
        if (!pass.prepare(memory)) return -1;
        struct Call {
            Pass *pass;
            Barrier barrier;
        } call{&pass, {}};
        if (pass.division.threads == 1) {
            pass.run(Team{1, 0, &call.barrier});
            return 0;
        }
        const double start = monotonic_seconds();
        const bool ran = unrolled::run_parallel(
            pass.division.threads,
            [](void *data, int threads, int me) {
                Call *c = static_cast<Call *>(data);
                c->pass->run(Team{threads, me, &c->barrier});
            },
            &call);
        if (ran) {
            note_crowding(pass.division, call.barrier, monotonic_seconds() - start);
            return 0;
        }
        a.threads = 1;  // inside someone else's parallel region
    }
}

template <class A, template <class, class> class Pass>
int run_mode(const unrolled_args &a) {
    switch (a.mode) {
        case UNROLLED_LSTM: return run_pass<Pass<A, Lstm<A>>>(a);
        case UNROLLED_GRU: return run_pass<Pass<A, Gru<A>>>(a);
        case UNROLLED_RNN_TANH: return run_pass<Pass<A, Rnn<A, false>>>(a);
        case UNROLLED_RNN_RELU: return run_pass<Pass<A, Rnn<A, true>>>(a);
        default: return -2;
    }
}

template <class A>
int64_t gates_size(int mode, int64_t T, int64_t B, int64_t H) {
    using Simd = typename A::Simd;
    switch (mode) {
        case UNROLLED_LSTM: return T * B * Blocks<LstmLayout, Simd>::row(H);
        case UNROLLED_GRU: return T * B * Blocks<GruLayout, Simd>::row(H);
        default: return 0;
    }
}

// Multiply-adds in registers, nothing else.
template <class A>
double peak(double seconds) {
    using V = typename A::V;
    constexpr int R = 6, NV = A::Simd::kRegisters == 32 ? 4 : 2;
    V acc[R][NV];
    for (auto &row : acc)
        for (V &v : row) v = A::Simd::zero();
    typename A::elem zeros[NV * A::Simd::N * A::kPair] = {}, x[A::kPair] = {};
    const typename A::elem *w = zeros;
    asm volatile("" : "+r"(w));  // the compiler is not to know that these are zeros
    constexpr double flops = 20000.0 * R * NV * A::Simd::N * A::kPair * 2;
    double best = 0;  // of slices of a fraction of a millisecond: other processes want the core too
    const double start = monotonic_seconds();
    for (double from = start; from - start < seconds;) {
        typename A::Operand av[R];
        for (int r = 0; r < R; ++r) av[r] = A::broadcast(x);
        for (int i = 0; i < 20000; ++i) one_k<A, R, NV>(acc, 0, w, [&](int r) UNROLLED_LAMBDA_INLINE { return av[r]; });
        const double to = monotonic_seconds();
        if (flops / (to - from) > best) best = flops / (to - from);
        from = to;
    }
    typename A::real sum = 0;
    for (auto &row : acc)
        for (V &v : row) sum += A::Simd::sum(v);
    return sum == 0 ? best : 0;
}

template <class A>
constexpr unrolled::SequenceKernels sequences() {
    return {run_mode<A, Forward>, run_mode<A, Backward>, gates_size<A>, peak<A>};
}

}  // namespace UNROLLED_ISA
