// y = x W^T + b over many rows, and its gradients: what a regularised layer's steps do not hold. x (rows, inputs), W (outputs,
// inputs), y and d (rows, outputs), all contiguous.
//
//   forward    y = x W^T + b        backward    dx = d W        dW = d^T x
//
// Threads share the rows of y and dx, and the rows of dW, whose sums are therefore the same for any number of them.
#pragma once
#include "gemm.hpp"
#include "kernels.hpp"
#include "packing.hpp"
#include "team.hpp"
#include "unrolled_regularised.h"

namespace UNROLLED_ISA {

// W^T (transposed) or W as panels, its columns' panels [mine).
template <class Simd>
void pack_weights(const typename Simd::real *w, index inputs, bool transposed, const Panels<Plain<Simd>> &to, Range mine) {
    using real = typename Simd::real;
    for (index p = mine.begin; p < mine.end; ++p) {
        const index column = p * Panels<Plain<Simd>>::kWidth, width = to.vectors(p) * Simd::N;
        const index columns = smaller(to.columns - column, width);
        real *panel = to.panel(p);
        if (columns < width) memset((void *)panel, 0, size_t(to.depth * width) * sizeof(real));
        if (!transposed) {
            for (index k = 0; k < to.depth; ++k)
                memcpy((void *)(panel + k * width), w + k * inputs + column, size_t(columns) * sizeof(real));
        } else if constexpr (sizeof(real) == 4) {
            transpose_cells(w + column * inputs, inputs, columns, to.depth, panel, width);
        } else {
            for (index i = 0; i < columns; ++i)
                for (index k = 0; k < to.depth; ++k) panel[k * width + i] = w[(column + i) * inputs + k];
        }
    }
}

template <class Simd>
struct Linear {
    using A = Plain<Simd>;
    using V = typename Simd::V;
    using real = typename Simd::real;
    static constexpr index N = Simd::N, kWidth = Panels<A>::kWidth;
    static constexpr int kTile = tile_rows<Simd>(4);
    static constexpr index kRows = 256;  // at once: what is packed of them stays in the outer cache

    const unrolled_linear_args &a;
    Panels<A> w{};  // of W^T, or for dx of W
    const real **from = nullptr;
    real **to = nullptr, *d_pack = nullptr, *x_pack = nullptr;

    explicit Linear(const unrolled_linear_args &args) : a(args) {}

    static real *at(const void *array, index offset) { return static_cast<real *>(const_cast<void *>(array)) + offset; }
    bool back() const { return a.back != 0; }
    index packed_columns() const { return ceil_div(a.outputs, kTile) * kTile; }

    bool prepare(Workspace &memory, int threads) {
        if (!back() || a.dx) {
            w.depth = back() ? a.outputs : a.inputs;
            w.columns = back() ? a.inputs : a.outputs;
            w.data = memory.get<real>(w.size());
            from = memory.get<const real *>(a.rows);
            to = memory.get<real *>(a.rows);
        }
        if (a.dw) {
            d_pack = memory.get<real>(threads * kRows * packed_columns());
            x_pack = memory.get<real>(threads * kRows * kWidth);
        }
        if (!back()) unrolled::expect_all_of(a.y, size_t(a.rows * a.outputs) * sizeof(real));
        if (a.dx) unrolled::expect_all_of(a.dx, size_t(a.rows * a.inputs) * sizeof(real));
        return !memory.failed;
    }

    void run(Team team) {
        if (w.data) {
            pack_weights<Simd>(at(a.w, 0), a.inputs, !back(), w, share(w.count(), team.count, team.me));
            team.wait();
            const Range mine = share(a.rows, team.count, team.me);
            for (index begin = mine.begin; begin < mine.end; begin += kRows)
                multiply({begin, smaller(begin + kRows, mine.end)});
        }
        if (a.dw) sum_outer(share(ceil_div(a.outputs, kTile), team.count, team.me), team.me);
    }

    void multiply(Range rows) {
        for (index i = rows.begin; i < rows.end; ++i) {
            from[i] = back() ? at(a.d, i * a.outputs) : at(a.x, i * a.inputs);
            to[i] = back() ? at(a.dx, i * a.inputs) : at(a.y, i * a.outputs);
            if (!back() && a.bias) memcpy((void *)to[i], a.bias, size_t(a.outputs) * sizeof(real));
        }
        product<A, real>(rows.end - rows.begin, from + rows.begin, Segments<A>{1, w.depth, 0}, w, 0, w.count(), to + rows.begin,
                         !back() && a.bias);
    }

    template <int R, int NV>
    static void tile(const real *d, const real *x, index count, real *dw, index step, index columns, bool add) {
        V acc[R][NV];
        const typename Simd::Lanes last(columns - (NV - 1) * N);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) acc[r][v] = Simd::zero();
        for (index k = 0; k < count; ++k, d += R, x += NV * N)
            one_k<A, R, NV>(acc, 0, x, [&](int r) UNROLLED_LAMBDA_INLINE { return A::broadcast(d + r); });
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < NV; ++v) {
                real *into = dw + r * step + v * N;
                if (v == NV - 1)
                    Simd::store(into, add ? Simd::add(Simd::load(into, last), acc[r][v]) : acc[r][v], last);
                else
                    Simd::store(into, add ? Simd::add(Simd::load(into), acc[r][v]) : acc[r][v]);
            }
    }

    // x's columns of a panel, row after row; past the end zeros.
    void pack_x(Range rows, index column, index columns, index width, real *into) const {
        for (index i = rows.begin; i < rows.end; ++i, into += width) {
            memcpy((void *)into, at(a.x, i * a.inputs + column), size_t(columns) * sizeof(real));
            if (columns < width) memset((void *)(into + columns), 0, size_t(width - columns) * sizeof(real));
        }
    }

    // dW of the tiles of kTile outputs [mine): in pieces of kRows, each added to the sum of those before.
    void sum_outer(Range mine, int me) {
        const index first = mine.begin * kTile, end = smaller(mine.end * kTile, a.outputs);
        real *const d_mine = d_pack + me * kRows * packed_columns(), *const x_mine = x_pack + me * kRows * kWidth;
        for (index begin = 0; begin < larger(a.rows, 1); begin += kRows) {  // no rows: dW is zero all the same
            const Range rows{begin, smaller(begin + kRows, a.rows)};
            const index count = rows.end - rows.begin;
            for (index o = first; o < end; o += kTile) {
                const index height = smaller(kTile, end - o);
                real *into = d_mine + (o - first) * kRows;
                for (index i = rows.begin; i < rows.end; ++i, into += height)
                    memcpy((void *)into, at(a.d, i * a.outputs + o), size_t(height) * sizeof(real));
            }
            for (index column = 0; column < a.inputs; column += kWidth) {
                const index columns = smaller(kWidth, a.inputs - column), vectors = ceil_div(columns, N);
                pack_x(rows, column, columns, vectors * N, x_mine);
                for (index o = first; o < end; o += kTile)
                    with_rows<kTile>(smaller(kTile, end - o), [&](auto R) UNROLLED_LAMBDA_INLINE {
                        with_rows<4>(vectors, [&](auto NV) UNROLLED_LAMBDA_INLINE {
                            tile<decltype(R)::value, decltype(NV)::value>(d_mine + (o - first) * kRows, x_mine, count,
                                                                          at(a.dw, o * a.inputs + column), a.inputs, columns,
                                                                          begin > 0);
                        });
                    });
            }
        }
    }
};

template <class Simd>
int run_linear(const unrolled_linear_args &a) {
    const double work = double(a.rows) * double(a.inputs) * double(a.outputs);
    Linear<Simd> linear(a);
    return run_on_team(linear, work < 1e5 ? 1 : int(larger(1, smaller(a.threads, 256))));
}

}  // namespace UNROLLED_ISA
