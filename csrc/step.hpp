// One step of a stack of layers for a few sequences, fp32, weights as PyTorch lays them out: rows of K numbers, each multiplied
// with x or h and summed. For a vector of hidden units and one gate these are N rows that follow each other in memory.
//
// At B = 1 a step takes as long as the weights take to arrive, in whatever order they lie; so nothing is packed, kept, or to be
// compared before it may be used.
#pragma once
#include "activations.hpp"
#include "unrolled_step.h"

namespace UNROLLED_ISA {

// A vector whose lane i is the sum of v[i]: neighbours are added, so that half as many vectors are left, again and again.
template <class V, int N>
UNROLLED_INLINE V sum_each(V (&v)[N]) {
    static_assert(N == 4 || N == 8 || N == 16);
    V fours[N / 4];  // in every quarter of a vector, a share of the sums of four
#pragma GCC unroll 4
    for (int i = 0; i < N / 4; ++i) {
        const V a = v[4 * i], b = v[4 * i + 1], c = v[4 * i + 2], d = v[4 * i + 3];
        if constexpr (N == 4) {
            const V ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
            const V cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
            fours[i] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
        } else if constexpr (N == 8) {
            const auto add = [](V p, V q) UNROLLED_LAMBDA_INLINE {
                return __builtin_shufflevector(p, q, 0, 8, 2, 10, 4, 12, 6, 14) +
                       __builtin_shufflevector(p, q, 1, 9, 3, 11, 5, 13, 7, 15);
            };
            const V ab = add(a, b), cd = add(c, d);
            fours[i] = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                       __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
        } else {
            const auto add = [](V p, V q) UNROLLED_LAMBDA_INLINE {
                return __builtin_shufflevector(p, q, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
                       __builtin_shufflevector(p, q, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
            };
            const V ab = add(a, b), cd = add(c, d);
            fours[i] = __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                       __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        }
    }
    if constexpr (N == 4) {
        return fours[0];
    } else if constexpr (N == 8) {
        return __builtin_shufflevector(fours[0], fours[1], 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(fours[0], fours[1], 4, 5, 6, 7, 12, 13, 14, 15);
    } else {
        const auto halves = [](V p, V q) UNROLLED_LAMBDA_INLINE {
            return __builtin_shufflevector(p, q, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
                   __builtin_shufflevector(p, q, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
        };
        const V p = halves(fours[0], fours[1]), q = halves(fours[2], fours[3]);
        return __builtin_shufflevector(p, q, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
               __builtin_shufflevector(p, q, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
}

// One layer of one call, R of its rows of the batch at a time.
template <class Simd>
struct LayerStep {
    using V = typename Simd::V;
    using Act = Activation<Simd>;
    static constexpr int N = Simd::N;
    const float *w_ih, *w_hh, *b_ih, *b_hh;
    index B, K, H;  // K: columns of w_ih
    const float *x, *h_in, *c_in;
    float *h_out, *c_out;

    // acc[i][r] += row i of w, columns [0, K), times v[r]: 4 rows, in several sums that hide the multiply-add's latency.
    template <int R>
    static UNROLLED_INLINE void add_products(const float *const (&w)[4], index K, const float *const (&v)[R], V (&acc)[4][R]) {
        constexpr int S = R == 1 ? (Simd::kRegisters == 32 ? 4 : 2) : 1;
        V sums[S][4][R];
        const auto take = [&](V(&to)[4][R], index k) UNROLLED_LAMBDA_INLINE {
            V in[R];
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) in[r] = Simd::load(v[r] + k);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const V row = Simd::load(w[i] + k);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) to[i][r] = Simd::fma(row, in[r], to[i][r]);
            }
        };
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s)
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) sums[s][i][r] = s ? Simd::zero() : acc[i][r];
        index k = 0;
        for (; k + S * N <= K; k += S * N)
#pragma GCC unroll 4
            for (int s = 0; s < S; ++s) take(sums[s], k + s * N);
        for (; k + N <= K; k += N) take(sums[0], k);
        if (k < K) {
            const typename Simd::Lanes rest(K - k);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r)
                    sums[0][i][r] = Simd::fma(Simd::load(w[i] + k, rest), Simd::load(v[r] + k, rest), sums[0][i][r]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) {
                acc[i][r] = sums[0][i][r];
#pragma GCC unroll 4
                for (int s = 1; s < S; ++s) acc[i][r] = Simd::add(acc[i][r], sums[s][i][r]);
            }
    }

    // of x, of h, or of both: bias and products of gate g of the N units from `unit` on, for rows [b, b + R).
    template <int R>
    UNROLLED_INLINE void gate(int g, index unit, index b, bool of_x, bool of_h, V (&to)[R]) const {
        V each[R][N];
        const float *xs[R], *hs[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            xs[r] = x + (b + r) * K;
            hs[r] = h_in + (b + r) * H;
        }
#pragma GCC unroll 4
        for (int first = 0; first < N; first += 4) {
            V acc[4][R];
            const float *rows_x[4], *rows_h[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const index at = unit + first + i, row = g * H + (at < H ? at : H - 1);  // past the end: not stored
                rows_x[i] = w_ih + row * K;
                rows_h[i] = w_hh + row * H;
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) acc[i][r] = Simd::zero();
            }
            if (of_x) add_products<R>(rows_x, K, xs, acc);
            if (of_h) add_products<R>(rows_h, H, hs, acc);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i)
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) each[r][first + i] = acc[i][r];
        }
        const typename Simd::Lanes lanes(H - unit);
        V bias = Simd::zero();
        if (of_x && b_ih) bias = Simd::load(b_ih + g * H + unit, lanes);
        if (of_h && b_hh) bias = Simd::add(bias, Simd::load(b_hh + g * H + unit, lanes));
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) to[r] = Simd::add(bias, sum_each<V, N>(each[r]));
    }

    template <int MODE, int R>
    UNROLLED_INLINE void units(index unit, index b) const {
        constexpr int kGates = MODE == UNROLLED_LSTM ? 4 : MODE == UNROLLED_GRU ? 4 : 1;
        V g[kGates][R];
        if constexpr (MODE == UNROLLED_GRU) {  // r and z of both, n of x, n of h
            for (int i = 0; i < 2; ++i) gate<R>(i, unit, b, true, true, g[i]);
            gate<R>(2, unit, b, true, false, g[2]);
            gate<R>(2, unit, b, false, true, g[3]);
        } else {
            for (int i = 0; i < kGates; ++i) gate<R>(i, unit, b, true, true, g[i]);
        }
        const typename Simd::Lanes lanes(H - unit);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const index at = (b + r) * H + unit;
            if constexpr (MODE == UNROLLED_LSTM) {
                const V before = Simd::load(c_in + at, lanes);
                const V c = Simd::fma(Act::sigmoid(g[1][r]), before, Simd::mul(Act::sigmoid(g[0][r]), Act::tanh(g[2][r])));
                Simd::store(c_out + at, c, lanes);
                Simd::store(h_out + at, Act::sigmoid_times_tanh(g[3][r], c), lanes);
            } else if constexpr (MODE == UNROLLED_GRU) {
                const V z = Act::sigmoid(g[1][r]), n = Act::tanh(Simd::fma(Act::sigmoid(g[0][r]), g[3][r], g[2][r]));
                const V before = Simd::load(h_in + at, lanes);
                Simd::store(h_out + at, Simd::fma(z, Simd::sub(before, n), n), lanes);  // (1 - z) n + z h
            } else {
                const V sum = g[0][r];
                const V h = MODE == UNROLLED_RNN_RELU ? Simd::zero_where_not_positive(sum, sum) : Act::tanh(sum);
                Simd::store(h_out + at, h, lanes);
            }
        }
    }

    template <int MODE>
    void run() const {
        constexpr int R = Simd::kRegisters == 32 ? 4 : 2;
        for (index unit = 0; unit < H; unit += N) {
            index b = 0;
            for (; b + R <= B; b += R) units<MODE, R>(unit, b);
            for (; b < B; ++b) units<MODE, 1>(unit, b);
        }
    }
};

template <class Simd>
int run_step(const unrolled_step_args &a) {
    const float *const *w = reinterpret_cast<const float *const *>(&a + 1);
    LayerStep<Simd> l{};
    l.B = a.B;
    l.H = a.H;
    for (index layer = 0; layer < a.L; ++layer, w += 4) {
        const index state = layer * a.B * a.H;
        l.w_ih = w[0];
        l.w_hh = w[1];
        l.b_ih = w[2];
        l.b_hh = w[3];
        l.K = layer ? a.H : a.I;
        l.x = layer ? a.h_out + state - a.B * a.H : a.x;
        l.h_in = a.h_in + state;
        l.c_in = a.mode == UNROLLED_LSTM ? a.c_in + state : nullptr;
        l.h_out = a.h_out + state;
        l.c_out = a.c_out ? a.c_out + state : nullptr;
        switch (a.mode) {
            case UNROLLED_LSTM: l.template run<UNROLLED_LSTM>(); break;
            case UNROLLED_GRU: l.template run<UNROLLED_GRU>(); break;
            case UNROLLED_RNN_TANH: l.template run<UNROLLED_RNN_TANH>(); break;
            case UNROLLED_RNN_RELU: l.template run<UNROLLED_RNN_RELU>(); break;
            default: return -2;
        }
    }
    if (a.B) memcpy((void *)a.out, a.h_out + (a.L - 1) * a.B * a.H, size_t(a.B * a.H) * sizeof(float));
    return 0;
}

}  // namespace UNROLLED_ISA
