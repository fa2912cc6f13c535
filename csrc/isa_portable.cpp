// For any machine: 128-bit vectors of the compiler's own, which are SSE2 on x86-64 and NEON on arm64.
#define UNROLLED_ISA portable
#include "entry.hpp"

namespace unrolled {
const Kernels *portable_f32() {
    static constexpr Kernels kernels = portable::table<portable::Plain<portable::Portable<float, 16>>>("portable");
    return &kernels;
}
const Kernels *portable_f64() {
    static constexpr Kernels kernels = portable::table<portable::Plain<portable::Portable<double, 16>>>("portable");
    return &kernels;
}
}  // namespace unrolled
