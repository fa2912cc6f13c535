// What a product is made of, for each storage type: how many k it consumes per instruction (kPair), how operands are
// loaded and broadcast, and the multiply-accumulate itself. Accumulators are always `real` (float for bf16).
#pragma once
#include "simd.hpp"

namespace UNROLLED_ISA {

template <class SimdType>
struct Plain {
    using Simd = SimdType;
    using V = typename Simd::V;
    using real = typename Simd::real;
    using elem = real;
    using Operand = V;
    static constexpr int kPair = 1;
    static UNROLLED_INLINE Operand weights(const elem *w) { return Simd::load(w); }
    static UNROLLED_INLINE Operand broadcast(const elem *a) { return Simd::set1(*a); }
    static UNROLLED_INLINE Operand broadcast_last(const elem *a) { return Simd::set1(*a); }
    static UNROLLED_INLINE V dot(V acc, Operand a, Operand w) { return Simd::fma(a, w, acc); }
};

#if defined(__AVX512BF16__)
// vdpbf16ps multiplies pairs of neighbouring k and adds both into a float: packed weights interleave the pairs.
struct PairedBf16 {
    using Simd = Avx512;
    using V = __m512;
    using real = float;
    using elem = bf16;
    using Operand = __m512i;
    static constexpr int kPair = 2;
    static UNROLLED_INLINE Operand weights(const elem *w) { return _mm512_loadu_si512(w); }
    static UNROLLED_INLINE Operand broadcast(const elem *a) {
        int32_t pair;
        memcpy(&pair, a, 4);
        return _mm512_set1_epi32(pair);
    }
    static UNROLLED_INLINE Operand broadcast_last(const elem *a) { return _mm512_set1_epi32(a->bits); }
    static UNROLLED_INLINE V dot(V acc, Operand a, Operand w) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)w); }
};
#endif

}  // namespace UNROLLED_ISA
