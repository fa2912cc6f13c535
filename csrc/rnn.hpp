// RNN (Elman 1990), one step:
//
//   h' = tanh(W_ih x + b_ih + W_hh h + b_hh)    or   relu(...)
//
// Saved for backward: nothing but the outputs h'. Backward, with dh all that arrives at h':
//
//   da = dh (1 - h'^2)                          or   dh where h' > 0
//   dh(before) = W_hh^T da                      dx = W_ih^T da
//
// Accumulating outputs: dW_ih += da x, dW_hh += da h, db += da. A block is two vectors of units, so that a register
// tile has enough accumulators per broadcast.
#pragma once
#include "steps.hpp"

namespace UNROLLED_ISA {

template <class A, bool RELU>
struct Rnn : RnnLayout {
    using Simd = typename A::Simd;
    using V = typename A::V;
    using Act = Activation<Simd>;
    static constexpr bool has_c = false, saves_gates = false;

    template <int R>
    static UNROLLED_INLINE void finish(V (&acc)[R][slots], const StepRows<A> &at, index first, index block, index H) {
#pragma GCC unroll 16
        for (int v = 0; v < U; ++v) {
            const index unit = (block * U + v) * Simd::N;
            const typename Simd::Lanes lanes(H - unit);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const V h = RELU ? Simd::max(Simd::zero(), acc[r][v]) : Act::tanh(acc[r][v]);  // NaN passes this max
                Simd::store(at.out[first + r] + unit, h, lanes);
            }
        }
    }

    static UNROLLED_INLINE void back(const BackRow<A> &row, index block, index H, V &dh_squares, V &) {
#pragma GCC unroll 16
        for (int v = 0; v < U; ++v) {
            const index unit = (block * U + v) * Simd::N;
            const typename Simd::Lanes lanes(H - unit);
            typename A::elem *dgates = row.dgates + unit;
            V dh = Simd::load(row.dh + unit);
            if (row.d_out) dh = Simd::add(dh, Simd::load(row.d_out + unit, lanes));
            dh_squares = Simd::fma(dh, dh, dh_squares);
            const V h = Simd::load(row.h + unit, lanes);
            const V da = RELU ? Simd::zero_where_not_positive(dh, h) : Simd::mul(dh, Simd::fnma(h, h, Simd::set1(1)));
            Simd::store(dgates, Simd::keep(da, lanes));
        }
    }
};

}  // namespace UNROLLED_ISA
