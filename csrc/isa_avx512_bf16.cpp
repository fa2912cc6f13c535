// x86-64 with AVX-512 and avx512_bf16: storage in bf16, sums and cell state in fp32.
#define UNROLLED_ISA avx512_bf16_isa
#include "entry.hpp"

namespace unrolled {
const Kernels *avx512_bf16() {
    static constexpr Kernels kernels = avx512_bf16_isa::table<avx512_bf16_isa::PairedBf16>("avx512");
    return &kernels;
}
}  // namespace unrolled
