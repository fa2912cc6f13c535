// Regularised steps. For any machine.
#define UNROLLED_ISA regularised_portable
#include "regularised.hpp"

namespace unrolled {
int regularised_portable(const unrolled_step_args &args, bool back) {
    using F = regularised_portable::Portable<float, 16>;
    return back ? regularised_portable::regularised_step<F, true>(args) : regularised_portable::regularised_step<F, false>(args);
}
int regularised_float64(const unrolled_step_args &args, bool back) {
    using D = regularised_portable::Portable<double, 16>;
    return back ? regularised_portable::regularised_step<D, true>(args) : regularised_portable::regularised_step<D, false>(args);
}
}  // namespace unrolled
