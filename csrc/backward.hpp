// Backward over a whole sequence, for any cell, in chunks of time from the end. Per chunk:
//   1. step by step: the cell turns dh, dc into dgates (a workspace), and dh(before) = dgates W_hh (+ the direct part);
//   2. dx = dgates W_ih for the chunk's rows, divided among threads by rows;
//   3. dW_ih += dgates^T x, dW_hh += dgates^T h(before), db += dgates, divided by columns of dW, so that no thread holds
//      a private copy and nothing is reduced.
// Where dW is small, threads do 2 and 3 alone, for their own rows of the batch, and their dW are summed at the end.
// The saved gates are only read: backward can run again. A reset cuts dh(before) and dc(before) to zero.
#pragma once
#include "forward.hpp"

namespace UNROLLED_ISA {

// dW of this much or less: each thread sums its own, and meets the others once instead of at every chunk. LSTM backward on two
// threads 1.15 times faster at H = 32, 1.03 at 64, 1.01 at 128; with 2 MB of dW nothing is gained.
constexpr index kAloneBytes = 1 << 20;

// A step with this much of saved gates or less: what the next step reads is fetched while this one's dgates W_hh is
// computed. LSTM training at B = 8, H = 64 1.04 times faster; with 128 KB a step it gains nothing, with 512 KB it loses 1%.
constexpr index kExpectedBytes = 64 << 10;

template <class A, class Cell>
struct Backward {
    using Simd = typename A::Simd;
    using elem = typename A::elem;
    using real = typename A::real;
    using V = typename A::V;
    using Block = Blocks<Cell, Simd>;
    static constexpr index N = Simd::N, P = A::kPair, kWidth = Panels<A>::kWidth;
    static constexpr int kTile = tile_rows<Simd>(Cell::x_slots < Cell::h_slots ? Cell::h_slots : Cell::x_slots);

    const unrolled_args &a;
    Division division;
    index blocks, gate_row, carry_row, chunk_steps, chunk_rows;
    Panels<A> w_x, w_h;
    real *dh, *dc = nullptr;  // what arrives from the step after, [b][units, padded to whole panels]
    elem *dgates;             // [row of the chunk][block][slot][lane]
    bool alone;               // see kAloneBytes
    bool gates_in_rows;
    index *rows;
    void *zeros;
    real *norms = nullptr;  // by units: one share of every squared norm per thread
    struct PerThread {
        const elem **dgates, **x, **h;  // the chunk's rows that are alive, in order of time
        elem **dx;
        const elem **from;
        real **to;
        elem *a_pack, *b_pack;
        real *dw_x, *dw_h, *db;  // everybody's the same, or to each his own
    } per_thread[256];

    explicit Backward(const unrolled_args &args) : a(args) {}

    // Whether dW's products read rows of x, h and dgates where they are. Longer rows are copied together first: a tile's
    // columns of hundreds of them, kilobytes apart, do not stay in a cache. LSTM backward at I = H = 32 1.06 times faster than
    // with copies, at 128 1.01, at 512 0.99.
    static bool in_rows(index columns) { return P == 1 && columns * index(sizeof(elem)) <= 1024; }

    static index dw_block(index columns, int slots) { return columns * slots * N; }
    bool wants_x() const { return !a.ids && a.dw_ih; }
    bool wants_outer() const { return wants_x() || a.dw_hh || a.db_ih || a.db_hh; }

    bool prepare(Workspace &memory) {
        blocks = Block::count(a.H);
        gate_row = Block::row(a.H);
        const index panels = ceil_div(a.H, kWidth);
        carry_row = panels * kWidth;
        division = divide(a, Cell::gates, panels, sizeof(elem));
        const index threads = division.threads;
        // Rows per chunk: enough that reading and writing all of dW once per chunk costs little, and that threads seldom
        // meet; few enough that the chunk's dgates stay in the outer cache.
        const index dw_bytes = gate_row * (a.I + a.H) * index(sizeof(real));
        const index wanted = dw_bytes > (8 << 20) || gate_row * index(sizeof(elem)) <= 2048 ? 768 : 384;
        alone = threads > 1 && !division.by_units && !a.d_table && dw_bytes <= kAloneBytes && a.T * a.B >= 256 * threads;
        const index copies = alone ? threads : 1;
        chunk_steps = smaller(larger(1, ceil_div(wanted * copies, larger(1, a.B))), larger(1, a.T));
        chunk_rows = chunk_steps * a.B;
        w_h.depth = blocks * Cell::h_slots * N;
        w_h.columns = a.H;
        w_h.data = memory.get<elem>(w_h.size());
        if (a.dx) {
            w_x.depth = blocks * Cell::x_slots * N;
            w_x.columns = a.I;
            w_x.data = memory.get<elem>(w_x.size());
        }
        const index x_size = wants_x() ? blocks * dw_block(a.I, Cell::x_slots) : 0;
        const index h_size = a.dw_hh ? blocks * dw_block(a.H, Cell::h_slots) : 0;
        real *dw_x = memory.get<real>(copies * x_size), *dw_h = memory.get<real>(copies * h_size);
        real *db = memory.get<real>(copies * gate_row);
        dh = memory.get<real>(a.B * carry_row);
        if (Cell::has_c) dc = memory.get<real>(a.B * carry_row);
        dgates = memory.get<elem>(chunk_rows * gate_row);
        rows = memory.get<index>(a.B);
        const size_t zero_bytes = size_t(larger(a.H, a.I) + 64) * sizeof(double);
        zeros = memory.get<char>(index(zero_bytes));
        if (a.grad_norms && division.by_units) norms = memory.get<real>(threads * 2 * a.T * a.B);
        const index most = alone ? chunk_steps * ceil_div(a.B, threads) : chunk_rows;  // rows that one thread lists
        const index listed = most + InRows<elem>::kAhead;
        const elem **lists = memory.get<const elem *>(threads * 3 * listed);
        elem **dx_lists = memory.get<elem *>(threads * listed);
        const elem **from = memory.get<const elem *>(threads * a.B);
        real **to = memory.get<real *>(threads * a.B);
        const index depth = ceil_div(most, P) * P;
        const index columns = ceil_div(larger(a.I, a.H), kTile) * kTile;
        gates_in_rows = in_rows(gate_row * 2) && in_rows(a.I) && in_rows(a.H);  // of these a tile reads more
        elem *a_pack = memory.get<elem>(in_rows(a.I) && in_rows(a.H) ? 0 : threads * depth * columns * 2);
        elem *b_pack = memory.get<elem>(gates_in_rows ? 0 : threads * depth * Block::width);
        if (memory.failed || !order_rows(a, division.by_units ? 1 : threads, memory, rows)) return false;
        memset(zeros, 0, zero_bytes);
        unrolled::expect_all_of(a.dx, size_t(a.T * a.B * a.I) * sizeof(elem));
        unrolled::expect_all_of(a.dw_ih, size_t(Cell::gates * a.H * a.I) * sizeof(elem));
        unrolled::expect_all_of(a.dw_hh, size_t(Cell::gates * a.H * a.H) * sizeof(elem));
        for (index i = 0; i < threads; ++i) {
            const index copy = alone ? i : 0;
            per_thread[i] = {lists + 3 * i * listed, lists + (3 * i + 1) * listed, lists + (3 * i + 2) * listed,
                             dx_lists + i * listed, from + i * a.B, to + i * a.B, a_pack + i * depth * columns * 2,
                             b_pack + i * depth * Block::width, dw_x + copy * x_size, dw_h + copy * h_size, db + copy * gate_row};
        }
        return true;
    }

    // ------------------------------------------------------------------------------------------ 1. step by step
    void step(index t, const Alive &alive, Range my_blocks, Range my_panels, index first_row, PerThread &mine,
              const Team &team) {
        const index unit = my_panels.begin * kWidth;
        const index units = smaller(my_panels.end * kWidth, carry_row) - unit;
        for (index j = 0; j < alive.alive; ++j) {
            const index b = alive.rows[j], here = t * a.B + b;
            BackRow<A> row{};
            if (Cell::saves_gates) row.gates = at<elem>(a.gates, here * gate_row);
            row.h = at<elem>(a.out, here * a.H);
            row.h_before = state_before<elem>(a, a.out, a.h0, zeros, t, b);
            if (a.d_out) row.d_out = at<elem>(a.d_out, here * a.H);
            if (Cell::has_c) {
                row.c = at<real>(a.cs, here * a.H);
                row.c_before = state_before<real>(a, a.cs, a.c0, zeros, t, b);
                if (a.d_cs) row.d_cs = at<real>(a.d_cs, here * a.H);
                row.dc = dc + b * carry_row;
            }
            row.dh = dh + b * carry_row;
            row.dgates = dgates + (here - first_row) * gate_row;
            V dh_squares = Simd::zero(), dc_squares = Simd::zero();
            for (index blk = my_blocks.begin; blk < my_blocks.end; ++blk)
                Cell::back(row, blk, a.H, dh_squares, dc_squares);
            if (a.grad_norms) {
                const real h2 = Simd::sum(dh_squares), c2 = Simd::sum(dc_squares);
                if (norms) {
                    norms[team.me * 2 * a.T * a.B + here] = h2;
                    norms[(team.me * 2 + 1) * a.T * a.B + here] = c2;
                } else {
                    a.grad_norms[here] = float(::sqrt(double(h2)));
                    a.grad_norms[a.T * a.B + here] = float(::sqrt(double(c2)));
                }
            }
        }
        if (division.by_units) team.wait();
        index n = 0;
        for (index j = 0; j < alive.alive; ++j) {
            const index b = alive.rows[j];
            if (is_reset(a, t, b)) {
                memset(dh + b * carry_row + unit, 0, size_t(units) * sizeof(real));
                if (Cell::has_c) memset(dc + b * carry_row + unit, 0, size_t(units) * sizeof(real));
                continue;
            }
            mine.from[n] = dgates + (t * a.B + b - first_row) * gate_row + Cell::h_first * N;
            mine.to[n++] = dh + b * carry_row;
        }
        const bool little = alive.alive * gate_row * index(sizeof(elem)) <= kExpectedBytes;
        const index next = a.reverse ? t + 1 : t - 1;
        product(n, mine.from, gate_run<Cell::h_slots>(), w_h, my_panels.begin, my_panels.end, mine.to, Cell::leaves_dh,
                [&](index panel, index first, index count) UNROLLED_LAMBDA_INLINE {
                    if (!little || next < 0 || next >= a.T) return;
                    for (index j = first; j < first + count; ++j) expect(next, alive.rows[j], panel);
                });
    }

    // Fetches what the cell will read of row b at step t while the processor multiplies: the units of one panel of W_hh.
    UNROLLED_INLINE void expect(index t, index b, index panel) const {
        constexpr index line = 64 / sizeof(elem), blocks_per_panel = kWidth / Block::units;
        const index here = t * a.B + b, before = a.reverse ? here + a.B : here - a.B;
        const index unit = panel * kWidth, units = smaller(kWidth, a.H - unit);
        if (Cell::saves_gates) {
            const index first = panel * blocks_per_panel * Block::width;
            const elem *gates = at<elem>(a.gates, here * gate_row);
            for (index i = first; i < smaller(first + blocks_per_panel * Block::width, gate_row); i += line) fetch(gates + i);
        }
        for (index i = unit; i < unit + units; i += line) {
            if (a.d_out) fetch(at<elem>(a.d_out, here * a.H + i));
            if (!Cell::has_c) fetch(at<elem>(a.out, before * a.H + i));
        }
        if (Cell::has_c)
            for (index i = unit; i < unit + units; i += 64 / sizeof(real)) fetch(at<real>(a.cs, before * a.H + i));
    }
    static UNROLLED_INLINE void fetch(const void *p) { __builtin_prefetch(p, 0, 2); }

    // The k of a product with dgates: one run where all slots take part, else a run per block.
    template <int SLOTS>
    Segments<A> gate_run() const {
        if (SLOTS == Cell::slots) return {1, gate_row, 0};
        return {blocks, SLOTS * N, Block::width};
    }

    // --------------------------------------------------------------------------------------------- 3. dW and db
    // Columns [first, first + R) of x or h, all rows of the chunk: [row][R], pairs of rows together for bf16.
    template <int R>
    static void pack_columns(const elem *const *from, index count, index first, elem *to) {
        for (index k = 0; k < count; k += P)
            if constexpr (P == 1)
                memcpy(to + k * R, from[k] + first, R * sizeof(elem));  // a few vector moves
            else
                interleave(from[k] + first, from[k + 1] + first, R, to + k * R);  // the list ends with a row of zeros
    }

    static void pack_gates(const elem *const *from, index count, index blk, elem *to) {
        constexpr index width = Block::width;
        for (index k = 0; k < count; k += P) {
            const elem *row = from[k] + blk * width;
            elem *out = to + k * width;
            if constexpr (P == 1) {
#pragma GCC unroll 4
                for (int s = 0; s < Cell::slots; ++s) Simd::store(out + s * N, Simd::load(row + s * N));
            } else if (k + 1 < count) {
                interleave(row, from[k + 1] + blk * width, width, out);
            } else {
                const elem zeros[width] = {};
                interleave(row, zeros, width, out);
            }
        }
    }

    static void sum_gates(const elem *const *from, index count, index blk, real *db) {
        V sum[Cell::slots];
        for (int s = 0; s < Cell::slots; ++s) sum[s] = Simd::zero();
        for (index k = 0; k < count; ++k)
            for (int s = 0; s < Cell::slots; ++s)
                sum[s] = Simd::add(sum[s], Simd::load(from[k] + blk * Block::width + s * N));
        for (int s = 0; s < Cell::slots; ++s) {
            real *to = db + blk * Block::width + s * N;
            Simd::store(to, Simd::add(Simd::load(to), sum[s]));
        }
    }

    // f(tile height, first column) for the tiles [mine) of `columns`, the same tiles for any number of threads.
    template <class F>
    static UNROLLED_INLINE void my_tiles(index columns, Range mine, F &&f) {
        const index count = ceil_div(columns, kTile);
        for (index i = mine.begin; i < mine.end; ++i) {
            const Range r = share(columns, count, i);
            with_rows<kTile>(r.end - r.begin, [&](auto R) UNROLLED_LAMBDA_INLINE { f(R, r.begin); });
        }
    }

    void outer(index count, const Team &team, PerThread &mine) {
        const index x_tiles = wants_x() ? ceil_div(a.I, kTile) : 0, h_tiles = a.dw_hh ? ceil_div(a.H, kTile) : 0;
        const Range tiles_mine = share(x_tiles + h_tiles, team.count, team.me);
        const Range x_mine{smaller(tiles_mine.begin, x_tiles), smaller(tiles_mine.end, x_tiles)};
        const Range h_mine{larger(tiles_mine.begin, x_tiles) - x_tiles, larger(tiles_mine.end, x_tiles) - x_tiles};
        const index depth = ceil_div(count, P) * P;
        elem *x_pack = mine.a_pack, *h_pack = mine.a_pack + depth * ceil_div(a.I, kTile) * kTile * (wants_x() ? 1 : 0);
        if (!in_rows(a.I))
            my_tiles(a.I, x_mine, [&](auto R, index first) { pack_columns<decltype(R)::value>(mine.x, count, first, x_pack + first * depth); });
        if (!in_rows(a.H))
            my_tiles(a.H, h_mine, [&](auto R, index first) { pack_columns<decltype(R)::value>(mine.h, count, first, h_pack + first * depth); });
        for (index blk = 0; blk < blocks; ++blk) {
            if (blk % team.count == team.me) sum_gates(mine.dgates, count, blk, mine.db);
            if (tiles_mine.begin == tiles_mine.end) continue;
            if (!gates_in_rows) pack_gates(mine.dgates, count, blk, mine.b_pack);
            outer_tiles<Cell::x_first, Cell::x_slots>(blk, count, a.I, x_mine, mine.x, x_pack, mine, mine.dw_x);
            outer_tiles<Cell::h_first, Cell::h_slots>(blk, count, a.H, h_mine, mine.h, h_pack, mine, mine.dw_h);
        }
    }

    // dW of one block of units, for my tiles of the columns of x or h.
    template <int FIRST, int SLOTS>
    void outer_tiles(index blk, index count, index columns, Range tiles, const elem *const *rows, const elem *pack,
                     const PerThread &mine, real *dw) {
        const index depth = ceil_div(count, P) * P, steps = depth / P;
        const Packed<elem> gates{mine.b_pack + FIRST * N * P, Block::width * P};
        my_tiles(columns, tiles, [&](auto tile, index first) {
            constexpr int R = decltype(tile)::value;
            real *to = dw + blk * dw_block(columns, SLOTS) + first * SLOTS * N;
            if constexpr (P == 1) {
                const InRows<elem> here{rows, first};
                if (gates_in_rows) return outer_tile<A, R, SLOTS>(here, InRows<elem>{mine.dgates, blk * Block::width + FIRST * N}, steps, to);
                if (in_rows(columns)) return outer_tile<A, R, SLOTS>(here, gates, steps, to);
            }
            outer_tile<A, R, SLOTS>(Packed<elem>{pack + first * depth, R * P}, gates, steps, to);
        });
    }

    // d_table[id] += dgates of every row that read it; each thread owns some blocks of units.
    void scatter(index first_step, index last_step, index first_row, Range my_blocks) {
        real *table = at<real>(a.d_table, 0);
        for (index t = first_step; t < last_step; ++t)
            for (index b = 0; b < a.B; ++b) {
                if (t >= length_of(a, b)) continue;
                const index here = t * a.B + b;
                real *row = table + a.ids[here] * Cell::gates * a.H;
                const elem *from = dgates + (here - first_row) * gate_row;
                for (index blk = my_blocks.begin; blk < my_blocks.end; ++blk)
                    for (int s = Cell::x_first; s < Cell::x_first + Cell::x_slots; ++s) {
                        const index unit = blk * Block::units + Cell::unit(s) * N;
                        const typename Simd::Lanes lanes(a.H - unit);
                        real *to = row + Cell::gate(s) * a.H + unit;
                        Simd::store(to, Simd::add(Simd::load(to, lanes), Simd::load(from + blk * Block::width + s * N)), lanes);
                    }
            }
    }

    template <class T>
    static void clear(T *p, index n, const Team &team) {
        if (!p) return;
        const Range r = share(n, team.count, team.me);
        memset((void *)(p + r.begin), 0, size_t(r.end - r.begin) * sizeof(T));
    }

    void run(Team team) {
        const Range all_panels{0, ceil_div(a.H, kWidth)};
        const Range batch = division.by_units ? Range{0, a.B} : share(a.B, team.count, team.me);
        const Range my_panels = division.by_units ? share(all_panels.end, team.count, team.me) : all_panels;
        constexpr index blocks_per_panel = kWidth / Block::units;
        const Range my_blocks{smaller(my_panels.begin * blocks_per_panel, blocks), smaller(my_panels.end * blocks_per_panel, blocks)};
        const Range shared_blocks = share(blocks, team.count, team.me);
        PerThread &mine = per_thread[team.me];
        pack_panels<A, Cell, Cell::h_first, Cell::h_slots>(at<elem>(a.w_hh, 0), a.H, w_h, share(w_h.count(), team.count, team.me));
        if (a.dx) pack_panels<A, Cell, Cell::x_first, Cell::x_slots>(at<elem>(a.w_ih, 0), a.H, w_x, share(w_x.count(), team.count, team.me));
        const Team products = alone ? Team{1, 0, team.barrier} : team;  // who shares the products over a chunk
        if (wants_x()) clear(mine.dw_x, blocks * dw_block(a.I, Cell::x_slots), products);
        if (a.dw_hh) clear(mine.dw_h, blocks * dw_block(a.H, Cell::h_slots), products);
        clear(mine.db, gate_row, products);
        clear(at<real>(a.d_table, 0), a.V * Cell::gates * a.H, team);
        if (norms) clear(norms, team.count * 2 * a.T * a.B, team);
        if (a.grad_norms) clear(a.grad_norms, 2 * a.T * a.B, team);
        const Range state_rows = share(a.B, team.count, team.me);
        for (index b = state_rows.begin; b < state_rows.end; ++b) {
            start_state(dh + b * carry_row, at<elem>(a.d_h_n, 0), b);
            if (Cell::has_c) start_state(dc + b * carry_row, at<real>(a.d_c_n, 0), b);
        }
        team.assemble();

        Alive alive{rows + batch.begin, batch.end - batch.begin, a.reverse ? batch.end - batch.begin : 0, a.lengths};
        // chunks in the order opposite to forward's
        for (index done = 0; done < a.T; done += chunk_steps) {
            const index steps = smaller(chunk_steps, a.T - done);
            const index first_step = a.reverse ? done : a.T - done - steps;
            const index first_row = first_step * a.B;
            for (index i = 0; i < steps; ++i) {
                const index t = a.reverse ? first_step + i : first_step + steps - 1 - i;
                alive.move_to(t);
                step(t, alive, my_blocks, my_panels, first_row, mine, team);
            }
            const index count = list_rows(first_step, steps, first_row, alone ? batch : Range{0, a.B}, products, mine);
            products.wait();
            if (a.dx) {
                const Range r = share(count, products.count, products.me);
                product(r.end - r.begin, mine.dgates + r.begin, gate_run<Cell::x_slots>(), w_x, 0, w_x.count(), mine.dx + r.begin, false);
            }
            if (a.d_table) scatter(first_step, first_step + steps, first_row, shared_blocks);
            if (wants_outer()) outer(count, products, mine);
            products.wait();
        }
        if (alone) {
            team.wait();
            for (int k = 1; k < team.count; ++k) add_to_first(per_thread[k], shared_blocks);
        }
        finish(team, state_rows, shared_blocks);
    }

    void add_to_first(const PerThread &other, Range my_blocks) {
        const PerThread &first = per_thread[0];
        const auto add = [&](real *to, const real *from, index size) {
            for (index i = my_blocks.begin * size; i < my_blocks.end * size; ++i) to[i] += from[i];
        };
        if (wants_x()) add(first.dw_x, other.dw_x, dw_block(a.I, Cell::x_slots));
        if (a.dw_hh) add(first.dw_h, other.dw_h, dw_block(a.H, Cell::h_slots));
        add(first.db, other.db, Block::width);
    }

    // Lists the chunk's rows that are alive, for the products over all of them, and returns how many there are.
    index list_rows(index first_step, index steps, index first_row, Range batch, const Team &team, PerThread &mine) {
        index n = 0;
        for (index t = first_step; t < first_step + steps; ++t)
            for (index j = batch.begin; j < batch.end; ++j) {
                const index b = alone ? rows[j] : j;  // else in one order for any number of threads
                const index here = t * a.B + b;
                if (t >= length_of(a, b)) {
                    if (a.dx && b % team.count == team.me)
                        memset((void *)at<elem>(a.dx, here * a.I), 0, size_t(a.I) * sizeof(elem));
                    continue;
                }
                mine.dgates[n] = dgates + (here - first_row) * gate_row;
                mine.x[n] = a.ids ? nullptr : at<elem>(a.x, here * a.I);
                mine.h[n] = state_before<elem>(a, a.out, a.h0, zeros, t, b);
                if (a.dx) mine.dx[n] = at<elem>(a.dx, here * a.I);
                ++n;
            }
        for (index i = n; i < n + InRows<elem>::kAhead; ++i) mine.dgates[i] = mine.x[i] = mine.h[i] = at<elem>(zeros, 0);
        return n;
    }

    template <class T>
    void start_state(real *to, const T *from, index b) {
        for (index i = 0; i < a.H; ++i) to[i] = from ? real(widen(from[b * a.H + i])) : real(0);
        for (index i = a.H; i < carry_row; ++i) to[i] = 0;
    }

    void finish(const Team &team, Range state_rows, Range my_blocks) {
        real *dw_x = per_thread[0].dw_x, *dw_h = per_thread[0].dw_h;
        if (wants_x()) unpack_gradient<A, Cell, Cell::x_first, Cell::x_slots>(dw_x, a.H, a.I, at<elem>(a.dw_ih, 0), my_blocks);
        if (a.dw_hh) unpack_gradient<A, Cell, Cell::h_first, Cell::h_slots>(dw_h, a.H, a.H, at<elem>(a.dw_hh, 0), my_blocks);
        bias_gradient(at<elem>(a.db_ih, 0), Cell::x_first, Cell::x_slots, my_blocks);
        bias_gradient(at<elem>(a.db_hh, 0), Cell::h_first, Cell::h_slots, my_blocks);
        for (index b = state_rows.begin; b < state_rows.end; ++b)
            for (index i = 0; i < a.H; ++i) {
                if (a.dh0) narrow(dh[b * carry_row + i], at<elem>(a.dh0, 0)[b * a.H + i]);
                if (Cell::has_c && a.dc0) at<real>(a.dc0, 0)[b * a.H + i] = dc[b * carry_row + i];
            }
        if (norms) {
            const Range r = share(2 * a.T * a.B, team.count, team.me);
            for (index i = r.begin; i < r.end; ++i) {
                double sum = 0;
                for (index k = 0; k < team.count; ++k) sum += norms[k * 2 * a.T * a.B + i];
                a.grad_norms[i] = float(::sqrt(sum));
            }
        }
    }

    void bias_gradient(elem *to, int first, int slots, Range my_blocks) {
        if (!to) return;
        for (index blk = my_blocks.begin; blk < my_blocks.end; ++blk)
            for (int s = first; s < first + slots; ++s)
                for (index lane = 0; lane < N; ++lane) {
                    const index unit = blk * Block::units + Cell::unit(s) * N + lane;
                    if (unit < a.H) narrow(per_thread[0].db[blk * Block::width + s * N + lane], to[Cell::gate(s) * a.H + unit]);
                }
    }
};

}  // namespace UNROLLED_ISA
