// The streaming engine for x86-64 with AVX2 and FMA.
#define UNROLLED_ISA streaming_avx2
#include "streaming.hpp"

namespace unrolled {
const StreamKernels *stream_avx2(int precision) {
    using namespace streaming_avx2;
    static constexpr StreamKernels kernels[] = {stream_table<StreamF32<Avx2>>("avx2"),
                                                stream_table<StreamBf16<Avx2>>("avx2"),
                                                stream_table<StreamInt8Avx2>("avx2")};
    return &kernels[precision];
}
}  // namespace unrolled
