// sigmoid and tanh of a vector.
//
// Single precision: both rest on e^r - 1 = r + r^2 q(r), |r| <= ln(2)/2, q of degree 3 fitted for the least largest
// error (1.05e-7 of e^r), after a two-step (Cody-Waite) range reduction, so that sigmoid keeps its relative accuracy
// where it is tiny. tanh goes through e^2x - 1, so that it keeps its relative accuracy near zero.
// NaN comes out as NaN; +-Inf saturate exactly, as in the C library. Double precision calls the C library.
#pragma once
#include "simd.hpp"

namespace UNROLLED_ISA {

template <class Simd>
struct Activation {
    using V = typename Simd::V;
    using real = typename Simd::real;

    // e^x = 2^n (1 + p)
    static UNROLLED_INLINE void split_exp(V x, V &n, V &p) {
        n = Simd::round(Simd::mul(x, Simd::set1(1.44269504088896f)));
        V r = Simd::fnma(n, Simd::set1(0.693145752f), x);
        r = Simd::fnma(n, Simd::set1(1.42860677e-6f), r);
        V q = Simd::set1(0.008312501944601536f);
        q = Simd::fma(q, r, Simd::set1(0.04189033433794975f));
        q = Simd::fma(q, r, Simd::set1(0.16667115688323975f));
        q = Simd::fma(q, r, Simd::set1(0.499992311000824f));
        p = Simd::fma(Simd::mul(r, r), q, r);
    }

    static UNROLLED_INLINE V sigmoid(V x) {
        if constexpr (sizeof(real) == 8) {
            V y;
            for (int i = 0; i < Simd::N; ++i) y[i] = 1 / (1 + ::exp(-x[i]));
            return y;
        } else {
            // e^-x saturates to 0 or Inf inside these limits, and NaN passes min and max in this operand order
            const V one = Simd::set1(1);
            V y = Simd::max(Simd::set1(-105.0f), Simd::min(Simd::set1(105.0f), Simd::sub(Simd::zero(), x)));
            V n, p;
            split_exp(y, n, p);
            return Simd::div(one, Simd::add(one, Simd::scale_by_power_of_two(Simd::add(p, one), n)));
        }
    }

    static UNROLLED_INLINE V tanh(V x) {
        if constexpr (sizeof(real) == 8) {
            V y;
            for (int i = 0; i < Simd::N; ++i) y[i] = ::tanh(x[i]);
            return y;
        } else {
            const V one = Simd::set1(1);
            V y = Simd::max(Simd::set1(-20.0f), Simd::min(Simd::set1(20.0f), Simd::add(x, x)));
            V n, p;
            split_exp(y, n, p);
            V s = Simd::scale_by_power_of_two(one, n);
            V em1 = Simd::fma(s, p, Simd::sub(s, one));
            return Simd::div(em1, Simd::add(em1, Simd::set1(2)));
        }
    }
};

}  // namespace UNROLLED_ISA
