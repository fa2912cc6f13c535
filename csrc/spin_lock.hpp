// A lock around a few assignments.
#pragma once

namespace unrolled {

class SpinLock {
    char &taken;

   public:
    explicit SpinLock(char &flag) : taken(flag) {
        while (__atomic_test_and_set(&taken, __ATOMIC_ACQUIRE)) {
        }
    }
    ~SpinLock() { __atomic_clear(&taken, __ATOMIC_RELEASE); }
    SpinLock(const SpinLock &) = delete;
};

}  // namespace unrolled
