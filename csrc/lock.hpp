// Locks that a forked child can take. A fork copies all memory and one thread: what the others held stays held, for ever.
#pragma once
#include <sched.h>

namespace unrolled {

// 0, and one more in every child that is forked while the library is loaded.
extern int forks;

// A lock around a few assignments, of which a child must find all or none: see tables_lock.
class SpinLock {
    char &taken;

   public:
    explicit SpinLock(char &flag) : taken(flag) {
        for (int spins = 0; __atomic_test_and_set(&taken, __ATOMIC_ACQUIRE); ++spins)
            if (spins > 100) sched_yield();
    }
    ~SpinLock() { __atomic_clear(&taken, __ATOMIC_RELEASE); }
    SpinLock(const SpinLock &) = delete;
};

// Guards the tables of kept memory and of kept weights. fork() waits for it, so that a child finds both whole and unlocked.
extern char tables_lock;

// A lock held for a whole call, which fork() does not wait for: a child takes it from the parent's thread that held it.
// `holder` is 0 while it is free.
class CallLock {
    int &holder;

   public:
    explicit CallLock(int &word) : holder(word) {
        const int mine = forks + 1;
        int held_by = 0;
        while (!__atomic_compare_exchange_n(&holder, &held_by, mine, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            if (held_by == mine) {
                sched_yield();
                held_by = 0;
            }
    }
    ~CallLock() { __atomic_store_n(&holder, 0, __ATOMIC_RELEASE); }
    CallLock(const CallLock &) = delete;
};

}  // namespace unrolled
