// x86-64 with AVX-512 F, BW, DQ, VL: 16 floats per vector, 32 registers.
#define UNROLLED_ISA avx512
#include "entry.hpp"

namespace unrolled {
const Kernels *avx512_f32() {
    static constexpr Kernels kernels = avx512::table<avx512::Plain<avx512::Avx512>>("avx512");
    return &kernels;
}
}  // namespace unrolled
