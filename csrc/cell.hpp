// A single step, with weights read where they lie: packing them, as sequences do, would cost more than one step gains.
//
//   forward    a block of units' W_ih x and W_hh h, as dot products along their rows, finished by the cell
//   backward   the cell's dgates; then dx = W_ih^T dgates and dh = W_hh^T dgates, as sums of W's rows
//
// Both read every row of W once, from its beginning to its end, for all of the batch. Threads share the blocks of units
// forwards, and the columns of dx and dh backwards, so that each sum is one thread's.
#pragma once
#include "gru.hpp"
#include "lstm.hpp"
#include "rnn.hpp"
#include "team.hpp"
#include "unrolled_cell.h"

namespace UNROLLED_ISA {

// Four neighbouring rows of W by R rows of the batch: acc[r][s] += w row s * row r, lane by lane.
template <class Simd, int R>
UNROLLED_INLINE void dot_rows(typename Simd::V (&acc)[R][4], const float *rows, const float *const (&w)[4], index K) {
    const auto add = [&](index k, typename Simd::Lanes lanes) UNROLLED_LAMBDA_INLINE {
        typename Simd::V wv[4];
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) wv[s] = Simd::load(w[s] + k, lanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const typename Simd::V x = Simd::load(rows + r * K + k, lanes);
#pragma GCC unroll 4
            for (int s = 0; s < 4; ++s) acc[r][s] = Simd::fma(x, wv[s], acc[r][s]);
        }
    };
    index k = 0;
    for (const typename Simd::Lanes all(Simd::N); k + Simd::N <= K; k += Simd::N) add(k, all);
    if (k < K) add(k, typename Simd::Lanes(K - k));
}

template <class Simd, class Cell>
struct CellForward {
    using V = typename Simd::V;
    using Block = Blocks<Cell, Simd>;
    static constexpr index N = Simd::N;
    static constexpr int kTile = Simd::kRegisters == 32 ? 6 : 2;  // times 4 sums, 4 rows of W and one of the batch

    const unrolled_cell_args &a;

    bool prepare(Workspace &, int) { return true; }

    void run(Team team) {
        const Range mine = share(Block::count(a.H), team.count, team.me);
        for (index blk = mine.begin; blk < mine.end; ++blk)
            tiles<kTile>(a.B, [&](auto R, index first) { tile<decltype(R)::value>(first, blk); });
    }

    template <int R>
    void tile(index first, index blk) {
        float sums[R][Block::width];
        V acc[R][Cell::slots];
        for (int s = 0; s < Cell::slots; ++s) {
            const index unit = blk * Block::units + Cell::unit(s) * N, row = Cell::gate(s) * a.H + unit;
            const bool from_x = s >= Cell::x_first && s < Cell::x_first + Cell::x_slots;
            const bool from_h = s >= Cell::h_first && s < Cell::h_first + Cell::h_slots;
            const typename Simd::Lanes lanes(a.H - unit);
            for (index lane = 0; lane < N && unit + lane < a.H; lane += 4) {
                V part[R][4];
                for (auto &of_row : part)
                    for (V &sum : of_row) sum = Simd::zero();
                index rows[4];  // past the last unit the last again, for lanes that nobody keeps
                for (int i = 0; i < 4; ++i) rows[i] = row + smaller(lane + i, a.H - 1 - unit);
                if (from_x) multiply<R>(part, a.x + first * a.I, a.w_ih, rows, a.I);
                if (from_h) multiply<R>(part, a.h + first * a.H, a.w_hh, rows, a.H);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) Simd::store_sums(&sums[r][s * N + lane], part[r]);
            }
            V bias = Simd::zero();
            if (from_x && a.b_ih) bias = Simd::add(bias, Simd::load(a.b_ih + row, lanes));
            if (from_h && a.b_hh) bias = Simd::add(bias, Simd::load(a.b_hh + row, lanes));
            for (int r = 0; r < R; ++r) acc[r][s] = Simd::add(Simd::keep(Simd::load(&sums[r][s * N]), lanes), bias);
        }
        const float *h[R], *c[R];
        float *out[R], *c_out[R], *gates[R];
        for (int r = 0; r < R; ++r) {
            const index at = (first + r) * a.H;
            h[r] = a.h + at, out[r] = a.h_out + at;
            if (Cell::has_c) c[r] = a.c + at, c_out[r] = a.c_out + at;
            if (a.gates) gates[r] = a.gates + (first + r) * Block::row(a.H);
        }
        const StepRows<Plain<Simd>> at{nullptr, h, c, nullptr, out, a.gates ? gates : nullptr, c_out, 0};
        Cell::template finish<R>(acc, at, 0, blk, a.H);
    }

    template <int R>
    static UNROLLED_INLINE void multiply(V (&acc)[R][4], const float *batch, const float *w, const index (&rows)[4], index K) {
        const float *const from[4] = {w + rows[0] * K, w + rows[1] * K, w + rows[2] * K, w + rows[3] * K};
        dot_rows<Simd, R>(acc, batch, from, K);
    }
};

template <class Simd, class Cell>
struct CellBackward {
    using V = typename Simd::V;
    using Block = Blocks<Cell, Simd>;
    static constexpr index N = Simd::N;
    static constexpr int kRows = Simd::kRegisters == 32 ? 24 : 8;  // of W in registers at once, beside four sums
    static constexpr index kBlocks = Cell::saves_gates ? 4 : 1;    // of H columns in dgates

    const unrolled_cell_args &a;
    float *sums = nullptr, *factors = nullptr;  // sums of dx, then of dh: one thread may be at dh while another is at dx

    bool prepare(Workspace &memory, int threads) {
        sums = memory.get<float>(a.B * (ceil_div(a.I, N) + ceil_div(a.H, N)) * N);
        factors = memory.get<float>(threads * a.B * kRows);
        return !memory.failed;
    }

    void run(Team team) {
        const Range mine = share(a.B, team.count, team.me);
        for (index b = mine.begin; b < mine.end; ++b) to_gates(b);
        team.wait();
        if (a.dx) {
            const Sums to = begin(sums, a.I, team);
            add_rows(0, a.w_ih, Cell::gates * a.H, to, team.me);
            finish(a.dx, to, false);
        }
        if (a.dh) {
            const Sums to = begin(sums + a.B * ceil_div(a.I, N) * N, a.H, team);
            if constexpr (Cell::h_first > 0) {  // GRU: W_hn meets q, not n
                const index r_and_z = 2 * a.H;
                add_rows(0, a.w_hh, r_and_z, to, team.me);
                add_rows(3 * a.H, a.w_hh + r_and_z * a.H, a.H, to, team.me);
            } else {
                add_rows(0, a.w_hh, Cell::gates * a.H, to, team.me);
            }
            finish(a.dh, to, Cell::leaves_dh);
        }
    }

    // dgates of one row of the batch, its dc, and what of its dh does not go through W_hh.
    void to_gates(index b) {
        const index at = b * a.H;
        float *d = a.dgates + b * kBlocks * a.H;
        V unused[2] = {Simd::zero(), Simd::zero()};
        for (index blk = 0; blk < Block::count(a.H); ++blk) {
            const index unit = blk * Block::units;
            float c[Block::units], dh[Block::units] = {}, dc[Block::units] = {}, dgates[Block::width];
            const float *gates = Cell::saves_gates ? a.gates + b * Block::row(a.H) + blk * Block::width : nullptr;
            const typename Simd::Lanes lanes(a.H - unit);
            if constexpr (Cell::has_c) {  // again, as the caller may write to what it was given
                const V kept = Simd::mul(Simd::load(gates + N), Simd::load(a.c + at + unit, lanes));
                Simd::store(c, Simd::fma(Simd::load(gates), Simd::load(gates + 2 * N), kept));
            }
            const auto from = [&](const float *array) { return array ? array + at + unit : nullptr; };
            const BackRow<Plain<Simd>> row{gates, from(a.h_out), from(a.h), from(a.d_h), c, from(a.c), from(a.d_c), dh, dc, dgates};
            Cell::back(row, 0, a.H - unit, unused[0], unused[1]);
            for (int s = 0; s < Cell::slots; ++s) {
                const index place = s < Cell::x_first + Cell::x_slots ? Cell::gate(s) : 3, first = unit + Cell::unit(s) * N;
                Simd::store(d + place * a.H + first, Simd::load(dgates + s * N), typename Simd::Lanes(a.H - first));
            }
            if (Cell::has_c) Simd::store(a.dc + at + unit, Simd::load(dc), lanes);
            if (Cell::leaves_dh && a.dh) Simd::store(a.dh + at + unit, Simd::load(dh), lanes);
        }
    }

    // This thread's vectors of dx or dh while they are summed, as [vector][b][lane]: as they are added to.
    struct Sums {
        float *at;
        index columns;
        Range vectors;
    };
    Sums begin(float *at, index columns, Team team) {
        const Range vectors = share(ceil_div(columns, N), team.count, team.me);
        memset((void *)(at + vectors.begin * a.B * N), 0, size_t((vectors.end - vectors.begin) * a.B * N) * sizeof(float));
        return {at, columns, vectors};
    }

    // += dgates(its columns from `first`) times `count` rows of w, kRows at a time.
    void add_rows(index first, const float *w, index count, const Sums &to, int me) {
        float *mine = factors + me * a.B * kRows;  // [b][row]: dgates' rows are too far apart
        for (index n = 0; n < count; n += kRows) {
            const index some = smaller(kRows, count - n);
            const float *from = a.dgates + first + n;
            if (some < kRows) memset((void *)mine, 0, size_t(a.B * kRows) * sizeof(float));
            for (index b = 0; b < a.B; ++b, from += kBlocks * a.H)
                memcpy((void *)(mine + b * kRows), from, size_t(some == kRows ? kRows : some) * sizeof(float));
            for (index v = to.vectors.begin; v < to.vectors.end; ++v) {
                V rows[kRows];
                const float *row = w + n * to.columns + v * N;
#pragma GCC unroll 32
                for (int j = 0; j < kRows; ++j)
                    rows[j] = Simd::load(row + j * to.columns, typename Simd::Lanes(j < some ? to.columns - v * N : 0));
                tiles<4>(a.B, [&](auto R, index b) UNROLLED_LAMBDA_INLINE {
                    add_tile<decltype(R)::value>(rows, mine + b * kRows, to.at + (v * a.B + b) * N);
                });
            }
        }
    }

    template <int R>
    static UNROLLED_INLINE void add_tile(const V (&rows)[kRows], const float *d, float *to) {
        V acc[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) acc[r] = Simd::load(to + r * N);
#pragma GCC unroll 32
        for (int j = 0; j < kRows; ++j)
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) acc[r] = Simd::fma(Simd::set1(d[r * kRows + j]), rows[j], acc[r]);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) Simd::store(to + r * N, acc[r]);
    }

    void finish(float *into, const Sums &from, bool add) {
        for (index v = from.vectors.begin; v < from.vectors.end; ++v) {
            const typename Simd::Lanes lanes(from.columns - v * N);
            for (index b = 0; b < a.B; ++b) {
                float *row = into + b * from.columns + v * N;
                const V sum = Simd::load(from.at + (v * a.B + b) * N);
                Simd::store(row, add ? Simd::add(Simd::load(row, lanes), sum) : sum, lanes);
            }
        }
    }
};

template <class Simd, template <class, class> class Pass>
int run_cell(const unrolled_cell_args &a) {
    const auto run = [&](auto pass) {
        const double work = double(a.B) * double(a.H) * double(a.I + a.H);
        return run_on_team(pass, work < 1e6 ? 1 : int(larger(1, smaller(a.threads, 256))));
    };
    switch (a.mode) {
        case UNROLLED_LSTM: return run(Pass<Simd, Lstm<Plain<Simd>>>{a});
        case UNROLLED_GRU: return run(Pass<Simd, Gru<Plain<Simd>>>{a});
        case UNROLLED_RNN_TANH: return run(Pass<Simd, Rnn<Plain<Simd>, false>>{a});
        case UNROLLED_RNN_RELU: return run(Pass<Simd, Rnn<Plain<Simd>, true>>{a});
        default: return -2;
    }
}

template <class Simd>
constexpr unrolled::CellKernels cells() {
    return {run_cell<Simd, CellForward>, run_cell<Simd, CellBackward>};
}

}  // namespace UNROLLED_ISA
