// Memory that outlives a call. A few blocks, best fit by size, behind a lock held for nanoseconds.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.hpp"
#include "lock.hpp"

namespace {

constexpr size_t kHeader = 64, kKept = size_t(512) << 20, kLarge = size_t(1) << 20;
constexpr int kBlocks = 128;

struct Block {
    void *memory;
    size_t bytes;
    uint64_t since;
} kept[kBlocks];
size_t kept_bytes = 0;
uint64_t clock_of_returns = 0;

size_t &size_of(void *memory) { return *reinterpret_cast<size_t *>(static_cast<char *>(memory) - kHeader); }

void free_block(void *memory) { free(static_cast<char *>(memory) - kHeader); }

void *take_out(int index) {
    void *memory = kept[index].memory;
    kept_bytes -= kept[index].bytes;
    kept[index] = {};
    return memory;
}

// Of the whole large pages in it.
void advise(void *memory, size_t bytes, [[maybe_unused]] int advice) {
#if defined(__linux__)
    const uintptr_t page = uintptr_t(2) << 20;
    const uintptr_t begin = (uintptr_t(memory) + page - 1) / page * page, end = (uintptr_t(memory) + bytes) / page * page;
    if (memory && end > begin) madvise((void *)begin, end - begin, advice);
#else
    (void)memory, (void)bytes;
#endif
}

// Large blocks are the system's again as soon as it runs short, before anything is swapped; until then, nothing happens to
// their pages.
void offer_to_system(void *memory, size_t bytes) {
#if defined(MADV_FREE)
    if (bytes >= kLarge) advise(memory, bytes, MADV_FREE);
#else
    (void)memory, (void)bytes;
#endif
}

}  // namespace

namespace unrolled {

int forks = 0;
char tables_lock = 0;

namespace {

void before_fork() {
    while (__atomic_test_and_set(&tables_lock, __ATOMIC_ACQUIRE)) sched_yield();
}
void after_fork() { __atomic_clear(&tables_lock, __ATOMIC_RELEASE); }
void after_fork_in_child() {
    ++forks;
    after_fork();
}
[[maybe_unused]] const int registered = pthread_atfork(before_fork, after_fork, after_fork_in_child);

}  // namespace

void expect_all_of(void *memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    advise(memory, bytes, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

void *take_memory(size_t bytes) {
#if !defined(UNROLLED_CHECK_MEMORY)  // the sanitizers are to see every end of every block
    {
        SpinLock lock(tables_lock);
        int best = -1;
        for (int i = 0; i < kBlocks; ++i)
            if (kept[i].memory && kept[i].bytes >= bytes && kept[i].bytes <= 2 * bytes + 4096 &&
                (best < 0 || kept[i].bytes < kept[best].bytes))
                best = i;
        if (best >= 0) return take_out(best);
    }
#endif
    void *start = nullptr;
    if (bytes > size_t(-1) / 2 || posix_memalign(&start, 64, bytes + kHeader) != 0) return nullptr;
    void *memory = static_cast<char *>(start) + kHeader;
    expect_all_of(memory, bytes);  // packed weights are read at every step
    size_of(memory) = bytes;
    return memory;
}

void give_memory_back(void *memory) {
    const size_t bytes = size_of(memory);
#if !defined(UNROLLED_CHECK_MEMORY)
    void *old[kBlocks];
    int thrown = 0;
    if (bytes <= kKept) {
        offer_to_system(memory, bytes);
        SpinLock lock(tables_lock);
        for (;;) {
            int place = -1, oldest = -1;
            for (int i = 0; i < kBlocks; ++i)
                if (!kept[i].memory)
                    place = i;
                else if (oldest < 0 || kept[i].since < kept[oldest].since)
                    oldest = i;
            if (place >= 0 && kept_bytes + bytes <= kKept) {
                kept[place] = {memory, bytes, ++clock_of_returns};
                kept_bytes += bytes;
                memory = nullptr;
                break;
            }
            old[thrown++] = take_out(oldest);  // nobody has wanted it for longest
        }
    }
    while (thrown > 0) free_block(old[--thrown]);
#endif
    (void)bytes;
    if (memory) free_block(memory);
}

}  // namespace unrolled

extern "C" {

void *unrolled_take_memory(int64_t bytes) { return bytes < 0 ? nullptr : unrolled::take_memory(size_t(bytes)); }

void unrolled_give_memory_back(void *memory) { unrolled::give_memory_back(memory); }

}  // extern "C"
