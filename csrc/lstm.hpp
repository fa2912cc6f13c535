// LSTM (Hochreiter and Schmidhuber 1997; Gers et al. 2000, forget gate), one step:
//
//   i = sigmoid(W_ii x + W_hi h + b_i)     g = tanh(W_ig x + W_hg h + b_g)     c' = f c + i g
//   f = sigmoid(W_if x + W_hf h + b_f)     o = sigmoid(W_io x + W_ho h + b_o)  h' = o tanh(c')
//
// Saved for backward: i f g o (gates) and every c (cs, an output anyway); tanh(c') is computed again.
// Backward, with dh and dc all that arrives at h' and c':
//
//   dc += dh o (1 - tanh(c')^2)            di = dc g i (1 - i)                 df = dc c f (1 - f)
//   dc(before) = dc f                      dg = dc i (1 - g^2)                 do = dh tanh(c') o (1 - o)
//
// Accumulating outputs: dW_ih += dgates x, dW_hh += dgates h, db += dgates, over all t and b.
#pragma once
#include "steps.hpp"

namespace UNROLLED_ISA {

template <class A>
struct Lstm : LstmLayout {
    using Simd = typename A::Simd;
    using V = typename A::V;
    using Act = Activation<Simd>;
    static constexpr bool has_c = true, saves_gates = true, leaves_dh = false;

    template <int R>
    static UNROLLED_INLINE void finish(V (&acc)[R][slots], const StepRows<A> &at, index first, index block, index H) {
        const index unit = block * Simd::N;
        const typename Simd::Lanes lanes(H - unit);
        if (!at.gates) {  // inference: i, g and o themselves are not needed
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const V f = Act::sigmoid(acc[r][1]), ig = Act::sigmoid_times_tanh(acc[r][0], acc[r][2]);
                const V c = Simd::fma(f, Simd::load(at.c[first + r] + unit, lanes), ig);
                Simd::store(at.c_out[first + r] + unit, c, lanes);
                Simd::store(at.out[first + r] + unit, Act::sigmoid_times_tanh(acc[r][3], c), lanes);
            }
            return;
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const V i = Act::sigmoid(acc[r][0]), f = Act::sigmoid(acc[r][1]);
            const V g = Act::tanh(acc[r][2]), o = Act::sigmoid(acc[r][3]);
            const V c = Simd::fma(f, Simd::load(at.c[first + r] + unit, lanes), Simd::mul(i, g));
            const V h = Simd::mul(o, Act::tanh(c));
            Simd::store(at.c_out[first + r] + unit, c, lanes);
            Simd::store(at.out[first + r] + unit, h, lanes);
            typename A::elem *to = at.gates[first + r] + block * slots * Simd::N;
            at.save(to, i, f, g, o);
        }
    }

    static UNROLLED_INLINE void back(const BackRow<A> &row, index block, index H, V &dh_squares, V &dc_squares) {
        const index unit = block * Simd::N;
        const typename Simd::Lanes lanes(H - unit);
        const typename A::elem *gates = row.gates + block * slots * Simd::N;
        typename A::elem *dgates = row.dgates + block * slots * Simd::N;
        const V one = Simd::set1(1);
        const V i = Simd::load(gates), f = Simd::load(gates + Simd::N);
        const V g = Simd::load(gates + 2 * Simd::N), o = Simd::load(gates + 3 * Simd::N);
        const V tanh_c = Act::tanh(Simd::load(row.c + unit, lanes));
        V dh = Simd::load(row.dh + unit), dc = Simd::load(row.dc + unit);
        if (row.d_out) dh = Simd::add(dh, Simd::load(row.d_out + unit, lanes));
        if (row.d_cs) dc = Simd::add(dc, Simd::load(row.d_cs + unit, lanes));
        dc = Simd::fma(Simd::mul(dh, o), Simd::fnma(tanh_c, tanh_c, one), dc);
        dh_squares = Simd::fma(dh, dh, dh_squares);
        dc_squares = Simd::fma(dc, dc, dc_squares);
        const V di = Simd::mul(Simd::mul(dc, g), Simd::mul(i, Simd::sub(one, i)));
        const V df = Simd::mul(Simd::mul(dc, Simd::load(row.c_before + unit, lanes)), Simd::mul(f, Simd::sub(one, f)));
        const V dg = Simd::mul(Simd::mul(dc, i), Simd::fnma(g, g, one));
        const V d_o = Simd::mul(Simd::mul(dh, tanh_c), Simd::mul(o, Simd::sub(one, o)));
        Simd::store(row.dc + unit, Simd::keep(Simd::mul(dc, f), lanes));
        Simd::store(dgates, Simd::keep(di, lanes));
        Simd::store(dgates + Simd::N, Simd::keep(df, lanes));
        Simd::store(dgates + 2 * Simd::N, Simd::keep(dg, lanes));
        Simd::store(dgates + 3 * Simd::N, Simd::keep(d_o, lanes));
    }
};

}  // namespace UNROLLED_ISA
