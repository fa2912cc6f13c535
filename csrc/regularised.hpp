// A regularised layer and direction, from the input's part of the gates on. One step, with y = LN(W_hh seen) gain + b_hh (LN and gain only
// with layer normalisation; over all gates, but for the GRU over r and z, and over n), before and after this step:
//
//   seen = mask h                                           recurrent dropout
//   h' , c' = the cell's, from x + y (GRU: x, y); LSTM's h' = o tanh(LN(c') gain_c + bias_c)
//   h_t = stay h + (1 - stay) h',  c_t = stay c + (1 - stay) c'                          zoneout; h' has the new c' in it
//
// Kept by the caller for backward: p = W_hh seen, h, c and x; everything else is computed again. Backward through
// LN with unit factor u arriving at p^ = (p - mean) / deviation: dp = (u - mean(u) - p^ mean(u p^)) / deviation.
// Accumulating outputs: db_hh += dy, dgain += dy p^, dgain_c, dbias_c alike; per thread, the caller adds them up.
// Rows are independent: threads share the batch, and meet once, when W_hh is packed.
#pragma once
#include "activations.hpp"
#include "linear.hpp"

namespace UNROLLED_ISA {

template <class Simd, int MODE>
struct Step {
    using V = typename Simd::V;
    using real = typename Simd::real;
    using Lanes = typename Simd::Lanes;
    using Act = Activation<Simd>;
    static constexpr index N = Simd::N;
    static constexpr bool lstm = MODE == UNROLLED_LSTM, gru = MODE == UNROLLED_GRU;
    static constexpr int G = lstm ? 4 : gru ? 3 : 1;

    struct Moments {
        V mean, scale;
        V normal(V p) const { return Simd::mul(Simd::sub(p, mean), scale); }
    };
    const unrolled_regularised_args &a;
    const index t, next;  // this step, and the one after it in the order of the sequence or -1
    const real *q;        // backward: what reaches the state before the next step through W_hh, (B, H)
    const index H = a.H, slot = a.kept ? t : t % 2, next_slot = a.kept ? next : next % 2;

    static real *at(const void *array, index offset) {
        return array ? static_cast<real *>(const_cast<void *>(array)) + offset : nullptr;
    }
    template <class F>
    static UNROLLED_INLINE void vectors(index count, F &&f) {
        for (index i = 0; i < count; i += N) f(i, Lanes(count - i));
    }

    static Moments moments(const real *p, index count) {
        V sum = Simd::zero(), squares = Simd::zero();
        vectors(count, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE { sum = Simd::add(sum, Simd::load(p + i, k)); });
        const V mean = Simd::set1(Simd::sum(sum) / real(count));
        vectors(count, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
            const V d = Simd::keep(Simd::sub(Simd::load(p + i, k), mean), k);
            squares = Simd::fma(d, d, squares);
        });
        const double variance = double(Simd::sum(squares)) / double(count);
        return {mean, Simd::set1(real(1 / ::sqrt(variance + 1e-5)))};
    }

    // The gates that one mean and deviation are of: all, or the GRU's r z and n.
    struct Normal {
        Moments first, last;
        const Moments &of(int gate) const { return gru && gate == 2 ? last : first; }
    };
    Normal normal_of(const real *p) const {
        const Moments none{Simd::zero(), Simd::zero()};
        if (!a.gain_hh) return {none, none};
        if (gru) return {moments(p, 2 * H), moments(p + 2 * H, H)};
        const Moments all = moments(p, G * H);
        return {all, all};
    }

    UNROLLED_INLINE V recurrent(const real *p, const Normal &normal, int gate, index i, Lanes k) const {
        const index j = gate * H + i;
        V y = Simd::load(p + j, k);
        if (a.gain_hh) y = Simd::mul(normal.of(gate).normal(y), Simd::load(at(a.gain_hh, j), k));
        return a.b_hh ? Simd::add(y, Simd::load(at(a.b_hh, j), k)) : y;
    }

    static UNROLLED_INLINE V stay(const uint8_t *masks, double share, index first, index count) {
        if (!masks) return Simd::set1(real(share));
        real values[N] = {};
        if (count >= N)
            for (index i = 0; i < N; ++i) values[i] = real(masks[first + i]);
        else
            for (index i = 0; i < count; ++i) values[i] = real(masks[first + i]);
        return Simd::load(values);
    }
    static UNROLLED_INLINE V mix(V share, V old, V fresh) {
        return Simd::fma(share, old, Simd::mul(Simd::sub(Simd::set1(1), share), fresh));
    }
    bool zones_h() const { return a.stay_h || a.share_h != 0; }
    bool zones_c() const { return a.stay_c || a.share_c != 0; }

    void copy(real *to, const real *from) const {
        if (from) memmove((void *)to, from, size_t(H) * sizeof(real));
        else memset((void *)to, 0, size_t(H) * sizeof(real));
    }

    // The state after row b's step, at h and c, is the state before the next one.
    void hand_on(index b, const real *h, const real *c) const {
        const bool last = next < 0, cut = !last && a.cut && a.cut[next * a.B + b];
        const index row = b * H, to = (next_slot * a.B + b) * H;
        real *h_to = last ? at(a.h_n, row) : at(a.h, to);
        copy(h_to, cut ? at(a.start_h, row) : h);
        if (lstm) copy(last ? at(a.c_n, row) : at(a.c, to), cut ? at(a.start_c, row) : c);
        if (a.mask && !last)
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                Simd::store(at(a.seen, to) + i, Simd::mul(Simd::load(at(a.mask, row) + i, k), Simd::load(h_to + i, k)), k);
            });
    }

    void forward(index b, real *scratch) const {
        const index here = t * a.B + b, row = (slot * a.B + b) * H;
        const real *h = at(a.h, row), *c = lstm ? at(a.c, row) : nullptr;
        real *out = at(a.out, here * H), *cs = at(a.cs, here * H);
        if (a.alive && !a.alive[here]) {
            copy(out, nullptr);
            if (cs) copy(cs, nullptr);
            if (a.kept) memset((void *)at(a.p, here * G * H), 0, size_t(G * H) * sizeof(real));
            return hand_on(b, h, c);
        }
        const real *x = at(a.x, here * G * H), *p = at(a.p, (slot * a.B + b) * G * H);
        const Normal normal = normal_of(p);
        real *fresh_c = scratch, *o_of = scratch + H;
        const auto y = [&](int gate, index i, Lanes k) UNROLLED_LAMBDA_INLINE { return recurrent(p, normal, gate, i, k); };
        const auto in = [&](int gate, index i, Lanes k) UNROLLED_LAMBDA_INLINE { return Simd::load(x + gate * H + i, k); };
        const auto put = [&](V fresh, index i, Lanes k) UNROLLED_LAMBDA_INLINE {
            if (zones_h()) fresh = mix(stay(a.stay_h, a.share_h, here * H + i, H - i), Simd::load(h + i, k), fresh);
            Simd::store(out + i, fresh, k);
        };
        if constexpr (lstm) {
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V ig = Act::sigmoid(Simd::add(in(0, i, k), y(0, i, k)));
                const V f = Act::sigmoid(Simd::add(in(1, i, k), y(1, i, k)));
                const V g = Act::tanh(Simd::add(in(2, i, k), y(2, i, k)));
                Simd::store(o_of + i, Act::sigmoid(Simd::add(in(3, i, k), y(3, i, k))), k);
                Simd::store(fresh_c + i, Simd::fma(f, Simd::load(c + i, k), Simd::mul(ig, g)), k);
            });
            Moments of_c{};
            if (a.gain_c) of_c = moments(fresh_c, H);
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V fresh = Simd::load(fresh_c + i, k);
                V shown = fresh;
                if (a.gain_c)
                    shown = Simd::fma(of_c.normal(fresh), Simd::load(at(a.gain_c, i), k), Simd::load(at(a.bias_c, i), k));
                put(Simd::mul(Simd::load(o_of + i, k), Act::tanh(shown)), i, k);
                if (zones_c())
                    Simd::store(fresh_c + i, mix(stay(a.stay_c, a.share_c, here * H + i, H - i), Simd::load(c + i, k), fresh), k);
            });
            if (cs) copy(cs, fresh_c);
        } else if constexpr (gru) {
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V r = Act::sigmoid(Simd::add(in(0, i, k), y(0, i, k)));
                const V z = Act::sigmoid(Simd::add(in(1, i, k), y(1, i, k)));
                const V n = Act::tanh(Simd::fma(r, y(2, i, k), in(2, i, k)));
                put(Simd::fma(z, Simd::sub(Simd::load(h + i, k), n), n), i, k);
            });
        } else {
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V sum = Simd::add(in(0, i, k), y(0, i, k));
                put(MODE == UNROLLED_RNN_RELU ? Simd::max(Simd::zero(), sum) : Act::tanh(sum), i, k);
            });
        }
        hand_on(b, out, fresh_c);
    }

    static UNROLLED_INLINE void add_to(real *sum, V v, Lanes k) { Simd::store(sum, Simd::add(Simd::load(sum, k), v), k); }

    // u (count) arriving at the normalised p, in place: the gradient of p.
    static void back_through_norm(const Moments &m, const real *p, real *u, index count) {
        V sum = Simd::zero(), along = Simd::zero();
        vectors(count, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
            const V v = Simd::load(u + i, k);  // zero past the end
            sum = Simd::add(sum, v);
            along = Simd::fma(v, m.normal(Simd::load(p + i, k)), along);
        });
        const V mean = Simd::set1(Simd::sum(sum) / real(count)), slope = Simd::set1(Simd::sum(along) / real(count));
        vectors(count, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
            const V rest = Simd::sub(Simd::load(u + i, k), mean);
            Simd::store(u + i, Simd::mul(Simd::fnma(m.normal(Simd::load(p + i, k)), slope, rest), m.scale), k);
        });
    }

    void backward(index b, real *scratch, real *sums) const {
        const index here = t * a.B + b, row = b * H, before = (slot * a.B + b) * H;
        real *dh = at(a.dh, row), *dc = lstm ? at(a.dc, row) : nullptr;
        real *dx = at(a.dx, here * G * H), *dp = at(a.dp, here * G * H);
        if (next >= 0) {  // what reached the state before the next step
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                V came = Simd::load(q + row + i, k);
                if (a.mask) came = Simd::mul(came, Simd::load(at(a.mask, row) + i, k));
                Simd::store(dh + i, Simd::add(Simd::load(dh + i, k), came), k);
            });
            if (a.cut && a.cut[next * a.B + b]) {
                cut_off(dh, at(a.d_start_h, row));
                if (lstm) cut_off(dc, at(a.d_start_c, row));
            }
        }
        if (a.alive && !a.alive[here]) {
            memset((void *)dx, 0, size_t(G * H) * sizeof(real));
            if (dp != dx) memset((void *)dp, 0, size_t(G * H) * sizeof(real));
            return;
        }
        const real *x = at(a.x, here * G * H), *p = at(a.p, before * G), *h = at(a.h, before), *c = at(a.c, before);
        const real *d_out = at(a.d_out, here * H), *d_cs = at(a.d_cs, here * H);
        real *const db = sums, *const dgain = sums + G * H, *const dgain_c = sums + 2 * G * H, *const dbias_c = dgain_c + H;
        const Normal normal = normal_of(p);
        const V one = Simd::set1(1);
        V h_squares = Simd::zero(), c_squares = Simd::zero();
        const auto y = [&](int gate, index i, Lanes k) UNROLLED_LAMBDA_INLINE { return recurrent(p, normal, gate, i, k); };
        const auto in = [&](int gate, index i, Lanes k) UNROLLED_LAMBDA_INLINE { return Simd::load(x + gate * H + i, k); };
        // All that arrives at h_t; what of it is h_{t-1}'s by zoneout stays in dh, the rest is the cell's.
        const auto arriving = [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
            V all = Simd::load(dh + i, k);
            if (d_out) all = Simd::add(all, Simd::load(d_out + i, k));
            h_squares = Simd::fma(all, all, h_squares);
            const V stays = zones_h() ? Simd::mul(all, stay(a.stay_h, a.share_h, here * H + i, H - i)) : Simd::zero();
            Simd::store(dh + i, stays, k);
            return Simd::sub(all, stays);
        };
        // The gradient of gate sums seen from the input (dx) and from the state (dy), where they differ.
        const auto put = [&](int gate, index i, Lanes k, V from_x, V from_h) UNROLLED_LAMBDA_INLINE {
            const index j = gate * H + i;
            if (a.b_hh) add_to(db + j, from_h, k);
            V u = from_h;
            if (a.gain_hh) {
                add_to(dgain + j, Simd::mul(from_h, normal.of(gate).normal(Simd::load(p + j, k))), k);
                u = Simd::mul(from_h, Simd::load(at(a.gain_hh, j), k));
            }
            Simd::store(dx + j, from_x, k);
            if (dp != dx) Simd::store(dp + j, u, k);
        };
        if constexpr (lstm) {
            real *const d_shown = scratch, *const fresh_c = scratch + H;
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V ig = Act::sigmoid(Simd::add(in(0, i, k), y(0, i, k)));
                const V f = Act::sigmoid(Simd::add(in(1, i, k), y(1, i, k)));
                const V g = Act::tanh(Simd::add(in(2, i, k), y(2, i, k)));
                Simd::store(fresh_c + i, Simd::fma(f, Simd::load(c + i, k), Simd::mul(ig, g)), k);
                Simd::store(dx + i, ig, k);  // until the second loop
                Simd::store(dx + H + i, f, k);
                Simd::store(dx + 2 * H + i, g, k);
            });
            Moments of_c{};
            if (a.gain_c) of_c = moments(fresh_c, H);
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V o = Act::sigmoid(Simd::add(in(3, i, k), y(3, i, k)));
                V shown = Simd::load(fresh_c + i, k), unit = shown;
                if (a.gain_c) {
                    unit = of_c.normal(shown);
                    shown = Simd::fma(unit, Simd::load(at(a.gain_c, i), k), Simd::load(at(a.bias_c, i), k));
                }
                const V tanh_c = Act::tanh(shown), d_fresh = arriving(i, k);
                V d = Simd::mul(Simd::mul(d_fresh, o), Simd::fnma(tanh_c, tanh_c, one));
                if (a.gain_c) {
                    add_to(dgain_c + i, Simd::mul(d, unit), k);
                    add_to(dbias_c + i, d, k);
                    d = Simd::mul(d, Simd::load(at(a.gain_c, i), k));
                }
                Simd::store(d_shown + i, d, k);
                const V d_o = Simd::mul(Simd::mul(d_fresh, tanh_c), Simd::mul(o, Simd::sub(one, o)));
                put(3, i, k, d_o, d_o);
            });
            if (a.gain_c) back_through_norm(of_c, fresh_c, d_shown, H);
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V ig = Simd::load(dx + i, k), f = Simd::load(dx + H + i, k), g = Simd::load(dx + 2 * H + i, k);
                V all = Simd::load(dc + i, k);
                if (d_cs) all = Simd::add(all, Simd::load(d_cs + i, k));
                V stays = Simd::zero(), d = Simd::load(d_shown + i, k);
                if (zones_c()) {
                    c_squares = Simd::fma(all, all, c_squares);
                    stays = Simd::mul(all, stay(a.stay_c, a.share_c, here * H + i, H - i));
                    d = Simd::add(d, Simd::sub(all, stays));
                } else {
                    d = Simd::add(d, all);
                    c_squares = Simd::fma(d, d, c_squares);
                }
                Simd::store(dc + i, Simd::fma(d, f, stays), k);
                const V di = Simd::mul(Simd::mul(d, g), Simd::mul(ig, Simd::sub(one, ig)));
                const V df = Simd::mul(Simd::mul(d, Simd::load(c + i, k)), Simd::mul(f, Simd::sub(one, f)));
                const V dg = Simd::mul(Simd::mul(d, ig), Simd::fnma(g, g, one));
                put(0, i, k, di, di);
                put(1, i, k, df, df);
                put(2, i, k, dg, dg);
            });
        } else if constexpr (gru) {
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V r = Act::sigmoid(Simd::add(in(0, i, k), y(0, i, k)));
                const V z = Act::sigmoid(Simd::add(in(1, i, k), y(1, i, k)));
                const V y_n = y(2, i, k), n = Act::tanh(Simd::fma(r, y_n, in(2, i, k)));
                const V d = arriving(i, k), rest = Simd::sub(one, z);
                const V dn = Simd::mul(Simd::mul(d, rest), Simd::fnma(n, n, one));
                const V dz = Simd::mul(Simd::mul(d, Simd::sub(Simd::load(h + i, k), n)), Simd::mul(z, rest));
                const V dr = Simd::mul(Simd::mul(dn, y_n), Simd::mul(r, Simd::sub(one, r)));
                Simd::store(dh + i, Simd::fma(d, z, Simd::load(dh + i, k)), k);
                put(0, i, k, dr, dr);
                put(1, i, k, dz, dz);
                put(2, i, k, dn, Simd::mul(dn, r));
            });
        } else {
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE {
                const V sum = Simd::add(in(0, i, k), y(0, i, k)), d = arriving(i, k), fresh = Act::tanh(sum);
                const V da = MODE == UNROLLED_RNN_RELU ? Simd::zero_where_not_positive(d, sum)
                                                       : Simd::mul(d, Simd::fnma(fresh, fresh, one));
                put(0, i, k, da, da);
            });
        }
        if (a.gain_hh) {
            back_through_norm(normal.first, p, dp, gru ? 2 * H : G * H);
            if (gru) back_through_norm(normal.last, p + 2 * H, dp + 2 * H, H);
        }
        if (a.grad_norms) {
            a.grad_norms[here] = float(::sqrt(double(Simd::sum(h_squares))));
            a.grad_norms[a.T * a.B + here] = float(::sqrt(double(Simd::sum(c_squares))));
        }
    }

    void cut_off(real *gradient, real *into) const {
        if (into)
            vectors(H, [&](index i, Lanes k) UNROLLED_LAMBDA_INLINE { add_to(into + i, Simd::load(gradient + i, k), k); });
        copy(gradient, nullptr);
    }
};

template <class Simd, int MODE, bool BACK>
struct Steps {
    using A = Plain<Simd>;
    using real = typename Simd::real;
    static constexpr int G = Step<Simd, MODE>::G;
    const unrolled_regularised_args &a;
    Panels<A> w{};  // forward W_hh^T, backward W_hh
    real *q = nullptr, *scratch = nullptr;
    const real **from = nullptr;
    real **to = nullptr;

    explicit Steps(const unrolled_regularised_args &args) : a(args) {}

    bool prepare(Workspace &memory, int threads) {
        w.depth = BACK ? G * a.H : a.H;
        w.columns = BACK ? a.H : G * a.H;
        w.data = memory.get<real>(w.size());
        q = BACK ? memory.get<real>(a.B * a.H) : nullptr;
        scratch = memory.get<real>(threads * 2 * a.H);
        from = memory.get<const real *>(a.B);
        to = memory.get<real *>(a.B);
        return !memory.failed;
    }

    // W_hh's product with the state before step t, or with the gradient of the gates of the step after it.
    void multiply(index t, index next, Range rows) {
        const index slot = a.kept ? t : t % 2;
        index n = rows.begin;
        for (index b = rows.begin; b < rows.end; ++b) {
            if (!BACK && a.alive && !a.alive[t * a.B + b]) continue;
            from[n] = BACK ? static_cast<const real *>(a.dp) + (next * a.B + b) * G * a.H
                           : static_cast<const real *>(a.seen) + (slot * a.B + b) * a.H;
            to[n++] = BACK ? q + b * a.H : static_cast<real *>(a.p) + (slot * a.B + b) * G * a.H;
        }
        product<A, real>(n - rows.begin, from + rows.begin, Segments<A>{1, w.depth, 0}, w, 0, w.count(), to + rows.begin, false);
    }

    void run(Team team) {
        pack_weights<Simd>(static_cast<const real *>(a.w_hh), a.H, !BACK, w, share(w.count(), team.count, team.me));
        team.wait();
        const Range rows = share(a.B, team.count, team.me);
        real *mine = scratch + team.me * 2 * a.H, *sums = static_cast<real *>(a.sums) + team.me * (2 * G + 2) * a.H;
        for (index s = 0; s < a.T; ++s) {
            const index place = BACK ? a.T - 1 - s : s, t = a.reverse ? a.T - 1 - place : place;
            const index next = place + 1 == a.T ? -1 : a.reverse ? t - 1 : t + 1;
            if (!BACK || next >= 0) multiply(t, next, rows);
            const Step<Simd, MODE> step{a, t, next, q};
            for (index b = rows.begin; b < rows.end; ++b) {
                if constexpr (BACK)
                    step.backward(b, mine, sums);
                else
                    step.forward(b, mine);
            }
        }
    }
};

template <class Simd, int MODE, bool BACK>
int run_steps(const unrolled_regularised_args &a) {
    const double work = double(a.T) * double(a.B) * double(a.H) * double(a.H);
    Steps<Simd, MODE, BACK> steps(a);
    return run_on_team(steps, work < 1e5 ? 1 : int(larger(1, smaller(a.threads, a.B))));
}

template <class Simd, bool BACK>
int all_steps(const unrolled_regularised_args &a) {
    switch (a.mode) {
        case UNROLLED_LSTM: return run_steps<Simd, UNROLLED_LSTM, BACK>(a);
        case UNROLLED_GRU: return run_steps<Simd, UNROLLED_GRU, BACK>(a);
        case UNROLLED_RNN_TANH: return run_steps<Simd, UNROLLED_RNN_TANH, BACK>(a);
        case UNROLLED_RNN_RELU: return run_steps<Simd, UNROLLED_RNN_RELU, BACK>(a);
        default: return -2;
    }
}

template <class Simd>
constexpr unrolled::StepKernels steps() {
    return {all_steps<Simd, false>, all_steps<Simd, true>, run_linear<Simd>};
}

}  // namespace UNROLLED_ISA
