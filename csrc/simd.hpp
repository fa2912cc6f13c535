// One vector of numbers, for the instruction set this file is compiled for.
//
// Each instruction set is its own translation unit (isa.cpp) with its own compiler flags, and everything here lives
// in a namespace of that name: the linker must never merge code compiled for different machines. For the same reason
// no header of the C++ library with inline functions is used by the kernels.
//
// A Simd type has: real, V, N lanes, kRegisters, and the functions below. `Lanes` is how many lanes of a vector are
// real when a row's end falls inside it.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define UNROLLED_INLINE inline __attribute__((always_inline))
#define UNROLLED_LAMBDA_INLINE __attribute__((always_inline))

namespace UNROLLED_ISA {

using index = ptrdiff_t;

struct bf16 {
    uint16_t bits;
};

UNROLLED_INLINE float widen(bf16 v) {
    uint32_t u = uint32_t(v.bits) << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
UNROLLED_INLINE float widen(float v) { return v; }
UNROLLED_INLINE double widen(double v) { return v; }

UNROLLED_INLINE void narrow(float v, float &to) { to = v; }
UNROLLED_INLINE void narrow(double v, double &to) { to = v; }
UNROLLED_INLINE void narrow(float v, bf16 &to) {  // round to nearest even; NaN stays NaN
    uint32_t u;
    memcpy(&u, &v, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        to.bits = uint16_t((u >> 16) | 0x40);
    else
        to.bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

// ---------------------------------------------------------------------------------------------------- any machine
template <class T, int BYTES>
struct Portable {
    using real = T;
    typedef T V __attribute__((vector_size(BYTES)));
    static constexpr int N = BYTES / int(sizeof(T));
#if defined(__aarch64__)
    static constexpr int kRegisters = 32;
#else
    static constexpr int kRegisters = 16;
#endif
    static constexpr bool kSplitsNumbers = false;
    struct Lanes {
        int n;
        explicit Lanes(index count) : n(count >= N ? N : count < 0 ? 0 : int(count)) {}
        bool full() const { return n == N; }
    };
    static UNROLLED_INLINE V zero() { return V{}; }
    static UNROLLED_INLINE V set1(T s) { return s - V{}; }  // x - 0 keeps -0 and NaN
    template <class S>
    static UNROLLED_INLINE V load(const S *p) {
        V v;
        if constexpr (sizeof(S) == sizeof(T)) {
            memcpy(&v, p, sizeof v);
        } else {
            for (int i = 0; i < N; ++i) v[i] = widen(p[i]);
        }
        return v;
    }
    template <class S>
    static UNROLLED_INLINE void store(S *p, V v) {
        if constexpr (sizeof(S) == sizeof(T)) {
            memcpy(p, &v, sizeof v);
        } else {
            for (int i = 0; i < N; ++i) narrow(v[i], p[i]);
        }
    }
    template <class S>
    static UNROLLED_INLINE V load(const S *p, Lanes m) {
        if (m.full()) return load(p);
        V v{};
        for (int i = 0; i < m.n; ++i) v[i] = widen(p[i]);
        return v;
    }
    template <class S>
    static UNROLLED_INLINE void store(S *p, V v, Lanes m) {
        if (m.full()) return store(p, v);
        for (int i = 0; i < m.n; ++i) narrow(v[i], p[i]);
    }
    static UNROLLED_INLINE V keep(V v, Lanes m) {  // lanes past the end become zero
        if (m.full()) return v;
        for (int i = m.n; i < N; ++i) v[i] = 0;
        return v;
    }
    static UNROLLED_INLINE V fma(V a, V b, V c) { return a * b + c; }
    static UNROLLED_INLINE V fnma(V a, V b, V c) { return c - a * b; }
    static UNROLLED_INLINE V add(V a, V b) { return a + b; }
    static UNROLLED_INLINE V sub(V a, V b) { return a - b; }
    static UNROLLED_INLINE V mul(V a, V b) { return a * b; }
    static UNROLLED_INLINE V div(V a, V b) { return a / b; }
    static UNROLLED_INLINE V min(V a, V b) { return a < b ? a : b; }  // b if either is NaN
    static UNROLLED_INLINE V max(V a, V b) { return a > b ? a : b; }  // b if either is NaN
    static UNROLLED_INLINE V zero_where_not_positive(V v, V test) { return test <= V{} ? V{} : v; }
    static UNROLLED_INLINE V round(V v) {
        const T magic = sizeof(T) == 4 ? T(12582912.0) : T(6755399441055744.0);
        return (v + magic) - magic;
    }
    static UNROLLED_INLINE V scale_by_power_of_two(V v, V n) {  // n integral; in two halves, so that it saturates
        if constexpr (sizeof(T) == 4) {
            typedef int32_t Vi __attribute__((vector_size(BYTES)));
            Vi e = __builtin_convertvector(n, Vi), a = e >> 1, b = e - a;
            Vi pa = (a + 127) << 23, pb = (b + 127) << 23;
            return v * (V)pa * (V)pb;
        } else {
            for (int i = 0; i < N; ++i) v[i] = ldexp(v[i], int(n[i]));
            return v;
        }
    }
    static UNROLLED_INLINE T sum(V v) {
        T s = 0;
        for (int i = 0; i < N; ++i) s += v[i];
        return s;
    }
    static UNROLLED_INLINE void store_sums(T *p, const V (&v)[4]) {  // each vector's sum, beside each other
        for (int i = 0; i < 4; ++i) p[i] = sum(v[i]);
    }
};

#if defined(__AVX512F__)
// -------------------------------------------------------------------------------------------------------- AVX-512
struct Avx512 {
    using real = float;
    using V = __m512;
    static constexpr int N = 16;
    static constexpr int kRegisters = 32;
    static constexpr bool kSplitsNumbers = true;
    struct Lanes {
        __mmask16 m;
        explicit Lanes(index count) : m(count >= N ? 0xffff : count <= 0 ? 0 : __mmask16((1u << count) - 1)) {}
        bool full() const { return m == 0xffff; }
    };
    static UNROLLED_INLINE __m512 wide(__m256i h) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    }
    static UNROLLED_INLINE V zero() { return _mm512_setzero_ps(); }
    static UNROLLED_INLINE V set1(float s) { return _mm512_set1_ps(s); }
    static UNROLLED_INLINE V load(const float *p) { return _mm512_loadu_ps(p); }
    static UNROLLED_INLINE V load(const bf16 *p) { return wide(_mm256_loadu_si256((const __m256i *)p)); }
    static UNROLLED_INLINE V load(const float *p, Lanes k) { return _mm512_maskz_loadu_ps(k.m, p); }
    static UNROLLED_INLINE V load(const bf16 *p, Lanes k) { return wide(_mm256_maskz_loadu_epi16(k.m, p)); }
    static UNROLLED_INLINE void store(float *p, V v) { _mm512_storeu_ps(p, v); }
    static UNROLLED_INLINE void store(float *p, V v, Lanes k) {
        if (k.full())
            _mm512_storeu_ps(p, v);
        else
            _mm512_mask_storeu_ps(p, k.m, v);
    }
#if defined(__AVX512BF16__)
    static UNROLLED_INLINE __m256i rounded(V v) { return (__m256i)_mm512_cvtneps_pbh(v); }
#else
    static UNROLLED_INLINE __m256i rounded(V v) {
        __m512i u = _mm512_castps_si512(v);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
    }
#endif
    static UNROLLED_INLINE void store(bf16 *p, V v) { _mm256_storeu_si256((__m256i *)p, rounded(v)); }
    static UNROLLED_INLINE void store(bf16 *p, V v, Lanes k) { _mm256_mask_storeu_epi16(p, k.m, rounded(v)); }
    static UNROLLED_INLINE V keep(V v, Lanes k) { return _mm512_maskz_mov_ps(k.m, v); }
    static UNROLLED_INLINE V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
    static UNROLLED_INLINE V fnma(V a, V b, V c) { return _mm512_fnmadd_ps(a, b, c); }
    static UNROLLED_INLINE V add(V a, V b) { return _mm512_add_ps(a, b); }
    static UNROLLED_INLINE V sub(V a, V b) { return _mm512_sub_ps(a, b); }
    static UNROLLED_INLINE V mul(V a, V b) { return _mm512_mul_ps(a, b); }
    static UNROLLED_INLINE V div(V a, V b) { return _mm512_div_ps(a, b); }
    static UNROLLED_INLINE V min(V a, V b) { return _mm512_min_ps(a, b); }
    static UNROLLED_INLINE V max(V a, V b) { return _mm512_max_ps(a, b); }
    static UNROLLED_INLINE V zero_where_not_positive(V v, V test) {
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, zero(), _CMP_NLE_UQ), v);
    }
    static UNROLLED_INLINE V round(V v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static UNROLLED_INLINE V distance_to_nearest(V v) {
        return _mm512_reduce_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    static UNROLLED_INLINE V scale_by_power_of_two(V v, V n) { return _mm512_scalef_ps(v, n); }
    static UNROLLED_INLINE float sum(V v) { return _mm512_reduce_add_ps(v); }
    static UNROLLED_INLINE void store_sums(float *p, const V (&v)[4]) {
        const V ab = add(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
        const V cd = add(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
        const __m512d x = _mm512_castps_pd(ab), y = _mm512_castps_pd(cd);
        const V abcd = add(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
        const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
        _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
    }
};
#endif

#if defined(__AVX2__) && defined(__FMA__)
// ----------------------------------------------------------------------------------------------------- AVX2 + FMA
struct Avx2 {
    using real = float;
    using V = __m256;
    static constexpr int N = 8;
    static constexpr int kRegisters = 16;
    static constexpr bool kSplitsNumbers = false;
    struct Lanes {
        int n;
        explicit Lanes(index count) : n(count >= N ? N : count < 0 ? 0 : int(count)) {}
        bool full() const { return n == N; }
        __m256i mask() const {
            return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        }
    };
    static UNROLLED_INLINE V zero() { return _mm256_setzero_ps(); }
    static UNROLLED_INLINE V set1(float s) { return _mm256_set1_ps(s); }
    static UNROLLED_INLINE V load(const float *p) { return _mm256_loadu_ps(p); }
    static UNROLLED_INLINE V load(const float *p, Lanes k) {
        return k.full() ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, k.mask());
    }
    static UNROLLED_INLINE void store(float *p, V v) { _mm256_storeu_ps(p, v); }
    static UNROLLED_INLINE void store(float *p, V v, Lanes k) {
        if (k.full())
            _mm256_storeu_ps(p, v);
        else
            _mm256_maskstore_ps(p, k.mask(), v);
    }
    static UNROLLED_INLINE V keep(V v, Lanes k) { return _mm256_and_ps(v, _mm256_castsi256_ps(k.mask())); }
    static UNROLLED_INLINE V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
    static UNROLLED_INLINE V fnma(V a, V b, V c) { return _mm256_fnmadd_ps(a, b, c); }
    static UNROLLED_INLINE V add(V a, V b) { return _mm256_add_ps(a, b); }
    static UNROLLED_INLINE V sub(V a, V b) { return _mm256_sub_ps(a, b); }
    static UNROLLED_INLINE V mul(V a, V b) { return _mm256_mul_ps(a, b); }
    static UNROLLED_INLINE V div(V a, V b) { return _mm256_div_ps(a, b); }
    static UNROLLED_INLINE V min(V a, V b) { return _mm256_min_ps(a, b); }
    static UNROLLED_INLINE V max(V a, V b) { return _mm256_max_ps(a, b); }
    static UNROLLED_INLINE V zero_where_not_positive(V v, V test) {
        return _mm256_and_ps(_mm256_cmp_ps(test, zero(), _CMP_NLE_UQ), v);
    }
    static UNROLLED_INLINE V round(V v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static UNROLLED_INLINE V scale_by_power_of_two(V v, V n) {  // in two halves, so that it saturates
        __m256i e = _mm256_cvtps_epi32(n), a = _mm256_srai_epi32(e, 1), b = _mm256_sub_epi32(e, a);
        const __m256i bias = _mm256_set1_epi32(127);
        __m256i pa = _mm256_slli_epi32(_mm256_add_epi32(a, bias), 23);
        __m256i pb = _mm256_slli_epi32(_mm256_add_epi32(b, bias), 23);
        return mul(mul(v, _mm256_castsi256_ps(pa)), _mm256_castsi256_ps(pb));
    }
    static UNROLLED_INLINE float sum(V v) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static UNROLLED_INLINE void store_sums(float *p, const V (&v)[4]) {
        const V abcd = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
        _mm_storeu_ps(p, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
    }
};
#endif

}  // namespace UNROLLED_ISA
