// One step of a stack of recurrent layers for one sequence, or a few.
//
// At B = 1 a step reads every weight once and uses it once, so it runs at the speed at which weights arrive from L2, L3
// or memory. Hence: fewer bytes per weight (bf16, int8), all weights of a step in one stretch of memory in the order in
// which they are read, and several independent sums so that multiply-adds never wait. The hardware prefetches such a
// stretch by itself: prefetch instructions 1 to 8 KB ahead made a 2-layer H=512 LSTM 1.1 to 1.7 times slower (Zen 4).
//
//   a block      U vectors of hidden units with all their gates:  [bias][W_ih part][W_hh part]
//   a part       int8 only: [scale of each row][sum to subtract from each row], then [k / group][gate][lane][k % group]
//   table row    [block][gate][lane] float
// The group is how many neighbouring k one instruction multiplies and adds: 1 float, 2 bf16, 4 int8. Rows past H and k
// past the end are zero weights.
//
// bf16: weights and inputs of products are rounded to bf16. int8: weights have one scale per row (largest |w| = 127),
// inputs one per step and row of the batch (largest |x| = 127). Everything else - sums, biases, state, non-linearities,
// table - is fp32. A row with a NaN or Inf in it gives NaN.
#pragma once
#include "activations.hpp"
#include "streaming_model.hpp"
#include "team.hpp"
#include "transpose.hpp"

namespace UNROLLED_ISA {

constexpr index blocks_of(index n, index size) { return (n + size - 1) / size; }

// --------------------------------------------------------------------------------------------------- arithmetic: fp32
template <class S>
struct StreamF32 {
    using Simd = S;
    using V = typename S::V;
    using Acc = V;
    using Operand = V;
    using weight = float;
    using act = float;
    static constexpr int kGroup = 1;
    static constexpr bool kScaled = false;
    static UNROLLED_INLINE Acc zero() { return S::zero(); }
    static UNROLLED_INLINE Acc add(Acc a, Acc b) { return S::add(a, b); }
    static UNROLLED_INLINE V to_float(Acc a) { return a; }
    static UNROLLED_INLINE Operand broadcast(const act *a) { return S::set1(*a); }
    static UNROLLED_INLINE Acc dot(Acc acc, Operand a, const weight *w) { return S::fma(a, S::load(w), acc); }
    static UNROLLED_INLINE void put(weight *to, float w, float) { *to = w; }
    static void convert(const float *x, index n, index padded, act *to, float *) {
        memcpy(to, x, size_t(n) * sizeof(float));
        for (index i = n; i < padded; ++i) to[i] = 0;
    }
};

// --------------------------------------------------------------------------------------------------- arithmetic: bf16
UNROLLED_INLINE float rounded_to_bf16(float v) {
    bf16 b;
    narrow(v, b);
    return widen(b);
}

// Where the machine has no bf16 product: a pair of bf16 is one 32-bit lane, whose two halves are floats after a shift.
template <class S>
struct StreamBf16 {
    using Simd = S;
    using V = typename S::V;
    using Acc = V;
    struct Operand {
        V even, odd;
    };
    using weight = bf16;
    using act = float;  // already rounded
    static constexpr int kGroup = 2;
    static constexpr bool kScaled = false;
    static UNROLLED_INLINE Acc zero() { return S::zero(); }
    static UNROLLED_INLINE Acc add(Acc a, Acc b) { return S::add(a, b); }
    static UNROLLED_INLINE V to_float(Acc a) { return a; }
    static UNROLLED_INLINE Operand broadcast(const act *a) { return {S::set1(a[0]), S::set1(a[1])}; }
    static UNROLLED_INLINE Acc dot(Acc acc, Operand a, const weight *w) {
        typedef uint32_t U __attribute__((vector_size(sizeof(V))));
        U pairs;
        memcpy(&pairs, w, sizeof pairs);
        return S::fma(a.odd, (V)(pairs & 0xffff0000u), S::fma(a.even, (V)(pairs << 16), acc));
    }
    static UNROLLED_INLINE void put(weight *to, float w, float) { narrow(w, *to); }
    static void convert(const float *x, index n, index padded, act *to, float *) {
        for (index i = 0; i < n; ++i) to[i] = rounded_to_bf16(x[i]);
        for (index i = n; i < padded; ++i) to[i] = 0;
    }
};

#if defined(__AVX512BF16__)
struct StreamPairedBf16 {
    using Simd = Avx512;
    using V = __m512;
    using Acc = __m512;
    using Operand = __m512i;
    using weight = bf16;
    using act = bf16;
    static constexpr int kGroup = 2;
    static constexpr bool kScaled = false;
    static UNROLLED_INLINE Acc zero() { return _mm512_setzero_ps(); }
    static UNROLLED_INLINE Acc add(Acc a, Acc b) { return _mm512_add_ps(a, b); }
    static UNROLLED_INLINE V to_float(Acc a) { return a; }
    static UNROLLED_INLINE Operand broadcast(const act *a) {
        int32_t pair;
        memcpy(&pair, a, 4);
        return _mm512_set1_epi32(pair);
    }
    static UNROLLED_INLINE Acc dot(Acc acc, Operand a, const weight *w) {
        return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)_mm512_loadu_si512(w));
    }
    static UNROLLED_INLINE void put(weight *to, float w, float) { narrow(w, *to); }
    static void convert(const float *x, index n, index padded, act *to, float *) {
        index i = 0;
        for (; i + 16 <= n; i += 16) Simd::store(to + i, Simd::load(x + i));
        if (i < n) Simd::store(to + i, Simd::load(x + i, Simd::Lanes(n - i)), Simd::Lanes(padded - i));
    }
};
#endif

// --------------------------------------------------------------------------------------------------- arithmetic: int8
// The scale of int8 values: largest / 127; zero for what is next to nothing, NaN as soon as one value is NaN or Inf.
struct Scale {
    float scale, inverse;
};
UNROLLED_INLINE Scale scale_for(uint32_t largest_bits) {  // of the absolute values: NaN > Inf > every number
    float largest;
    memcpy(&largest, &largest_bits, 4);
    if (largest_bits >= 0x7f800000u) return {__builtin_nanf(""), 0};
    if (largest < 1e-30f) return {0, 0};
    return {largest / 127, 127 / largest};
}
UNROLLED_INLINE uint32_t absolute_bits(float v) {
    uint32_t u;
    memcpy(&u, &v, 4);
    return u & 0x7fffffffu;
}
UNROLLED_INLINE int nearest_integer(float v) { return int((v + 12582912.0f) - 12582912.0f); }
UNROLLED_INLINE int quantized(float v, float inverse) { return inverse == 0 ? 0 : nearest_integer(v * inverse); }

// The largest number of columns whose sums fit 31 bits is 65,536: checked when a stream is made.
// kOffset: added to the inputs, to make them unsigned; its share is subtracted through each row's sum.
//
// For any machine: products of bytes and sums of two of them fit 16 bits.
template <class S>
struct StreamInt8 {
    using Simd = S;
    using V = typename S::V;
    using weight = int8_t;
    using act = int8_t;
    static constexpr int kGroup = 4, kOffset = 0;
    static constexpr bool kScaled = true;
    typedef int32_t Acc __attribute__((vector_size(sizeof(V))));
    typedef int16_t Words __attribute__((vector_size(sizeof(V))));
    struct Operand {
        Words even, odd;
    };
    static UNROLLED_INLINE Acc zero() { return Acc{}; }
    static UNROLLED_INLINE Acc add(Acc a, Acc b) { return a + b; }
    static UNROLLED_INLINE V to_float(Acc a) { return __builtin_convertvector(a, V); }
    static UNROLLED_INLINE Words pairs(int first, int second) {
        return (Words)(int32_t(uint32_t(first) & 0xffffu) + int32_t(uint32_t(second) << 16) - Acc{});
    }
    static UNROLLED_INLINE Operand broadcast(const act *a) { return {pairs(a[0], a[2]), pairs(a[1], a[3])}; }
    static UNROLLED_INLINE Acc dot(Acc acc, Operand a, const weight *w) {
        typedef uint32_t U __attribute__((vector_size(sizeof(V))));
        typedef uint16_t UWords __attribute__((vector_size(sizeof(V))));
        Words u;  // two weights to a word, sign-extended by shifts
        memcpy(&u, w, sizeof u);
        const Words p = ((Words)((UWords)u << 8) >> 8) * a.even + (u >> 8) * a.odd;
        return acc + ((Acc)((U)p << 16) >> 16) + ((Acc)p >> 16);
    }
    static UNROLLED_INLINE void put(weight *to, float w, float inverse) { *to = weight(quantized(w, inverse)); }
    static void convert(const float *x, index n, index padded, act *to, float *scale) {
        uint32_t largest = 0;
        for (index i = 0; i < n; ++i) largest = absolute_bits(x[i]) > largest ? absolute_bits(x[i]) : largest;
        const Scale s = scale_for(largest);
        for (index i = 0; i < n; ++i) to[i] = act(quantized(x[i], s.inverse));
        for (index i = n; i < padded; ++i) to[i] = 0;
        *scale = s.scale;
    }
};

#if defined(__AVX2__) && !defined(__AVX512F__)
// vpmaddubsw takes unsigned times signed bytes: the input's sign is moved to the weight. With |w|, |a| <= 127 a pair of
// products fits 16 bits, so nothing saturates.
struct StreamInt8Avx2 {
    using Simd = Avx2;
    using V = __m256;
    using Acc = __m256i;
    using weight = int8_t;
    using act = int8_t;
    static constexpr int kGroup = 4, kOffset = 0;
    static constexpr bool kScaled = true;
    struct Operand {
        __m256i value, absolute;
    };
    static UNROLLED_INLINE Acc load(const int32_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
    static UNROLLED_INLINE Acc zero() { return _mm256_setzero_si256(); }
    static UNROLLED_INLINE Acc add(Acc a, Acc b) { return _mm256_add_epi32(a, b); }
    static UNROLLED_INLINE V to_float(Acc a) { return _mm256_cvtepi32_ps(a); }
    static UNROLLED_INLINE Operand broadcast(const act *a) {
        int32_t four;
        memcpy(&four, a, 4);
        const __m256i v = _mm256_set1_epi32(four);
        return {v, _mm256_abs_epi8(v)};
    }
    static UNROLLED_INLINE Acc dot(Acc acc, Operand a, const weight *w) {
        const __m256i v = _mm256_sign_epi8(_mm256_loadu_si256((const __m256i *)w), a.value);
        return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(a.absolute, v), _mm256_set1_epi16(1)));
    }
    static UNROLLED_INLINE void put(weight *to, float w, float inverse) { *to = weight(quantized(w, inverse)); }
    static void convert(const float *x, index n, index padded, act *to, float *scale) {
        __m256i top = _mm256_setzero_si256();
        const __m256i mask = _mm256_set1_epi32(0x7fffffff);
        index i = 0;
        for (; i < n; i += 8)
            top = _mm256_max_epi32(top, _mm256_and_si256(mask, _mm256_castps_si256(Simd::load(x + i, Simd::Lanes(n - i)))));
        alignas(32) uint32_t each[8];
        _mm256_store_si256((__m256i *)each, top);
        uint32_t largest = 0;
        for (uint32_t e : each) largest = e > largest ? e : largest;
        const Scale s = scale_for(largest);
        *scale = s.scale;
        const __m256 inverse = _mm256_set1_ps(s.inverse);
        for (i = 0; s.inverse != 0 && i + 8 <= n; i += 8) {
            const __m256i q = _mm256_cvtps_epi32(_mm256_mul_ps(Simd::load(x + i), inverse));
            const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
            _mm_storel_epi64((__m128i *)(to + i), _mm_packs_epi16(words, words));
        }
        for (; i < n; ++i) to[i] = act(quantized(x[i], s.inverse));
        for (; i < padded; ++i) to[i] = 0;
    }
};
#endif

#if defined(__AVX512F__)
struct StreamInt8Avx512Common {
    using Simd = Avx512;
    using V = __m512;
    using Acc = __m512i;
    using weight = int8_t;
    using act = int8_t;
    static constexpr int kGroup = 4;
    static constexpr bool kScaled = true;
    static UNROLLED_INLINE Acc load(const int32_t *p) { return _mm512_loadu_si512(p); }
    static UNROLLED_INLINE Acc zero() { return _mm512_setzero_si512(); }
    static UNROLLED_INLINE Acc add(Acc a, Acc b) { return _mm512_add_epi32(a, b); }
    static UNROLLED_INLINE V to_float(Acc a) { return _mm512_cvtepi32_ps(a); }
    static UNROLLED_INLINE void put(weight *to, float w, float inverse) { *to = weight(quantized(w, inverse)); }
    template <int OFFSET>
    static UNROLLED_INLINE void convert_with(const float *x, index n, index padded, act *to, float *scale) {
        __m512i top = _mm512_setzero_si512();
        const __m512i mask = _mm512_set1_epi32(0x7fffffff);
        for (index i = 0; i < n; i += 16)
            top = _mm512_max_epu32(top, _mm512_and_si512(mask, _mm512_castps_si512(Simd::load(x + i, Simd::Lanes(n - i)))));
        const Scale s = scale_for(_mm512_reduce_max_epu32(top));
        *scale = s.scale;
        const __m512 inverse = _mm512_set1_ps(s.inverse);
        const __mmask16 finite = s.inverse == 0 ? 0 : 0xffff;
        for (index i = 0; i < padded; i += 16) {
            const __m512 v = Simd::load(x + i, Simd::Lanes(n - i));
            __m512i q = _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(v, inverse));
            q = _mm512_add_epi32(q, _mm512_set1_epi32(OFFSET));
            _mm512_mask_cvtepi32_storeu_epi8(to + i, Simd::Lanes(padded - i).m, q);
        }
    }
};

// As in AVX2, the sign by a mask.
struct StreamInt8Avx512 : StreamInt8Avx512Common {
    static constexpr int kOffset = 0;
    struct Operand {
        __m512i absolute;
        __mmask64 negative;
    };
    static UNROLLED_INLINE Operand broadcast(const act *a) {
        int32_t four;
        memcpy(&four, a, 4);
        const __m512i v = _mm512_set1_epi32(four);
        return {_mm512_abs_epi8(v), _mm512_movepi8_mask(v)};
    }
    static UNROLLED_INLINE Acc dot(Acc acc, Operand a, const weight *w) {
        __m512i v = _mm512_loadu_si512(w);
        v = _mm512_mask_sub_epi8(v, a.negative, _mm512_setzero_si512(), v);
        return _mm512_add_epi32(acc, _mm512_madd_epi16(_mm512_maddubs_epi16(a.absolute, v), _mm512_set1_epi16(1)));
    }
    static void convert(const float *x, index n, index padded, act *to, float *scale) {
        convert_with<0>(x, n, padded, to, scale);
    }
};

#if defined(__AVX512VNNI__)
struct StreamInt8Vnni : StreamInt8Avx512Common {
    static constexpr int kOffset = 128;  // vpdpbusd's inputs are unsigned
    using Operand = __m512i;
    static UNROLLED_INLINE Operand broadcast(const act *a) {
        int32_t four;
        memcpy(&four, a, 4);
        return _mm512_set1_epi32(four);
    }
    static UNROLLED_INLINE Acc dot(Acc acc, Operand a, const weight *w) {
        return _mm512_dpbusd_epi32(acc, a, _mm512_loadu_si512(w));
    }
    static void convert(const float *x, index n, index padded, act *to, float *scale) {
        convert_with<128>(x, n, padded, to, scale);
    }
};
#endif
#endif

// ------------------------------------------------------------------------------------------------------------ products
// Bytes of a part of NV vectors of rows and K columns, and of its header.
template <class P, int NV>
constexpr index header_bytes() {
    return P::kScaled ? NV * P::Simd::N * 8 : 0;
}
template <class P, int NV>
constexpr index part_bytes(index K) {
    return header_bytes<P, NV>() +
           blocks_of(K, P::kGroup) * P::kGroup * NV * P::Simd::N * index(sizeof(typename P::weight));
}

// Columns of a product's input after padding.
template <class P>
constexpr index padded_width(index K) {
    return blocks_of(K, P::kGroup) * P::kGroup;
}

// row_of(vector, lane): which row of w (rows, K), or -1 for a row of zeros.
template <class P, int NV, class RowOf>
void pack_part(const float *w, index K, char *to, RowOf row_of) {
    constexpr int N = P::Simd::N, group = P::kGroup;
    using weight = typename P::weight;
    weight *const packed = reinterpret_cast<weight *>(to + header_bytes<P, NV>());
    float *const scales = reinterpret_cast<float *>(to);
    int32_t *const sums = reinterpret_cast<int32_t *>(to) + NV * N;
    memset(to, 0, size_t(part_bytes<P, NV>(K)));
    for (int v = 0; v < NV; ++v) {
        if constexpr (sizeof(weight) == 4 && group == 1) {
            const index first = row_of(v, 0);
            index lanes = 0;  // rows that follow each other
            while (lanes < N && first >= 0 && row_of(v, int(lanes)) == first + lanes) ++lanes;
            bool others = false;
            for (int lane = int(lanes); lane < N; ++lane) others |= row_of(v, lane) >= 0;
            if (!others) {  // 4 times faster than one by one
                float *const columns = reinterpret_cast<float *>(packed) + v * N;
                if (lanes == 16)
                    transpose_cells_by_16(w + first * K, K, K, columns, NV * N);
                else
                    transpose_cells(w + first * K, K, lanes, K, columns, NV * N);
                continue;
            }
        }
        for (int lane = 0; lane < N; ++lane) {
            const index row = row_of(v, lane);
            if (row < 0) continue;
            const float *from = w + row * K;
            float inverse = 1;
            if constexpr (P::kScaled) {
                uint32_t largest = 0;
                for (index k = 0; k < K; ++k) largest = absolute_bits(from[k]) > largest ? absolute_bits(from[k]) : largest;
                const Scale s = scale_for(largest);
                scales[v * N + lane] = s.scale;
                inverse = s.inverse;
            }
            int32_t sum = 0;
            for (index k = 0; k < K; ++k) {
                weight *at = packed + ((k / group * NV + v) * N + lane) * group + k % group;
                P::put(at, from[k], inverse);
                if constexpr (P::kScaled) sum += *at;
            }
            if constexpr (P::kScaled) sums[v * N + lane] = sum * P::kOffset;
        }
    }
}

// g[r][v] += w a[r]
template <class P, int R, int NV>
UNROLLED_INLINE void product(const char *w, const typename P::act *const (&a)[R], const float *scales, index K,
                             typename P::V (&g)[R][NV]) {
    using Simd = typename P::Simd;
    using Acc = typename P::Acc;
    constexpr int N = Simd::N, group = P::kGroup;
    constexpr int S = R * NV >= 6 ? 1 : (7 + R * NV) / (R * NV);  // independent sums, to hide the multiply-add's latency
    Acc acc[S][R][NV];
#pragma GCC unroll 16
    for (int s = 0; s < S; ++s)
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) acc[s][r][v] = P::zero();

    const typename P::weight *p = reinterpret_cast<const typename P::weight *>(w + header_bytes<P, NV>());
    constexpr index one = index(NV) * N * group;
    const index groups = blocks_of(K, group);
    const auto take = [&](Acc(&to)[R][NV], index i) UNROLLED_LAMBDA_INLINE {
        typename P::Operand o[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) o[r] = P::broadcast(a[r] + i * group);
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) {
            const typename P::weight *at = p + v * N * group;
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) to[r][v] = P::dot(to[r][v], o[r], at);
        }
        p += one;
    };
    index i = 0;
    for (; i + S <= groups; i += S) {
#pragma GCC unroll 16
        for (int s = 0; s < S; ++s) take(acc[s], i + s);
    }
    for (; i < groups; ++i) take(acc[0], i);

#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) {
            Acc sum = acc[0][r][v];
#pragma GCC unroll 16
            for (int s = 1; s < S; ++s) sum = P::add(sum, acc[s][r][v]);
            if constexpr (P::kScaled) {
                const float *row_scales = reinterpret_cast<const float *>(w);
                const int32_t *sums = reinterpret_cast<const int32_t *>(w) + NV * N;
                if constexpr (P::kOffset != 0) sum = _mm512_sub_epi32(sum, P::load(sums + v * N));
                const typename P::V scale = Simd::mul(Simd::load(row_scales + v * N), Simd::set1(scales[r]));
                g[r][v] = Simd::fma(P::to_float(sum), scale, g[r][v]);
            } else {
                g[r][v] = Simd::add(g[r][v], P::to_float(sum));
            }
        }
}

// --------------------------------------------------------------------------------------------------------------- cells
// One layer of one call. Rows of the batch are `index row`.
template <class P>
struct StreamLayer {
    using act = typename P::act;
    const char *weights;
    index B, H, K;                  // K: columns of W_ih; 0 when the table has taken its place
    const act *x, *h;               // converted inputs
    index x_step, h_step;
    const float *x_scales, *h_scales;
    const float *table;             // (V, G * padded units) ?
    index table_step;
    const int64_t *ids;
    const float *h_in, *c_in;       // ?
    float *h_out, *c_out;

    template <int R>
    UNROLLED_INLINE void x_rows(index row, const act *(&to)[R]) const {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) to[r] = x + (row + r) * x_step;
    }
    template <int R>
    UNROLLED_INLINE void h_rows(index row, const act *(&to)[R]) const {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) to[r] = h + (row + r) * h_step;
    }
    // bias, and the table's row, in g
    template <int R, int NV, int TO>
    UNROLLED_INLINE void begin(const char *bias, index unit, index row, typename P::V (&g)[R][TO]) const {
        using Simd = typename P::Simd;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) {
                g[r][v] = Simd::load(reinterpret_cast<const float *>(bias) + v * Simd::N);
                if (table)
                    g[r][v] = Simd::add(g[r][v], Simd::load(table + ids[row + r] * table_step + unit * TO + v * Simd::N));
            }
    }
};

// A cell: how many vectors a block's products have (NV), how many its bias, how a bias is made of b_ih and b_hh, and
// tile(): R rows of the batch through one block of units.
template <class P, int UNITS>
struct StreamCell {
    using Simd = typename P::Simd;
    using V = typename Simd::V;
    using A = Activation<Simd>;
    static constexpr int N = Simd::N;
    static constexpr index units = UNITS * N;
};

template <class P>
struct StreamLstm : StreamCell<P, 1> {
    using Base = StreamCell<P, 1>;
    using typename Base::A, typename Base::Simd, typename Base::V;
    static constexpr int N = Base::N, NV = 4, kBias = 4, kGates = 4;
    static UNROLLED_INLINE index row(index H, index unit, int v, int lane) {
        return unit + lane < H ? v * H + unit + lane : -1;
    }
    static float bias(const float *b_ih, const float *b_hh, index H, index unit, int v, int lane) {
        const index i = row(H, unit, v, lane);
        return i < 0 ? 0 : (b_ih ? b_ih[i] : 0) + (b_hh ? b_hh[i] : 0);
    }
    template <int R>
    static UNROLLED_INLINE void tile(const StreamLayer<P> &l, const char *w, index unit, index row) {
        V g[R][4];
        l.template begin<R, 4>(w, unit, row, g);
        w += kBias * N * 4;
        const typename P::act *a[R];
        if (l.K) {
            l.template x_rows<R>(row, a);
            product<P, R, 4>(w, a, l.x_scales + row, l.K, g);
            w += part_bytes<P, 4>(l.K);
        }
        l.template h_rows<R>(row, a);
        product<P, R, 4>(w, a, l.h_scales + row, l.H, g);
        const typename Simd::Lanes lanes(l.H - unit);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const index at = (row + r) * l.H + unit;
            const V i = A::sigmoid(g[r][0]), f = A::sigmoid(g[r][1]), n = A::tanh(g[r][2]), o = A::sigmoid(g[r][3]);
            const V before = l.c_in ? Simd::load(l.c_in + at, lanes) : Simd::zero();
            const V c = Simd::fma(f, before, Simd::mul(i, n));
            Simd::store(l.c_out + at, c, lanes);
            Simd::store(l.h_out + at, Simd::mul(o, A::tanh(c)), lanes);
        }
    }
};

template <class P>
struct StreamGru : StreamCell<P, 1> {
    using Base = StreamCell<P, 1>;
    using typename Base::A, typename Base::Simd, typename Base::V;
    static constexpr int N = Base::N, NV = 3, kBias = 4, kGates = 3;  // the fourth bias is W_hn's own
    static UNROLLED_INLINE index row(index H, index unit, int v, int lane) {
        return unit + lane < H ? v * H + unit + lane : -1;
    }
    static float bias(const float *b_ih, const float *b_hh, index H, index unit, int v, int lane) {
        const index i = row(H, unit, v == 3 ? 2 : v, lane);
        return i < 0 ? 0 : (b_ih && v < 3 ? b_ih[i] : 0) + (b_hh && v != 2 ? b_hh[i] : 0);
    }
    template <int R>
    static UNROLLED_INLINE void tile(const StreamLayer<P> &l, const char *w, index unit, index row) {
        V x[R][3], h[R][3];
        l.template begin<R, 3>(w, unit, row, x);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            h[r][0] = h[r][1] = Simd::zero();
            h[r][2] = Simd::load(reinterpret_cast<const float *>(w) + 3 * N);
        }
        w += kBias * N * 4;
        const typename P::act *a[R];
        if (l.K) {
            l.template x_rows<R>(row, a);
            product<P, R, 3>(w, a, l.x_scales + row, l.K, x);
            w += part_bytes<P, 3>(l.K);
        }
        l.template h_rows<R>(row, a);
        product<P, R, 3>(w, a, l.h_scales + row, l.H, h);
        const typename Simd::Lanes lanes(l.H - unit);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const index at = (row + i) * l.H + unit;
            const V r = A::sigmoid(Simd::add(x[i][0], h[i][0])), z = A::sigmoid(Simd::add(x[i][1], h[i][1]));
            const V n = A::tanh(Simd::fma(r, h[i][2], x[i][2]));
            const V before = l.h_in ? Simd::load(l.h_in + at, lanes) : Simd::zero();
            Simd::store(l.h_out + at, Simd::fma(z, Simd::sub(before, n), n), lanes);  // (1 - z) n + z h
        }
    }
};

template <class P, int UNITS, bool RELU>
struct StreamRnn : StreamCell<P, UNITS> {
    using Base = StreamCell<P, UNITS>;
    using typename Base::A, typename Base::Simd, typename Base::V;
    static constexpr int N = Base::N, NV = UNITS, kBias = UNITS, kGates = 1;
    static UNROLLED_INLINE index row(index H, index unit, int v, int lane) {
        const index i = unit + v * N + lane;
        return i < H ? i : -1;
    }
    static float bias(const float *b_ih, const float *b_hh, index H, index unit, int v, int lane) {
        const index i = row(H, unit, v, lane);
        return i < 0 ? 0 : (b_ih ? b_ih[i] : 0) + (b_hh ? b_hh[i] : 0);
    }
    template <int R>
    static UNROLLED_INLINE void tile(const StreamLayer<P> &l, const char *w, index unit, index row) {
        V g[R][UNITS];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < UNITS; ++v) {
                g[r][v] = Simd::load(reinterpret_cast<const float *>(w) + v * N);
                if (l.table) g[r][v] = Simd::add(g[r][v], Simd::load(l.table + l.ids[row + r] * l.table_step + unit + v * N));
            }
        w += kBias * N * 4;
        const typename P::act *a[R];
        if (l.K) {
            l.template x_rows<R>(row, a);
            product<P, R, UNITS>(w, a, l.x_scales + row, l.K, g);
            w += part_bytes<P, UNITS>(l.K);
        }
        l.template h_rows<R>(row, a);
        product<P, R, UNITS>(w, a, l.h_scales + row, l.H, g);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < UNITS; ++v) {
                const V h = RELU ? Simd::zero_where_not_positive(g[r][v], g[r][v]) : A::tanh(g[r][v]);
                Simd::store(l.h_out + (row + r) * l.H + unit + v * N, h, typename Simd::Lanes(l.H - unit - v * N));
            }
    }
};

// The linear layer: an RNN without recurrence and non-linearity. Logits take the place of h, V_out that of H.
template <class P, int UNITS>
struct StreamLinear : StreamCell<P, UNITS> {
    using Base = StreamCell<P, UNITS>;
    using typename Base::Simd, typename Base::V;
    static constexpr int N = Base::N, NV = UNITS, kBias = UNITS, kGates = 1;
    static UNROLLED_INLINE index row(index H, index unit, int v, int lane) {
        const index i = unit + v * N + lane;
        return i < H ? i : -1;
    }
    static float bias(const float *b, const float *, index H, index unit, int v, int lane) {
        const index i = row(H, unit, v, lane);
        return i < 0 || !b ? 0 : b[i];
    }
    template <int R>
    static UNROLLED_INLINE void tile(const StreamLayer<P> &l, const char *w, index unit, index row) {
        V g[R][UNITS];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < UNITS; ++v) g[r][v] = Simd::load(reinterpret_cast<const float *>(w) + v * N);
        w += kBias * N * 4;
        const typename P::act *a[R];
        l.template x_rows<R>(row, a);
        product<P, R, UNITS>(w, a, l.x_scales + row, l.K, g);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < UNITS; ++v)
                Simd::store(l.h_out + (row + r) * l.H + unit + v * N, g[r][v], typename Simd::Lanes(l.H - unit - v * N));
    }
};

// A layer is blocks of its wide cell, and, when at most half a block of units is left, one of its narrow cell.
template <class P>
struct LstmCells {
    using Wide = StreamLstm<P>;
    using Narrow = StreamLstm<P>;
};
template <class P>
struct GruCells {
    using Wide = StreamGru<P>;
    using Narrow = StreamGru<P>;
};
template <class P>
struct TanhCells {
    using Wide = StreamRnn<P, 2, false>;
    using Narrow = StreamRnn<P, 1, false>;
};
template <class P>
struct ReluCells {
    using Wide = StreamRnn<P, 2, true>;
    using Narrow = StreamRnn<P, 1, true>;
};
template <class P>
struct LinearCells {
    using Wide = StreamLinear<P, 2>;
    using Narrow = StreamLinear<P, 1>;
};

template <class P, class Cells>
constexpr index wide_blocks(index H) {
    constexpr index wide = Cells::Wide::units, narrow = Cells::Narrow::units;
    return H / wide + (H % wide > (wide == narrow ? 0 : narrow) ? 1 : 0);
}
template <class P, class Cells>
constexpr index padded_units(index H) {
    const index done = wide_blocks<P, Cells>(H) * Cells::Wide::units;
    return done >= H ? done : done + Cells::Narrow::units;
}

// x columns K_x (0: none), h columns K_h (0: none)
template <class P, class Cell>
constexpr index block_bytes(index K_x, index K_h) {
    return Cell::kBias * Cell::N * 4 + (K_x ? part_bytes<P, Cell::NV>(K_x) : 0) + (K_h ? part_bytes<P, Cell::NV>(K_h) : 0);
}

template <class P, class Cells>
index layer_bytes(index H, index K_x, index K_h) {
    const index wide = wide_blocks<P, Cells>(H);
    const bool narrow = wide * Cells::Wide::units < H;
    return wide * block_bytes<P, typename Cells::Wide>(K_x, K_h) +
           (narrow ? block_bytes<P, typename Cells::Narrow>(K_x, K_h) : 0);
}

template <class P, class Cell>
char *pack_block(char *to, index unit, index H, index K_x, index K_h, const float *w_ih, const float *w_hh,
                 const float *b_ih, const float *b_hh) {
    for (int v = 0; v < Cell::kBias; ++v)
        for (int lane = 0; lane < Cell::N; ++lane)
            reinterpret_cast<float *>(to)[v * Cell::N + lane] = Cell::bias(b_ih, b_hh, H, unit, v, lane);
    to += Cell::kBias * Cell::N * 4;
    const auto row_of = [&](int v, int lane) { return Cell::row(H, unit, v, lane); };
    if (K_x) {
        pack_part<P, Cell::NV>(w_ih, K_x, to, row_of);
        to += part_bytes<P, Cell::NV>(K_x);
    }
    if (K_h) {
        pack_part<P, Cell::NV>(w_hh, K_h, to, row_of);
        to += part_bytes<P, Cell::NV>(K_h);
    }
    return to;
}

template <class P, class Cells>
void pack_layer(char *to, index H, index K_x, index K_h, const float *w_ih, const float *w_hh, const float *b_ih,
                const float *b_hh) {
    const index wide = wide_blocks<P, Cells>(H);
    for (index b = 0; b < wide; ++b)
        to = pack_block<P, typename Cells::Wide>(to, b * Cells::Wide::units, H, K_x, K_h, w_ih, w_hh, b_ih, b_hh);
    if (wide * Cells::Wide::units < H)
        pack_block<P, typename Cells::Narrow>(to, wide * Cells::Wide::units, H, K_x, K_h, w_ih, w_hh, b_ih, b_hh);
}

template <class P, class Cells>
void pack_model(const unrolled_stream_spec &spec, unrolled::StreamModel &m) {
    using Wide = typename Cells::Wide;
    constexpr int N = Wide::N;
    const index H = spec.H, units = padded_units<P, Cells>(H);
    index at = 0;
    for (index layer = 0; layer < spec.L; ++layer) {
        const index K = layer ? H : m.has_table ? 0 : spec.I;
        const float *const *w = spec.weights + 4 * layer;
        m.layer_at[layer] = size_t(at);
        if (m.arena) pack_layer<P, Cells>(m.arena + at, H, K, H, w[0], w[1], w[2], w[3]);
        at += (layer_bytes<P, Cells>(H, K, H) + 63) / 64 * 64;
    }
    m.layer_at[spec.L] = size_t(at);
    if (spec.V_out) {
        if (m.arena)
            pack_layer<P, LinearCells<P>>(m.arena + at, spec.V_out, H, 0, spec.decoder, nullptr, spec.decoder_bias, nullptr);
        at += (layer_bytes<P, LinearCells<P>>(spec.V_out, H, 0) + 63) / 64 * 64;
    }
    m.table_at = m.embedding_at = size_t(at);
    if (m.has_table) {
        const index step = units * Wide::kGates;
        for (index token = 0; m.arena && token < spec.V; ++token) {
            float *to = reinterpret_cast<float *>(m.arena + at) + token * step;
            const float *from = spec.table + token * H * Wide::kGates;
            for (index unit = 0; unit < units; unit += N)
                for (int g = 0; g < Wide::kGates; ++g)
                    for (int lane = 0; lane < N; ++lane)
                        *to++ = unit + lane < H ? from[g * H + unit + lane] : 0;
        }
        at += spec.V * step * 4;
    } else if (m.has_embedding) {
        if (m.arena) memcpy(m.arena + at, spec.embedding, size_t(spec.V * spec.I) * 4);
        at += spec.V * spec.I * 4;
    }
    m.bytes = size_t(at);
}

template <class P, class Cell>
UNROLLED_INLINE void run_block(const StreamLayer<P> &l, const char *w, index unit) {
    index row = 0;
    if constexpr (P::Simd::kRegisters == 32)
        for (; row + 4 <= l.B; row += 4) Cell::template tile<4>(l, w, unit, row);
    for (; row + 2 <= l.B; row += 2) Cell::template tile<2>(l, w, unit, row);
    if (row < l.B) Cell::template tile<1>(l, w, unit, row);
}

// This thread's share of a layer's blocks. A block is computed by one thread in one order: as many threads as you like
// give the same bits.
template <class P, class Cells>
void run_layer(const StreamLayer<P> &l, bool recurrent, index threads = 1, index me = 0) {
    const index K_h = recurrent ? l.H : 0, wide = wide_blocks<P, Cells>(l.H);
    const index all = wide + (wide * Cells::Wide::units < l.H ? 1 : 0);
    const index first = all * me / threads, end = all * (me + 1) / threads;
    const index bytes = block_bytes<P, typename Cells::Wide>(l.K, K_h);
    const char *w = l.weights + first * bytes;
    for (index b = first; b < end && b < wide; ++b, w += bytes)
        run_block<P, typename Cells::Wide>(l, w, b * Cells::Wide::units);
    if constexpr (Cells::Wide::units != Cells::Narrow::units)
        if (end > wide && first < end) run_block<P, typename Cells::Narrow>(l, w, wide * Cells::Wide::units);
}

template <class P>
ptrdiff_t act_bytes(ptrdiff_t width) {
    return blocks_of(padded_width<P>(width) * index(sizeof(typename P::act)), 64) * 64;
}

// Inputs of a product, (B, n) float -> acts.
template <class P>
void convert_rows(const float *x, index n, index B, typename P::act *to, index step, float *scales) {
    for (index b = 0; b < B; ++b) P::convert(x + b * n, n, padded_width<P>(n), to + b * step, scales + b);
}

template <class P, class Cells>
void step_model(const unrolled::StreamModel &m, const unrolled::StreamCall &call) {
    using act = typename P::act;
    const index B = call.B, H = m.H, widest = m.I > H ? m.I : H;
    StreamLayer<P> l{};
    l.B = B;
    l.H = H;
    l.x_step = act_bytes<P>(widest) / index(sizeof(act));
    l.h_step = act_bytes<P>(H) / index(sizeof(act));
    act *const x = reinterpret_cast<act *>(m.acts), *const h = x + m.rows * l.x_step;
    l.x = x;
    l.h = h;
    l.x_scales = m.act_scales;
    l.h_scales = m.act_scales + m.rows;
    for (index layer = 0; layer < m.L; ++layer) {
        const index state = layer * B * H;
        l.weights = m.arena + m.layer_at[layer];
        l.table = nullptr;
        l.K = layer ? H : m.I;
        if (layer) {
            convert_rows<P>(call.h_out + state - B * H, H, B, x, l.x_step, m.act_scales);
        } else if (m.has_table) {
            l.K = 0;
            l.table = reinterpret_cast<const float *>(m.arena + m.table_at);
            l.table_step = padded_units<P, Cells>(H) * Cells::Wide::kGates;
            l.ids = call.ids;
        } else if (m.has_embedding) {
            const float *rows = reinterpret_cast<const float *>(m.arena + m.embedding_at);
            for (index b = 0; b < B; ++b)
                convert_rows<P>(rows + call.ids[b] * m.I, m.I, 1, x + b * l.x_step, l.x_step, m.act_scales + b);
        } else {
            convert_rows<P>(call.x, m.I, B, x, l.x_step, m.act_scales);
        }
        if (call.h_in) {
            convert_rows<P>(call.h_in + state, H, B, h, l.h_step, m.act_scales + m.rows);
        } else {
            memset(h, 0, size_t(B * l.h_step) * sizeof(act));
            for (index b = 0; b < B; ++b) m.act_scales[m.rows + b] = 0;
        }
        l.h_in = call.h_in ? call.h_in + state : nullptr;
        l.c_in = call.c_in ? call.c_in + state : nullptr;
        l.h_out = call.h_out + state;
        l.c_out = call.c_out ? call.c_out + state : nullptr;
        run_layer<P, Cells>(l, true);
    }
}

template <class P>
void decode(const unrolled::StreamModel &m, ptrdiff_t B, const float *h, float *logits) {
    using act = typename P::act;
    StreamLayer<P> l{};
    l.weights = m.arena + m.layer_at[m.L];
    l.B = B;
    l.H = m.V_out;
    l.K = m.H;
    l.x_step = act_bytes<P>(m.I > m.H ? m.I : m.H) / index(sizeof(act));
    act *const x = reinterpret_cast<act *>(m.acts);
    convert_rows<P>(h, m.H, B, x, l.x_step, m.act_scales);
    l.x = x;
    l.x_scales = m.act_scales;
    l.h_out = logits;
    run_layer<P, LinearCells<P>>(l, false);
}

// One thread's inputs of products in a walk: of each layer its h, which is also the next layer's x, then the first x.
template <class P>
struct WalkInputs {
    using act = typename P::act;
    char *scratch;
    index L, h_bytes;
    WalkInputs(const unrolled::StreamModel &m, char *from) : scratch(from), L(m.L), h_bytes(act_bytes<P>(m.H)) {}
    act *of(index layer) const { return reinterpret_cast<act *>(scratch + layer * h_bytes); }
    act *first() const { return of(L); }
    float *scales(const unrolled::StreamModel &m) const {  // (L + 1)
        return reinterpret_cast<float *>(scratch + L * h_bytes + (m.has_embedding ? act_bytes<P>(m.I) : 0));
    }
};

template <class P>
ptrdiff_t walk_bytes(const unrolled::StreamModel &m) {
    const index floats = blocks_of((m.L + 1) * index(sizeof(float)), 64) * 64;
    return m.L * act_bytes<P>(m.H) + (m.has_embedding ? act_bytes<P>(m.I) : 0) + floats + 64;  // no line of two threads
}

// Threads share each layer's units and meet after it. What a layer reads of others' units is each thread's own copy,
// made between two meetings, so that the state can be written in place.
template <class P, class Cells>
void walk_model(const unrolled::StreamModel &m, unrolled::StreamWalk &walk, const Team &team) {
    const WalkInputs<P> inputs(m, walk.scratch + team.me * walk_bytes<P>(m));
    float *const scales = inputs.scales(m);
    const auto copy = [&](index layer) {
        convert_rows<P>(walk.h + layer * m.H, m.H, 1, inputs.of(layer), 0, scales + layer);
    };
    for (index layer = 0; layer < m.L; ++layer) copy(layer);
    team.assemble();
    for (int64_t i = walk.from; i < walk.end; ++i) {
        const int64_t token = walk.given ? walk.given[i] : walk.token;
        for (index layer = 0; layer < m.L && token >= 0; ++layer) {
            StreamLayer<P> l{};
            l.weights = m.arena + m.layer_at[layer];
            l.B = 1;
            l.H = l.K = m.H;
            l.h = inputs.of(layer);
            l.h_scales = scales + layer;
            if (layer) {
                l.x = inputs.of(layer - 1);
                l.x_scales = scales + layer - 1;
            } else if (m.has_table) {
                l.K = 0;
                l.table = reinterpret_cast<const float *>(m.arena + m.table_at);
                l.table_step = padded_units<P, Cells>(m.H) * Cells::Wide::kGates;
                l.ids = &token;
            } else {
                l.K = m.I;
                l.x = inputs.first();
                l.x_scales = scales + m.L;
                convert_rows<P>(reinterpret_cast<const float *>(m.arena + m.embedding_at) + token * m.I, m.I, 1,
                                inputs.first(), 0, scales + m.L);
            }
            l.h_in = l.h_out = walk.h + layer * m.H;
            l.c_in = l.c_out = walk.c ? walk.c + layer * m.H : nullptr;
            run_layer<P, Cells>(l, true, team.count, team.me);
            team.wait();
            copy(layer);
        }
        if (walk.given) {
            if (m.L == 1) team.wait();  // the next step writes what others may still be copying
            continue;
        }
        StreamLayer<P> l{};
        l.weights = m.arena + m.layer_at[m.L];
        l.B = 1;
        l.H = m.V_out;
        l.K = m.H;
        l.x = inputs.of(m.L - 1);
        l.x_scales = scales + m.L - 1;
        l.h_out = walk.logits;
        run_layer<P, LinearCells<P>>(l, false, team.count, team.me);
        team.wait();
        if (team.me == 0) walk.ended = !walk.choose(walk, i);
        team.wait();
        if (walk.ended) return;
    }
}

template <class P>
void walk_any(const unrolled::StreamModel &m, unrolled::StreamWalk &walk, const Team &team) {
    switch (m.mode) {
        case UNROLLED_LSTM: return walk_model<P, LstmCells<P>>(m, walk, team);
        case UNROLLED_GRU: return walk_model<P, GruCells<P>>(m, walk, team);
        case UNROLLED_RNN_TANH: return walk_model<P, TanhCells<P>>(m, walk, team);
        default: return walk_model<P, ReluCells<P>>(m, walk, team);
    }
}

template <class P>
int walk_on(const unrolled::StreamModel &m, unrolled::StreamWalk &walk, int threads) {
    struct Call {
        const unrolled::StreamModel *model;
        unrolled::StreamWalk *walk;
        Barrier barrier;
    } call{&m, &walk, {}};
    if (threads == 1) {
        walk_any<P>(m, walk, Team{1, 0, &call.barrier});
        return 0;
    }
    const double start = monotonic_seconds();
    const bool ran = unrolled::run_parallel(
        threads,
        [](void *data, int count, int me) {
            Call *c = static_cast<Call *>(data);
            walk_any<P>(*c->model, *c->walk, Team{count, me, &c->barrier});
        },
        &call);
    return ran ? call.barrier.lost(threads, monotonic_seconds() - start) : -1;
}

template <class P>
void step_any(const unrolled::StreamModel &m, const unrolled::StreamCall &call) {
    switch (m.mode) {
        case UNROLLED_LSTM: return step_model<P, LstmCells<P>>(m, call);
        case UNROLLED_GRU: return step_model<P, GruCells<P>>(m, call);
        case UNROLLED_RNN_TANH: return step_model<P, TanhCells<P>>(m, call);
        default: return step_model<P, ReluCells<P>>(m, call);
    }
}

template <class P>
void pack_any(const unrolled_stream_spec &spec, unrolled::StreamModel &m) {
    switch (m.mode) {
        case UNROLLED_LSTM: return pack_model<P, LstmCells<P>>(spec, m);
        case UNROLLED_GRU: return pack_model<P, GruCells<P>>(spec, m);
        default: return pack_model<P, TanhCells<P>>(spec, m);  // relu's layout is the same
    }
}

template <class P>
constexpr unrolled::StreamKernels stream(const char *name) {
    return {name, pack_any<P>, act_bytes<P>, step_any<P>, decode<P>, walk_bytes<P>, walk_on<P>};
}

}  // namespace UNROLLED_ISA
