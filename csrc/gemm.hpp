// The register-tiled products everything is made of.
//
// A tile is R rows x NV vectors of accumulators held in registers. Rows are given by pointers, one each, so that rows
// of a batch that have ended are simply not listed and rows that were reset point at zeros: masks cost nothing here.
// The right-hand operand is packed so that one k is NV consecutive vectors.
#pragma once
#include "arithmetic.hpp"

namespace UNROLLED_ISA {

constexpr index ceil_div(index a, index b) { return (a + b - 1) / b; }
constexpr index smaller(index a, index b) { return a < b ? a : b; }
constexpr index larger(index a, index b) { return a > b ? a : b; }

struct Range {
    index begin, end;
};
UNROLLED_INLINE Range share(index total, index parts, index part) {
    index base = total / parts, extra = total % parts;
    index begin = part * base + smaller(part, extra);
    return {begin, begin + base + (part < extra ? 1 : 0)};
}

// Rows per tile: accumulators + one k of weights + a broadcast fit the register file without a spill.
template <class Simd>
constexpr int tile_rows(int vectors) {
    return Simd::kRegisters == 32 ? (vectors >= 4 ? 6 : vectors == 3 ? 8 : 12)
                                  : (vectors >= 4 ? 3 : vectors == 3 ? 4 : vectors == 2 ? 6 : 10);
}

template <int R>
struct Rows {
    static constexpr int value = R;
};

template <int R, class F>
UNROLLED_INLINE void with_rows(index rows, F &&f) {
    if (rows == R)
        f(Rows<R>{});
    else if constexpr (R > 1)
        with_rows<R - 1>(rows, static_cast<F &&>(f));
}

// Calls f(Rows<R>, first) over tiles of nearly equal height: 20 rows in tiles of at most 6 are 5+5+5+5, not 6+6+6+2.
template <int MAX, class F>
UNROLLED_INLINE void tiles(index rows, F &&f) {
    if (rows <= 0) return;
    const index count = ceil_div(rows, MAX);
    for (index i = 0; i < count; ++i) {
        const Range r = share(rows, count, i);
        with_rows<MAX>(r.end - r.begin, [&](auto R) UNROLLED_LAMBDA_INLINE { f(R, r.begin); });
    }
}

// One k (or pair). `broadcast(r)` gives row r's factor. The smaller operand is held, the other made where it is used:
// holding both is two registers too many for a full tile, and gcc spills accumulators.
template <class A, int R, int NV, int S, class F>
UNROLLED_INLINE void one_k(typename A::V (&acc)[R][S], int first, const typename A::elem *w, F &&broadcast) {
    constexpr int step = A::Simd::N * A::kPair;
    if constexpr (NV <= R) {
        typename A::Operand wv[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) wv[v] = A::weights(w + v * step);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const typename A::Operand av = broadcast(r);
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) acc[r][first + v] = A::dot(acc[r][first + v], av, wv[v]);
        }
    } else {
        typename A::Operand av[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) av[r] = broadcast(r);
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) {
            const typename A::Operand wv = A::weights(w + v * step);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[r][first + v] = A::dot(acc[r][first + v], av[r], wv);
        }
    }
}

// acc[r][FIRST + v] += sum over k of rows[r][k] * w[k][v], k in [0, K), K a multiple of the pair except at its end.
// Nothing is prefetched: Zen 5 does it by itself, and fetching two lines of the weights to come per k made training at B = 16,
// I = H = 1024 1.15 times slower.
template <class A, int R, int NV, int FIRST, int S>
UNROLLED_INLINE void accumulate(typename A::V (&acc)[R][S], const typename A::elem *const *rows, index K,
                                const typename A::elem *w) {
    using elem = typename A::elem;
    constexpr index P = A::kPair, step = index(NV) * A::Simd::N * P;
    const elem *a[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) a[r] = rows[r];
    const index whole = K / P;
    index k = 0;
    if constexpr (R * NV <= 3) {  // too few independent sums to hide the multiply-add's latency: use four times as many
        typename A::V more[3][R][S];
#pragma GCC unroll 16
        for (int i = 0; i < 3; ++i)
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < S; ++v) more[i][r][v] = A::Simd::zero();
        for (; k + 4 <= whole; k += 4) {
#pragma GCC unroll 16
            for (int i = 0; i < 4; ++i) {
                one_k<A, R, NV>(i ? more[i ? i - 1 : 0] : acc, FIRST, w,
                                [&](int r) UNROLLED_LAMBDA_INLINE { return A::broadcast(a[r] + (k + i) * P); });
                w += step;
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = FIRST; v < FIRST + NV; ++v)
                acc[r][v] = A::Simd::add(A::Simd::add(acc[r][v], more[0][r][v]), A::Simd::add(more[1][r][v], more[2][r][v]));
    }
    for (; k < whole; ++k) {
        one_k<A, R, NV>(acc, FIRST, w, [&](int r) UNROLLED_LAMBDA_INLINE { return A::broadcast(a[r] + k * P); });
        w += step;
    }
    if constexpr (P > 1) {
        if (whole * P < K)
            one_k<A, R, NV>(acc, FIRST, w, [&](int r) UNROLLED_LAMBDA_INLINE { return A::broadcast_last(a[r] + whole * P); });
    }
}

struct Nothing {
    template <class... Where>
    UNROLLED_INLINE void operator()(Where...) const {}
};

// C rows = [C rows +] A rows x panel, for one panel of NV vectors. A's k runs over `segments` runs of `length`, `stride`
// apart (GRU's gate gradients leave out one slot of four).
template <class A>
struct Segments {
    index segments, length, stride;
};

// `before_tile(first row, rows)` is called before each tile.
template <class A, int NV, class C, class F = Nothing>
UNROLLED_INLINE void product_panel(index rows, const typename A::elem *const *a, Segments<A> k,
                                   const typename A::elem *panel, C *const *c, index column, index columns, bool add_to,
                                   F &&before_tile = F()) {
    using Simd = typename A::Simd;
    using elem = typename A::elem;
    const typename Simd::Lanes last(columns - (NV - 1) * Simd::N);
    tiles<tile_rows<Simd>(NV)>(rows, [&](auto tile, index first) {
        constexpr int R = decltype(tile)::value;
        before_tile(first, index(R));
        typename A::V acc[R][NV];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) acc[r][v] = Simd::zero();
        if (add_to) {
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
                for (int v = 0; v < NV; ++v) {
                    const C *from = c[first + r] + column + v * Simd::N;
                    acc[r][v] = v == NV - 1 ? Simd::load(from, last) : Simd::load(from);
                }
        }
        const elem *rows_of_a[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) rows_of_a[r] = a[first + r];
        const elem *w = panel;
        for (index s = 0; s < k.segments; ++s) {
            accumulate<A, R, NV, 0>(acc, rows_of_a, k.length, w);
            w += k.length * NV * Simd::N;
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) rows_of_a[r] += k.stride;
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) {
                C *to = c[first + r] + column + v * Simd::N;
                if (v == NV - 1)
                    Simd::store(to, acc[r][v], last);
                else
                    Simd::store(to, acc[r][v]);
            }
    });
}

// The right-hand sides of backward: W (rows x columns) as panels of up to 4 vectors of columns.
template <class A>
struct Panels {
    static constexpr index kWidth = 4 * A::Simd::N;
    index depth = 0, columns = 0;  // depth: how many k, padded to the pair
    typename A::elem *data = nullptr;
    index count() const { return ceil_div(columns, kWidth); }
    index vectors(index panel) const { return smaller(4, ceil_div(columns - panel * kWidth, A::Simd::N)); }
    index size() const { return depth * ceil_div(columns, A::Simd::N) * A::Simd::N; }
    typename A::elem *panel(index p) const { return data + p * depth * kWidth; }
};

// `before_tile(panel, first row, rows)` is called before each tile.
template <class A, class C, class F = Nothing>
inline void product(index rows, const typename A::elem *const *a, Segments<A> k, const Panels<A> &w, index first_panel,
                    index last_panel, C *const *c, bool add_to, F &&before_tile = F()) {
    for (index p = first_panel; p < last_panel; ++p) {
        const index column = p * Panels<A>::kWidth, columns = smaller(w.columns - column, Panels<A>::kWidth);
        auto before = [&](index first, index count) UNROLLED_LAMBDA_INLINE { before_tile(p, first, count); };
        switch (w.vectors(p)) {
            case 1: product_panel<A, 1>(rows, a, k, w.panel(p), c, column, columns, add_to, before); break;
            case 2: product_panel<A, 2>(rows, a, k, w.panel(p), c, column, columns, add_to, before); break;
            case 3: product_panel<A, 3>(rows, a, k, w.panel(p), c, column, columns, add_to, before); break;
            default: product_panel<A, 4>(rows, a, k, w.panel(p), c, column, columns, add_to, before); break;
        }
    }
}

// Where the operands of a weight's gradient are at step k: packed one after the other, or in the rows they came in.
template <class elem>
struct Packed {
    const elem *first;
    index step;
    UNROLLED_INLINE const elem *operator[](index k) const { return first + k * step; }
};
template <class elem>
struct InRows {
    static constexpr index kAhead = 12;  // so many rows past the last are listed too, to be fetched
    const elem *const *rows;
    index column;
    UNROLLED_INLINE const elem *operator[](index k) const {
        __builtin_prefetch(rows[k + kAhead] + column);
        return rows[k] + column;
    }
};

// c[r][v] += sum over k of a[k][r] * b[k][v], c in place. The gradient of a weight.
template <class A, int R, int NV, class Left, class Right>
inline void outer_tile(Left a, Right b, index steps, typename A::real *c) {
    using Simd = typename A::Simd;
    constexpr int P = A::kPair;
    typename A::V acc[R][NV];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) acc[r][v] = Simd::zero();
    for (index k = 0; k < steps; ++k) {
        const typename A::elem *a_k = a[k], *b_k = b[k];
        one_k<A, R, NV>(acc, 0, b_k, [&](int r) UNROLLED_LAMBDA_INLINE { return A::broadcast(a_k + r * P); });
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) {
            typename A::real *to = c + (r * NV + v) * Simd::N;
            Simd::store(to, Simd::add(Simd::load(to), acc[r][v]));
        }
}

}  // namespace UNROLLED_ISA
