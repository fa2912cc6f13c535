// What forward and backward share: how a call is divided among threads, and which rows are alive at a step.
#pragma once
#include "packing.hpp"
#include "team.hpp"
#include "unrolled_kernels.h"

namespace UNROLLED_ISA {

// Threads take their share of the batch and never wait for each other between steps; or, where the batch is small or
// the recurrent weights outgrow a core's cache, their share of the hidden units, with one barrier per step.
struct Division {
    int threads;
    bool by_units;
};

// Calls during which threads are not made to meet at every step, because lately one of them kept losing its core to
// another process. The results are the same bits either way, except for gradient norms, which never change sides.
inline int crowded_calls = 0;
constexpr int kCrowdedCalls = 32;

inline void note_crowding(const Division &division, const Barrier &barrier, double seconds) {
    if (division.by_units && barrier.lost(division.threads, seconds))
        __atomic_store_n(&crowded_calls, kCrowdedCalls, __ATOMIC_RELAXED);
}

inline bool is_crowded() {
    if (__atomic_load_n(&crowded_calls, __ATOMIC_RELAXED) <= 0) return false;
    __atomic_sub_fetch(&crowded_calls, 1, __ATOMIC_RELAXED);
    return true;
}

inline Division divide(const unrolled_args &a, int gates, index unit_blocks, index elem_size) {
    const index threads = a.threads;
    const double step = double(a.B) * gates * double(a.H) * double(a.H);
    const double work = double(a.T) * double(a.B) * gates * double(a.H) * double(a.I + a.H);
    if (threads <= 1 || work < 3e5) return {1, false};
    const double recurrent_bytes = double(gates) * double(a.H) * double(a.H) * double(elem_size);
    const bool few_rows = a.B < 4 * threads || (recurrent_bytes > 1.5e6 && a.B < 12 * threads);
    if (few_rows && unit_blocks >= threads && step > 6e4) {
        if (a.grad_norms || !is_crowded()) return {int(threads), true};
        if (a.B < 4 * threads) return {1, false};
    }
    if (a.B >= threads) return {int(threads), false};
    return {1, false};
}

// The batch in the order threads take it: row list[i] for i in share(B, threads, me). With lengths, each thread's rows
// run from long to short, and long rows are dealt evenly.
inline bool order_rows(const unrolled_args &a, index parts, Workspace &memory, index *list) {
    if (!a.lengths) {
        for (index b = 0; b < a.B; ++b) list[b] = b;
        return true;
    }
    index *start = memory.get<index>(a.T + 2), *sorted = memory.get<index>(a.B);
    if (memory.failed) return false;
    memset(start, 0, size_t(a.T + 2) * sizeof(index));
    for (index b = 0; b < a.B; ++b) ++start[a.T - a.lengths[b] + 1];
    for (index t = 0; t <= a.T; ++t) start[t + 1] += start[t];
    for (index b = 0; b < a.B; ++b) sorted[start[a.T - a.lengths[b]]++] = b;
    for (index part = 0, i = 0; part < parts; ++part)
        for (index j = part; j < a.B; j += parts) list[i++] = sorted[j];
    return true;
}

// The rows of one thread that are alive at step t: always the first `alive` of its list.
struct Alive {
    const index *rows;
    index count, alive;
    const int64_t *lengths;
    void move_to(index t) {
        if (!lengths) {
            alive = count;
            return;
        }
        while (alive > 0 && lengths[rows[alive - 1]] <= t) --alive;
        while (alive < count && lengths[rows[alive]] > t) ++alive;
    }
};

UNROLLED_INLINE index length_of(const unrolled_args &a, index b) { return a.lengths ? a.lengths[b] : a.T; }
// The step before t in processing order, or -1 if t is row b's first.
UNROLLED_INLINE index step_before(const unrolled_args &a, index t, index b) {
    if (!a.reverse) return t - 1;
    return t + 1 < length_of(a, b) ? t + 1 : -1;
}
UNROLLED_INLINE bool is_last_step(const unrolled_args &a, index t, index b) {
    return a.reverse ? t == 0 : t == length_of(a, b) - 1;
}
UNROLLED_INLINE bool is_reset(const unrolled_args &a, index t, index b) { return a.resets && a.resets[t * a.B + b]; }

template <class T>
UNROLLED_INLINE T *at(const void *p, index offset) {
    return static_cast<T *>(const_cast<void *>(p)) + offset;
}

// h before step t of row b: an earlier output, the initial state, or zeros.
template <class elem>
UNROLLED_INLINE const elem *state_before(const unrolled_args &a, const void *states, const void *initial,
                                         const void *zeros, index t, index b) {
    if (is_reset(a, t, b)) return at<elem>(zeros, 0);
    const index before = step_before(a, t, b);
    if (before >= 0) return at<elem>(states, (before * a.B + b) * a.H);
    return initial ? at<elem>(initial, b * a.H) : at<elem>(zeros, 0);
}

}  // namespace UNROLLED_ISA
