// Forward over a whole sequence, for any cell. Per step and block of hidden units one register tile gathers
//     bias + W_ih x + W_hh h
// of all gates and the cell finishes it in registers. W_ih x is part of the tile where enough rows share the weights that
// stream by; else it is computed ahead for a hundred rows of time at once, or read from a table of token rows.
#pragma once
#include "gru.hpp"
#include "lstm.hpp"
#include "rnn.hpp"
#include "sequence.hpp"

namespace UNROLLED_ISA {

// Packed W_ih and W_hh of up to this much for each row that a thread has: x joins the step's tile. LSTM inference at B = 64,
// I = H = 512 1.04 times faster than W_ih x ahead; at B = 16, I = H = 1024 0.93 times.
constexpr index kFusedBytesPerRow = 800 * 1024;
constexpr index kChunkRows = 512;  // else: rows of W_ih x computed ahead. B = 16, I = H = 1024 1.05 times faster than with 128

template <class A, class Cell>
struct Forward {
    using Simd = typename A::Simd;
    using elem = typename A::elem;
    using real = typename A::real;
    using V = typename A::V;
    using Block = Blocks<Cell, Simd>;
    static constexpr index N = Simd::N;

    const unrolled_args &a;
    Division division;
    index blocks;
    bool fused;
    index chunk_steps;
    ForwardWeights<A, Cell, Cell::x_first, Cell::x_slots> w_x;
    ForwardWeights<A, Cell, Cell::h_first, Cell::h_slots> w_h;
    real *bias;  // [block][slot][lane]
    real *c_state;
    index *rows;
    void *zeros;
    struct PerThread {
        real *ahead;  // W_ih x of chunk_steps steps, [step][row][block][x slot][lane]
        const elem **ahead_x;
        real **ahead_to;
        StepRows<A> at;
    } per_thread[256];

    explicit Forward(const unrolled_args &args) : a(args) {}

    index rows_per_thread() const { return division.by_units ? a.B : ceil_div(a.B, division.threads); }
    index ahead_row() const { return blocks * Cell::x_slots * N; }

    bool prepare(Workspace &memory) {
        blocks = Block::count(a.H);
        division = divide(a, Cell::gates, blocks, sizeof(elem));
        const index most = rows_per_thread();
        const index bytes = blocks * N * index(sizeof(elem)) * (a.I * Cell::x_slots + a.H * Cell::h_slots);
        fused = !a.ids && most > 4 && bytes <= kFusedBytesPerRow * most;
        chunk_steps = smaller(larger(1, kChunkRows / larger(1, most)), a.T);
        const bool keep = !a.gates;  // also the RNN's training, which saves none: to look costs it next to nothing
        if (!a.ids) w_x.prepare(memory, at<elem>(a.w_ih, 0), a.H, a.I, keep);
        w_h.prepare(memory, at<elem>(a.w_hh, 0), a.H, a.H, keep);
        bias = memory.get<real>(blocks * Block::width);
        rows = memory.get<index>(a.B);
        const size_t zero_bytes = size_t(a.H + 64) * sizeof(double);
        zeros = memory.get<char>(index(zero_bytes));
        c_state = Cell::has_c && !a.cs ? (a.c_n ? at<real>(a.c_n, 0) : memory.get<real>(a.B * a.H)) : nullptr;
        const index threads = division.threads;
        const bool ahead = !fused && !a.ids;
        const index chunk = ahead ? chunk_steps * most : 0;
        real *ahead_all = memory.get<real>(threads * chunk * ahead_row());
        const elem **chunk_x = memory.get<const elem *>(threads * chunk);
        real **chunk_to = memory.get<real *>(threads * chunk);
        const elem **in = memory.get<const elem *>(threads * most * 2);
        const real **real_in = memory.get<const real *>(threads * most * 2);
        elem **out = memory.get<elem *>(threads * most * 2);
        real **c_out = memory.get<real *>(threads * most);
        if (memory.failed || !order_rows(a, division.by_units ? 1 : threads, memory, rows)) return false;
        memset(zeros, 0, zero_bytes);
        unrolled::expect_all_of(a.out, size_t(a.T * a.B * a.H) * sizeof(elem));
        unrolled::expect_all_of(a.cs, size_t(a.T * a.B * a.H) * sizeof(real));
        unrolled::expect_all_of(a.gates, size_t(a.T * a.B * Block::row(a.H)) * sizeof(elem));
        for (index i = 0; i < threads; ++i) {
            PerThread &mine = per_thread[i];
            mine.ahead = ahead_all + i * chunk * ahead_row();
            mine.ahead_x = chunk_x + i * chunk;
            mine.ahead_to = chunk_to + i * chunk;
            mine.at.x = in + i * most * 2;
            mine.at.h = mine.at.x + most;
            mine.at.c = real_in + i * most * 2;
            mine.at.before = mine.at.c + most;
            mine.at.out = out + i * most * 2;
            mine.at.gates = a.gates && Cell::saves_gates ? mine.at.out + most : nullptr;
            mine.at.c_out = c_out + i * most;
        }
        return true;
    }

    void pack(Range mine) {
        w_x.pack(mine);
        w_h.pack(mine);
        const elem *b_x = a.ids ? nullptr : at<elem>(a.b_ih, 0), *b_h = at<elem>(a.b_hh, 0);
        for (index blk = mine.begin; blk < mine.end; ++blk)
            for (int s = 0; s < Cell::slots; ++s)
                for (index lane = 0; lane < N; ++lane) {
                    const index unit = blk * Block::units + Cell::unit(s) * N + lane;
                    const index row = Cell::gate(s) * a.H + unit;
                    real sum = 0;
                    if (unit < a.H && b_x && s >= Cell::x_first && s < Cell::x_first + Cell::x_slots) sum += widen(b_x[row]);
                    if (unit < a.H && b_h && s >= Cell::h_first && s < Cell::h_first + Cell::h_slots) sum += widen(b_h[row]);
                    bias[blk * Block::width + s * N + lane] = sum;
                }
    }

    // Fetches one block's share of the next step's rows of x. LSTM inference at B = 128, I = H = 32 1.035 times faster, at
    // B = 64, I = H = 128 1.01.
    template <int R>
    UNROLLED_INLINE void expect_x(const StepRows<A> &rows_at, index first, index blk) const {
        constexpr index line = 64 / sizeof(elem);
        const Range lines = share(ceil_div(a.I, line), blocks, blk);
        for (index i = lines.begin; i < lines.end; ++i)
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) __builtin_prefetch(rows_at.x[first + r] + rows_at.to_next_x + i * line);
    }

    template <int R>
    UNROLLED_INLINE void tile(const StepRows<A> &rows_at, index first, index blk) {
        V acc[R][Cell::slots];
        const real *b = bias + blk * Block::width;
#pragma GCC unroll 16
        for (int s = 0; s < Cell::slots; ++s) {
            const V v = Simd::load(b + s * N);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) acc[r][s] = v;
        }
        if (fused) {
            expect_x<R>(rows_at, first, blk);
            accumulate<A, R, Cell::x_slots, Cell::x_first>(acc, rows_at.x + first, a.I, w_x.block(blk));
        } else if (a.ids) {
#pragma GCC unroll 16
            for (int s = Cell::x_first; s < Cell::x_first + Cell::x_slots; ++s) {
                const index unit = blk * Block::units + Cell::unit(s) * N;
                const typename Simd::Lanes lanes(a.H - unit);
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r)
                    acc[r][s] = Simd::add(acc[r][s], Simd::load(rows_at.before[first + r] + Cell::gate(s) * a.H + unit, lanes));
            }
        } else {
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const real *from = rows_at.before[first + r] + blk * Cell::x_slots * N;
#pragma GCC unroll 16
                for (int s = 0; s < Cell::x_slots; ++s)
                    acc[r][Cell::x_first + s] = Simd::add(acc[r][Cell::x_first + s], Simd::load(from + s * N));
            }
        }
        accumulate<A, R, Cell::h_slots, Cell::h_first>(acc, rows_at.h + first, a.H, w_h.block(blk));
        Cell::template finish<R>(acc, rows_at, first, blk, a.H);
    }

    // W_ih x of the steps [s, s + chunk_steps) for this thread's rows and blocks.
    void project_ahead(PerThread &mine, Alive alive, index s, Range my_blocks) {
        index n = 0;
        for (index i = 0; i < chunk_steps && s + i < a.T; ++i) {
            const index t = a.reverse ? a.T - 1 - (s + i) : s + i;
            alive.move_to(t);
            for (index j = 0; j < alive.alive; ++j, ++n) {
                mine.ahead_x[n] = at<elem>(a.x, (t * a.B + alive.rows[j]) * a.I);
                mine.ahead_to[n] = mine.ahead + (i * alive.count + j) * ahead_row();
            }
        }
        for (index blk = my_blocks.begin; blk < my_blocks.end; ++blk)
            product_panel<A, Cell::x_slots>(n, mine.ahead_x, Segments<A>{1, a.I, 0}, w_x.block(blk), mine.ahead_to,
                                            blk * Cell::x_slots * N, Cell::x_slots * N, false);
    }

    void run(Team team) {
        pack(share(blocks, team.count, team.me));
        const Range batch = division.by_units ? Range{0, a.B} : share(a.B, team.count, team.me);
        const Range mine_blocks = division.by_units ? share(blocks, team.count, team.me) : Range{0, blocks};
        const index unit = smaller(mine_blocks.begin * Block::units, a.H);
        const index units = smaller(mine_blocks.end * Block::units, a.H) - unit;
        PerThread &mine = per_thread[team.me];
        Alive alive{rows + batch.begin, batch.end - batch.begin, a.reverse ? 0 : batch.end - batch.begin, a.lengths};
        if (c_state)
            for (index j = 0; j < alive.count; ++j) {
                const index b = alive.rows[j];
                if (a.c0)
                    memmove(c_state + b * a.H + unit, at<real>(a.c0, b * a.H + unit), size_t(units) * sizeof(real));
                else
                    memset(c_state + b * a.H + unit, 0, size_t(units) * sizeof(real));
            }
        team.assemble();
        elem *out = at<elem>(a.out, 0);
        real *cs = at<real>(a.cs, 0);
        const index gate_row = Block::row(a.H);
        for (index s = 0; s < a.T; ++s) {
            const index t = a.reverse ? a.T - 1 - s : s;
            if (!fused && !a.ids && s % chunk_steps == 0) project_ahead(mine, alive, s, mine_blocks);
            alive.move_to(t);
            StepRows<A> &r = mine.at;
            r.to_next_x = s + 1 == a.T ? 0 : a.reverse ? -a.B * a.I : a.B * a.I;
            for (index j = 0; j < alive.alive; ++j) {
                const index b = alive.rows[j], here = t * a.B + b;
                r.h[j] = state_before<elem>(a, a.out, a.h0, zeros, t, b);
                if (fused) r.x[j] = at<elem>(a.x, here * a.I);
                else if (a.ids) r.before[j] = at<real>(a.table, a.ids[here] * Cell::gates * a.H);
                else r.before[j] = mine.ahead + (s % chunk_steps * alive.count + j) * ahead_row();
                r.out[j] = out + here * a.H;
                if (r.gates) r.gates[j] = at<elem>(a.gates, here * gate_row);
                if (Cell::has_c) {
                    if (c_state) {
                        r.c_out[j] = c_state + b * a.H;
                        r.c[j] = is_reset(a, t, b) ? (const real *)zeros : r.c_out[j];
                    } else {
                        r.c_out[j] = cs + here * a.H;
                        r.c[j] = state_before<real>(a, a.cs, a.c0, zeros, t, b);
                    }
                }
            }
            for (index j = alive.alive; j < alive.count; ++j) {
                const index here = t * a.B + alive.rows[j];
                memset((void *)(out + here * a.H + unit), 0, size_t(units) * sizeof(elem));
                if (r.gates)  // nobody reads these, but an operator's results must not depend on stale memory
                    memset((void *)(at<elem>(a.gates, here * gate_row) + mine_blocks.begin * Block::width), 0,
                           size_t(mine_blocks.end - mine_blocks.begin) * Block::width * sizeof(elem));
                if (Cell::has_c && cs) memset(cs + here * a.H + unit, 0, size_t(units) * sizeof(real));
            }
            for (index blk = mine_blocks.begin; blk < mine_blocks.end; ++blk)
                tiles<tile_rows<Simd>(Cell::slots)>(alive.alive, [&](auto R, index first) {
                    tile<decltype(R)::value>(r, first, blk);
                });
            if (division.by_units) team.wait();
        }
        for (index j = 0; j < alive.count; ++j) {
            const index b = alive.rows[j], length = length_of(a, b);
            const index last = length == 0 ? -1 : a.reverse ? 0 : length - 1;
            copy_state(at<elem>(a.h_n, 0), out, at<elem>(a.h0, 0), last, b, unit, units);
            if (Cell::has_c && !c_state) copy_state(at<real>(a.c_n, 0), cs, at<real>(a.c0, 0), last, b, unit, units);
        }
    }

    template <class T>
    void copy_state(T *to, const T *states, const T *initial, index last, index b, index unit, index units) {
        if (!to) return;
        to += b * a.H + unit;
        if (last >= 0)
            memcpy((void *)to, states + (last * a.B + b) * a.H + unit, size_t(units) * sizeof(T));
        else if (initial)
            memmove((void *)to, initial + b * a.H + unit, size_t(units) * sizeof(T));
        else
            memset((void *)to, 0, size_t(units) * sizeof(T));
    }
};

}  // namespace UNROLLED_ISA
