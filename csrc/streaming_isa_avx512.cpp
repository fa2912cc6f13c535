// The streaming engine for x86-64 with AVX-512 F, BW, DQ, VL.
#define UNROLLED_ISA streaming_avx512
#include "streaming.hpp"

namespace unrolled {
const StreamKernels *stream_avx512(int precision) {
    using namespace streaming_avx512;
    static constexpr StreamKernels kernels[] = {stream_table<StreamF32<Avx512>>("avx512"),
                                                stream_table<StreamBf16<Avx512>>("avx512"),
                                                stream_table<StreamInt8Avx512>("avx512")};
    return &kernels[precision];
}
}  // namespace unrolled
