// Regularised sequences. For any machine.
#define UNROLLED_ISA regularised_portable
#include "regularised.hpp"

namespace unrolled {
int regularised_portable(const unrolled_regularised_args &args, bool back) {
    using F = regularised_portable::Portable<float, 16>;
    return back ? regularised_portable::all_steps<F, true>(args) : regularised_portable::all_steps<F, false>(args);
}
int regularised_float64(const unrolled_regularised_args &args, bool back) {
    using D = regularised_portable::Portable<double, 16>;
    return back ? regularised_portable::all_steps<D, true>(args) : regularised_portable::all_steps<D, false>(args);
}
int linear_portable(const unrolled_linear_args &args) {
    return regularised_portable::run_linear<regularised_portable::Portable<float, 16>>(args);
}
int linear_float64(const unrolled_linear_args &args) {
    return regularised_portable::run_linear<regularised_portable::Portable<double, 16>>(args);
}
}  // namespace unrolled
