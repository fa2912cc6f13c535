// Regularised sequences. For x86-64 with AVX-512.
#define UNROLLED_ISA regularised_avx512
#include "regularised.hpp"

namespace unrolled {
int regularised_avx512(const unrolled_regularised_args &args, bool back) {
    using F = regularised_avx512::Avx512;
    return back ? regularised_avx512::all_steps<F, true>(args) : regularised_avx512::all_steps<F, false>(args);
}
int linear_avx512(const unrolled_linear_args &args) { return regularised_avx512::run_linear<regularised_avx512::Avx512>(args); }
}  // namespace unrolled
