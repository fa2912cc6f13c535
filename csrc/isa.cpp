// The kernels for one instruction set. CMake compiles this file once for each, with its flags and with UNROLLED_ISA, its name:
//
//   portable      any machine: 128-bit vectors of the compiler's own, which are SSE2 on x86-64 and NEON on arm64; and double
//   avx2          x86-64 with AVX2 and FMA: 8 floats a vector, 16 registers
//   avx512        x86-64 with AVX-512 F, BW, DQ, VL: 16 floats a vector, 32 registers
//   avx512_bf16   what avx512 lacks: products of bf16, sums and cell state in fp32
//   avx512_vnni   what avx512 lacks: the streaming engine's products of int8
#include "cell.hpp"
#include "entry.hpp"
#include "regularised.hpp"
#include "step.hpp"
#include "streaming.hpp"

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

namespace UNROLLED_ISA {

using unrolled::InstructionSet;
constexpr const char *name = TEXT(UNROLLED_ISA);

// By dtype (F32, BF16, F64), by dtype again, by precision (FP32, BF16, INT8). In an object of static storage: no guard,
// nothing of the C++ library.
#if defined(__AVX512BF16__)
extern constexpr InstructionSet kernels = {
    name, {{}, sequences<PairedBf16>(), {}}, {}, {{}, stream<StreamPairedBf16>(name), {}}, nullptr, {}};
#elif defined(__AVX512VNNI__)
extern constexpr InstructionSet kernels = {name, {}, {}, {{}, {}, stream<StreamInt8Vnni>(name)}, nullptr, {}};
#elif defined(__AVX512F__)
extern constexpr InstructionSet kernels = {
    name,
    {sequences<Plain<Avx512>>(), {}, {}},
    {steps<Avx512>(), {}, {}},
    {stream<StreamF32<Avx512>>(name), stream<StreamBf16<Avx512>>(name), stream<StreamInt8Avx512>(name)},
    run_step<Avx512>,
    cells<Avx512>()};
#elif defined(__AVX2__)
extern constexpr InstructionSet kernels = {
    name,
    {sequences<Plain<Avx2>>(), {}, {}},
    {steps<Avx2>(), {}, {}},
    {stream<StreamF32<Avx2>>(name), stream<StreamBf16<Avx2>>(name), stream<StreamInt8Avx2>(name)},
    run_step<Avx2>,
    cells<Avx2>()};
#else
using Floats = Portable<float, 16>;
using Doubles = Portable<double, 16>;
extern constexpr InstructionSet kernels = {
    name,
    {sequences<Plain<Floats>>(), {}, sequences<Plain<Doubles>>()},
    {steps<Floats>(), {}, steps<Doubles>()},
    {stream<StreamF32<Floats>>(name), stream<StreamBf16<Floats>>(name), stream<StreamInt8<Floats>>(name)},
    run_step<Floats>,
    cells<Floats>()};
#endif

}  // namespace UNROLLED_ISA
