// The streaming engine for any machine.
#define UNROLLED_ISA streaming_portable
#include "streaming.hpp"

namespace unrolled {
const StreamKernels *stream_portable(int precision) {
    using namespace streaming_portable;
    using Simd = Portable<float, 16>;
    static constexpr StreamKernels kernels[] = {stream_table<StreamF32<Simd>>("portable"),
                                                stream_table<StreamBf16<Simd>>("portable"),
                                                stream_table<StreamInt8<Simd>>("portable")};
    return &kernels[precision];
}
}  // namespace unrolled
