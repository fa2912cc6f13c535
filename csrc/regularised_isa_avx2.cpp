// Regularised sequences. For x86-64 with AVX2 and FMA.
#define UNROLLED_ISA regularised_avx2
#include "regularised.hpp"

namespace unrolled {
int regularised_avx2(const unrolled_regularised_args &args, bool back) {
    using F = regularised_avx2::Avx2;
    return back ? regularised_avx2::all_steps<F, true>(args) : regularised_avx2::all_steps<F, false>(args);
}
int linear_avx2(const unrolled_linear_args &args) { return regularised_avx2::run_linear<regularised_avx2::Avx2>(args); }
}  // namespace unrolled
