// What a cell is handed: pointers into the rows it works on.
#pragma once
#include "activations.hpp"
#include "arithmetic.hpp"
#include "packing.hpp"

namespace UNROLLED_ISA {

// Forward, per row of the batch alive at this step.
template <class A>
struct StepRows {
    const typename A::elem **x, **h;  // inputs; h already points at zeros where the row is reset
    const typename A::real **c;       // LSTM: c before this step
    const typename A::real **before;  // W_ih x, where it is not part of this step
    typename A::elem **out, **gates;  // gates is null in inference
    typename A::real **c_out;
    index to_next_x;  // from a row of x to the next step's, 0 at the last step

    UNROLLED_INLINE void save(typename A::elem *to, typename A::V v0, typename A::V v1, typename A::V v2, typename A::V v3) const {
        using Simd = typename A::Simd;
        Simd::store(to, v0);
        Simd::store(to + Simd::N, v1);
        Simd::store(to + 2 * Simd::N, v2);
        Simd::store(to + 3 * Simd::N, v3);
    }
};

// Backward, one row of the batch at one step. dh and dc: what arrives from the step after; left there for the step
// before is dc and, where the cell says leaves_dh, the part of dh that does not go through W_hh.
template <class A>
struct BackRow {
    const typename A::elem *gates, *h, *h_before, *d_out;
    const typename A::real *c, *c_before, *d_cs;
    typename A::real *dh, *dc;
    typename A::elem *dgates;
};

}  // namespace UNROLLED_ISA
