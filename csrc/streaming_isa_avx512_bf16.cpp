// The streaming engine's bf16 products with avx512_bf16.
#define UNROLLED_ISA streaming_avx512_bf16
#include "streaming.hpp"

namespace unrolled {
const StreamKernels *stream_avx512_bf16() {
    static constexpr StreamKernels kernels =
        streaming_avx512_bf16::stream_table<streaming_avx512_bf16::StreamPairedBf16>("avx512_bf16");
    return &kernels;
}
}  // namespace unrolled
