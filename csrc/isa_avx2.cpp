// x86-64 with AVX2 and FMA: 8 floats per vector, 16 registers.
#define UNROLLED_ISA avx2
#include "entry.hpp"

namespace unrolled {
const Kernels *avx2_f32() {
    static constexpr Kernels kernels = avx2::table<avx2::Plain<avx2::Avx2>>("avx2");
    return &kernels;
}
}  // namespace unrolled
