// The streaming engine's int8 products with avx512_vnni.
#define UNROLLED_ISA streaming_avx512_vnni
#include "streaming.hpp"

namespace unrolled {
const StreamKernels *stream_avx512_vnni() {
    static constexpr StreamKernels kernels =
        streaming_avx512_vnni::stream_table<streaming_avx512_vnni::StreamInt8Vnni>("avx512_vnni");
    return &kernels;
}
}  // namespace unrolled
