// Layouts, and moving weights in and out of them.
//
// Hidden units are taken in blocks of U vectors. Per block, a cell keeps SLOTS vectors side by side, so that one
// register tile holds everything that a block of units needs and the non-linearity can follow in registers.
//   forward weights   [block][k][slot][lane]          (k in pairs for bf16: [block][k/2][slot][lane][2])
//   gates, dgates     [t][b][block][slot][lane]       lanes past H are zero in dgates
//   backward weights  panels of columns, see Panels; their k runs over [block][slot][lane]
//   dW while summing  [block][k][slot][lane], real
#pragma once
#include "fingerprint.hpp"
#include "gemm.hpp"
#include "team.hpp"
#include "transpose.hpp"

namespace UNROLLED_ISA {

// Slot s holds gate(s) of torch's order, of the block's unit vector unit(s). x_first, x_slots: the slots that W_ih x
// enters; h_first, h_slots: those that W_hh h enters.
struct LstmLayout {
    static constexpr int gates = 4, U = 1, slots = 4, x_first = 0, x_slots = 4, h_first = 0, h_slots = 4;
    static constexpr int gate(int s) { return s; }
    static constexpr int unit(int) { return 0; }
};
// n from x, r, z, n from h: r and z in the middle let both products use three neighbouring slots.
struct GruLayout {
    static constexpr int gates = 3, U = 1, slots = 4, x_first = 0, x_slots = 3, h_first = 1, h_slots = 3;
    static constexpr int gate(int s) { return s == 1 ? 0 : s == 2 ? 1 : 2; }
    static constexpr int unit(int) { return 0; }
};
struct RnnLayout {
    static constexpr int gates = 1, U = 2, slots = 2, x_first = 0, x_slots = 2, h_first = 0, h_slots = 2;
    static constexpr int gate(int) { return 0; }
    static constexpr int unit(int s) { return s; }
};

template <class L, class Simd>
struct Blocks {
    static constexpr int units = L::U * Simd::N;
    static constexpr int width = L::slots * Simd::N;
    static index count(index H) { return ceil_div(H, units); }
    static index row(index H) { return count(H) * width; }
};

template <class A, class L>
index forward_weights_size(index H, index K, int slots) {
    return Blocks<L, typename A::Simd>::count(H) * ceil_div(K, A::kPair) * A::kPair * slots * A::Simd::N;
}

// Two rows of 16-bit numbers into one of pairs, the first in the lower half (only x86 has pairs): one 32-bit store each,
// which compilers turn into vectors. LSTM training in bf16 1.05 to 1.1 times faster than number by number.
UNROLLED_INLINE void interleave(const bf16 *first, const bf16 *second, index n, bf16 *to) {
    for (index i = 0; i < n; ++i) {
        const uint32_t pair = uint32_t(first[i].bits) | uint32_t(second[i].bits) << 16;
        memcpy((void *)(to + 2 * i), &pair, 4);
    }
}

constexpr index kPackSteps = 64;  // k moved at once: what is written stays in the innermost cache until its lines are full

// W (G*H, K) -> [block][k][slot][lane] for the slots [first, first + NV), blocks [begin, end).
template <class A, class L, int FIRST, int NV>
void pack_forward(const typename A::elem *w, index H, index K, typename A::elem *to, Range blocks) {
    using elem = typename A::elem;
    constexpr index N = A::Simd::N, P = A::kPair;
    const index steps = ceil_div(K, P), step = NV * N * P;
    const bool cells = sizeof(elem) * P == 4 && K % P == 0;
    const index at_once = cells && N == 16 ? steps : kPackSteps;  // by 16 nothing is written twice
    for (index blk = blocks.begin; blk < blocks.end; ++blk)
        for (index first = 0; first < steps; first += at_once)
            for (int v = 0; v < NV; ++v) {
                const index unit = blk * L::U * N + L::unit(FIRST + v) * N;
                const index lanes = larger(0, smaller(N, H - unit)), some = smaller(at_once, steps - first);
                const elem *from = w + (L::gate(FIRST + v) * H + unit) * K + first * P;
                elem *block = to + (blk * steps + first) * step + v * N * P;
                if (lanes < N)
                    for (index s = 0; s < some; ++s) memset((void *)(block + s * step), 0, N * P * sizeof(elem));
                if constexpr (sizeof(elem) * P == 4) {
                    if (cells) {
                        const float *rows = (const float *)(const void *)from;
                        float *packed = (float *)(void *)block;
                        if (lanes == 16)
                            transpose_cells_by_16(rows, K / P, some, packed, step / P);
                        else
                            transpose_cells(rows, K / P, lanes, some, packed, step / P);
                        continue;
                    }
                }
                for (index lane = 0; lane < lanes; ++lane)
                    for (index s = 0; s < some; ++s)
                        for (index p = 0; p < P; ++p)
                            block[s * step + lane * P + p] =
                                (first + s) * P + p < K ? from[lane * K + s * P + p] : elem{};
            }
}

// One matrix of a call, packed: in the call's own memory, or where the next call finds it.
template <class A, class L, int FIRST, int NV>
struct ForwardWeights {
    using elem = typename A::elem;
    static constexpr index N = A::Simd::N;
    const elem *w = nullptr;
    index H = 0, K = 0;
    elem *packed = nullptr;  // [block][k][slot][lane]
    unrolled::KeptWeights *kept = nullptr;

    ~ForwardWeights() {
        if (kept) unrolled::give_kept_weights_back(kept);
    }
    void prepare(Workspace &memory, const elem *weights, index units, index columns, bool keep) {
        static char layout;
        w = weights, H = units, K = columns;
        const index size = forward_weights_size<A, L>(H, K, NV);
        if (keep && size > 0)
            kept = unrolled::take_kept_weights({w, &layout, H, K}, ceil_div(size * index(sizeof(elem)), 64) * 64,
                                               size_t(Blocks<L, typename A::Simd>::count(H) * Fingerprint::kBytes));
        packed = kept ? static_cast<elem *>(kept->packed) : memory.get<elem>(size);
    }
    index per_block() const { return ceil_div(K, A::kPair) * A::kPair * NV * N; }
    const elem *block(index blk) const { return packed + blk * per_block(); }

    void pack(Range blocks) const {
        if (!w) return;
        for (index blk = blocks.begin; blk < blocks.end; ++blk)
            if (!kept || changed(blk)) pack_forward<A, L, FIRST, NV>(w, H, K, packed, {blk, blk + 1});
    }
    bool changed(index blk) const {
        Fingerprint now;
        for (int v = 0; v < NV; ++v) {
            const index unit = blk * L::U * N + L::unit(FIRST + v) * N;
            const index lanes = larger(0, smaller(N, H - unit));
            now.add(w + (L::gate(FIRST + v) * H + unit) * K, lanes * K * index(sizeof(elem)));
        }
        char *before = static_cast<char *>(kept->fingerprints) + blk * Fingerprint::kBytes;
        if (memcmp(before, now.sums, Fingerprint::kBytes) == 0) return false;
        memcpy(before, now.sums, Fingerprint::kBytes);
        return true;
    }
};

// The same way back: the summed gradient [block][k][slot][lane] -> dW (G*H, K).
template <class A, class L, int FIRST, int NV>
void unpack_gradient(const typename A::real *from, index H, index K, typename A::elem *dw, Range blocks) {
    using Simd = typename A::Simd;
    constexpr index N = Simd::N;
    for (index blk = blocks.begin; blk < blocks.end; ++blk)
        for (int v = 0; v < NV; ++v) {
            const index unit = blk * L::U * N + L::unit(FIRST + v) * N;
            const index lanes = larger(0, smaller(N, H - unit));
            const typename A::real *block = from + blk * K * NV * N + v * N;
            typename A::elem *to = dw + (L::gate(FIRST + v) * H + unit) * K;
            if constexpr (sizeof(typename A::elem) == 4) {
                index k = 0;
                if (lanes == 16)
                    for (; k + 16 <= K; k += 16) transpose_cells_by_16(block + k * NV * N, NV * N, 16, to + k, K);
                transpose_cells(block + k * NV * N, NV * N, K - k, lanes, to + k, K);
            } else if constexpr (sizeof(typename A::real) == 4) {
                typename A::real turned[N * kPackSteps];
                for (index first = 0; first < K; first += kPackSteps) {
                    const index some = smaller(kPackSteps, K - first);
                    transpose_cells(block + first * NV * N, NV * N, some, lanes, turned, kPackSteps);
                    for (index lane = 0; lane < lanes; ++lane)
                        for (index k = 0; k < some; k += N)
                            Simd::store(to + lane * K + first + k, Simd::load(turned + lane * kPackSteps + k),
                                        typename Simd::Lanes(some - k));
                }
            } else {
                for (index lane = 0; lane < lanes; ++lane)
                    for (index k = 0; k < K; ++k) narrow(block[k * NV * N + lane], to[lane * K + k]);
            }
        }
}

// W (G*H, columns) -> panels whose k runs over [block][slot][lane], for the slots [FIRST, FIRST + NV).
template <class A, class L, int FIRST, int NV>
void pack_panels(const typename A::elem *w, index H, const Panels<A> &to, Range panels) {
    using elem = typename A::elem;
    constexpr index N = A::Simd::N, P = A::kPair;
    const index blocks = Blocks<L, typename A::Simd>::count(H);
    for (index p = panels.begin; p < panels.end; ++p) {
        const index column = p * Panels<A>::kWidth, columns = smaller(to.columns - column, Panels<A>::kWidth);
        const index width = to.vectors(p) * N;
        elem *out = to.panel(p);
        index k = 0;
        for (index blk = 0; blk < blocks; ++blk)
            for (int v = 0; v < NV; ++v)
                for (index lane = 0; lane < N; ++lane, ++k) {
                    const index unit = blk * L::U * N + L::unit(FIRST + v) * N + lane;
                    elem *row = out + (k / P) * P * width + k % P;
                    if constexpr (P == 2) {  // N is even: both of a pair are lanes of this vector
                        if (lane % 2 == 0 && unit + 1 < H) {
                            const elem *from = w + (L::gate(FIRST + v) * H + unit) * to.columns + column;
                            interleave(from, from + to.columns, columns, row);
                            memset((void *)(row + columns * P), 0, size_t(width - columns) * P * sizeof(elem));
                            ++lane, ++k;
                            continue;
                        }
                    }
                    if (unit >= H) {
                        for (index i = 0; i < width; ++i) row[i * P] = elem{};
                        continue;
                    }
                    const elem *from = w + (L::gate(FIRST + v) * H + unit) * to.columns + column;
                    if constexpr (P == 1) {
                        memcpy(row, from, size_t(columns) * sizeof(elem));
                    } else {
                        for (index i = 0; i < columns; ++i) row[i * P] = from[i];
                    }
                    for (index i = columns; i < width; ++i) row[i * P] = elem{};
                }
    }
}

}  // namespace UNROLLED_ISA
