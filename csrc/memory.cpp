// Workspace that outlives a call. A few blocks, first fit by size, behind a spin lock held for nanoseconds.
#include <stdint.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.hpp"

namespace {

constexpr size_t kHeader = 64, kKept = size_t(128) << 20;
constexpr int kBlocks = 128;

struct Block {
    void *memory;
    size_t bytes;
} kept[kBlocks];
size_t kept_bytes = 0;
char locked = 0;

struct Lock {
    Lock() {
        while (__atomic_test_and_set(&locked, __ATOMIC_ACQUIRE)) {
        }
    }
    ~Lock() { __atomic_clear(&locked, __ATOMIC_RELEASE); }
};

size_t &size_of(void *memory) { return *reinterpret_cast<size_t *>(static_cast<char *>(memory) - kHeader); }

}  // namespace

namespace unrolled {

void expect_all_of(void *memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = uintptr_t(2) << 20;
    const uintptr_t begin = (uintptr_t(memory) + page - 1) / page * page, end = (uintptr_t(memory) + bytes) / page * page;
    if (memory && end > begin) madvise((void *)begin, end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

void *take_memory(size_t bytes) {
#if !defined(UNROLLED_CHECK_MEMORY)  // the sanitizers are to see every end of every block
    {
        Lock lock;
        int best = -1;
        for (int i = 0; i < kBlocks; ++i)
            if (kept[i].memory && kept[i].bytes >= bytes && kept[i].bytes <= 2 * bytes + 4096 &&
                (best < 0 || kept[i].bytes < kept[best].bytes))
                best = i;
        if (best >= 0) {
            void *memory = kept[best].memory;
            kept_bytes -= kept[best].bytes;
            kept[best] = {};
            return memory;
        }
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
    {
        Lock lock;
        if (kept_bytes + bytes <= kKept)
            for (Block &block : kept)
                if (!block.memory) {
                    block = {memory, bytes};
                    kept_bytes += bytes;
                    return;
                }
    }
#endif
    (void)bytes;
    free(static_cast<char *>(memory) - kHeader);
}

}  // namespace unrolled
