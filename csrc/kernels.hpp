// The table of entry points that each instruction set's translation unit exports to dispatch.cpp.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "unrolled_kernels.h"

namespace unrolled {

// Runs body(data, threads, me) on exactly `threads` threads and returns true, or runs nothing and returns false.
bool run_parallel(int threads, void (*body)(void *, int threads, int me), void *data);

// Memory aligned to a cache line, or null. What is given back is kept for the next call, up to 128 MB: fresh pages from
// the system cost time at every call.
void *take_memory(size_t bytes);
void give_memory_back(void *memory);

// This result will be written from end to end: ask for large pages. A fresh 64 MB buffer is 16,000 page faults without.
void expect_all_of(void *memory, size_t bytes);

struct Kernels {
    const char *name;
    int (*forward)(const unrolled_args &);
    int (*backward)(const unrolled_args &);
    int64_t (*gates_size)(int mode, int64_t T, int64_t B, int64_t H);
    double (*peak)(double seconds);
};

// One per storage type; null where the build has none.
const Kernels *portable_f32();
const Kernels *portable_f64();
const Kernels *avx2_f32();
const Kernels *avx512_f32();
const Kernels *avx512_bf16();

}  // namespace unrolled
