// The threads of one call: who am I, how many are we, and a barrier.
#pragma once
#include <sched.h>
#include <time.h>
#include "kernels.hpp"
#include "simd.hpp"

namespace UNROLLED_ISA {

#if defined(__x86_64__)
UNROLLED_INLINE void pause_briefly() { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
UNROLLED_INLINE void pause_briefly() { asm volatile("yield"); }
#else
UNROLLED_INLINE void pause_briefly() {}
#endif

inline double monotonic_seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// Spins for about two microseconds, then gives the core away: whoever we wait for may need it. Waits of more than 0.3 ms
// are summed: between two steps they mean that the other thread has lost its core to another process.
struct Barrier {
    int arrived = 0, phase = 0;
    int64_t waited = 0;  // nanoseconds, of all threads
    void wait(int count, bool counted = true) {
        if (count == 1) return;
        const int mine = __atomic_load_n(&phase, __ATOMIC_ACQUIRE);
        if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == count) {
            __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
            __atomic_store_n(&phase, mine + 1, __ATOMIC_RELEASE);
            return;
        }
        double since = 0;
        for (int spins = 0; __atomic_load_n(&phase, __ATOMIC_ACQUIRE) == mine; ++spins) {
            if (spins < 200) {
                pause_briefly();
                continue;
            }
            if (spins == 200) since = monotonic_seconds();
            sched_yield();
        }
        if (!counted || since == 0) return;
        const double seconds = monotonic_seconds() - since;
        if (seconds > 3e-4) __atomic_add_fetch(&waited, int64_t(seconds * 1e9), __ATOMIC_RELAXED);
    }
    // Whether one thread alone would have been done sooner than these, which took so many seconds.
    bool lost(int count, double seconds) const {
        return count > 1 && 1e-9 * double(waited) / (count - 1) > seconds * (1 - 1.0 / count);
    }
};

struct Team {
    int count, me;
    Barrier *barrier;
    void wait() const { barrier->wait(count); }
    void assemble() const { barrier->wait(count, false); }  // at first: who slept until now has not lost its core
};

// Memory for one call, given back at its end. A failed allocation is remembered and asked about once.
struct Workspace {
    static constexpr int kMost = 32;
    void *blocks[kMost];
    int used = 0;
    bool failed = false;
    template <class T>
    T *get(index n) {
        void *p = used < kMost ? unrolled::take_memory((size_t(n > 0 ? n : 1) * sizeof(T) + 127) / 64 * 64) : nullptr;
        if (!p) {
            failed = true;
            return nullptr;
        }
        blocks[used++] = p;
        return static_cast<T *>(p);
    }
    ~Workspace() {
        for (int i = 0; i < used; ++i) unrolled::give_memory_back(blocks[i]);
    }
};

// Prepares `work` for `threads` threads and runs it on them, or on this one where a team is not to be had.
template <class Work>
int run_on_team(Work &work, int threads) {
    struct Call {
        Work *work;
        Barrier barrier;
    } call{&work, {}};
    Workspace memory;
    if (!work.prepare(memory, threads)) return -1;
    auto body = [](void *data, int count, int me) {
        Call *c = static_cast<Call *>(data);
        c->work->run(Team{count, me, &c->barrier});
    };
    if (threads == 1 || !unrolled::run_parallel(threads, body, &call)) body(&call, 1, 0);
    return 0;
}

}  // namespace UNROLLED_ISA
