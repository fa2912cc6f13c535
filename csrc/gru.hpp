// GRU (Cho et al. 2014, in the form of torch.nn and cuDNN: r multiplies W_hn h + b_hn), one step:
//
//   r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)     n = tanh(W_in x + b_in + r q),  q = W_hn h + b_hn
//   z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)     h' = (1 - z) n + z h
//
// Saved for backward: n r z q (gates). Backward, with dh all that arrives at h':
//
//   dn = dh (1 - z) (1 - n^2)    dr = dn q r (1 - r)    dz = dh (h - n) z (1 - z)    dq = dn r
//   dh(before) = dh z + W_hh^T (dr dz dq)               dx = W_ih^T (dr dz dn)
//
// Accumulating outputs: dW_ih += (dr dz dn) x, dW_hh += (dr dz dq) h, db_ih += (dr dz dn), db_hh += (dr dz dq).
#pragma once
#include "steps.hpp"

namespace UNROLLED_ISA {

template <class A>
struct Gru : GruLayout {
    using Simd = typename A::Simd;
    using V = typename A::V;
    using Act = Activation<Simd>;
    static constexpr bool has_c = false, saves_gates = true, leaves_dh = true;

    template <int R>
    static UNROLLED_INLINE void finish(V (&acc)[R][slots], const StepRows<A> &at, index first, index block, index H) {
        const index unit = block * Simd::N;
        const typename Simd::Lanes lanes(H - unit);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const V reset = Act::sigmoid(acc[r][1]), z = Act::sigmoid(acc[r][2]), q = acc[r][3];
            const V n = Act::tanh(Simd::fma(reset, q, acc[r][0]));
            const V h = Simd::fma(z, Simd::sub(Simd::load(at.h[first + r] + unit, lanes), n), n);
            Simd::store(at.out[first + r] + unit, h, lanes);
            if (at.gates) {
                typename A::elem *to = at.gates[first + r] + block * slots * Simd::N;
                at.save(to, n, reset, z, q);
            }
        }
    }

    static UNROLLED_INLINE void back(const BackRow<A> &row, index block, index H, V &dh_squares, V &) {
        const index unit = block * Simd::N;
        const typename Simd::Lanes lanes(H - unit);
        const typename A::elem *gates = row.gates + block * slots * Simd::N;
        typename A::elem *dgates = row.dgates + block * slots * Simd::N;
        const V one = Simd::set1(1);
        const V n = Simd::load(gates), r = Simd::load(gates + Simd::N);
        const V z = Simd::load(gates + 2 * Simd::N), q = Simd::load(gates + 3 * Simd::N);
        V dh = Simd::load(row.dh + unit);
        if (row.d_out) dh = Simd::add(dh, Simd::load(row.d_out + unit, lanes));
        dh_squares = Simd::fma(dh, dh, dh_squares);
        const V keep = Simd::sub(one, z);
        const V dn = Simd::mul(Simd::mul(dh, keep), Simd::fnma(n, n, one));
        const V dr = Simd::mul(Simd::mul(dn, q), Simd::mul(r, Simd::sub(one, r)));
        const V dz = Simd::mul(Simd::mul(dh, Simd::sub(Simd::load(row.h_before + unit, lanes), n)), Simd::mul(z, keep));
        Simd::store(row.dh + unit, Simd::keep(Simd::mul(dh, z), lanes));
        Simd::store(dgates, Simd::keep(dn, lanes));
        Simd::store(dgates + Simd::N, Simd::keep(dr, lanes));
        Simd::store(dgates + 2 * Simd::N, Simd::keep(dz, lanes));
        Simd::store(dgates + 3 * Simd::N, Simd::keep(Simd::mul(dn, r), lanes));
    }
};

}  // namespace UNROLLED_ISA
