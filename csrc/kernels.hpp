// What is shared by all instruction sets, and the table of entry points that each one (isa.cpp) exports.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "streaming_model.hpp"
#include "unrolled_cell.h"
#include "unrolled_kernels.h"
#include "unrolled_regularised.h"
#include "unrolled_step.h"

namespace unrolled {

// Runs body(data, threads, me) on exactly `threads` threads and returns true, or runs nothing and returns false.
bool run_parallel(int threads, void (*body)(void *, int threads, int me), void *data);

// Memory aligned to a cache line, or null. What is given back is kept for the next call, up to 512 MB: fresh pages from
// the system cost time at every call.
void *take_memory(size_t bytes);
void give_memory_back(void *memory);

// This result will be written from end to end: ask for large pages. A fresh 64 MB buffer is 16,000 page faults without. LSTM
// inference at B = 64, T = 128, I = H = 512 1.07 times faster, at B = 1, T = 20, I = H = 1024 1.12 times.
void expect_all_of(void *memory, size_t bytes);

// Where packed weights come from: (G*H, K) at this address, packed as `layout`, one address for each way, has it.
struct PackedFrom {
    const void *weights, *layout;
    ptrdiff_t H, K;
};

// Packed weights, kept for the next call on the same ones without gradients, and fingerprints to see whether they still are
// the same: nothing else notices a write through a raw pointer. Fingerprints of zeros stand for nothing packed yet.
struct KeptWeights {
    void *packed, *fingerprints;
};
// For this call alone until given back; null where no room can be made. Up to 128 MB are kept.
KeptWeights *take_kept_weights(const PackedFrom &from, size_t packed_bytes, size_t fingerprint_bytes);
void give_kept_weights_back(KeptWeights *kept);

// Whole sequences of one storage type.
struct SequenceKernels {
    int (*forward)(const unrolled_args &);
    int (*backward)(const unrolled_args &);
    int64_t (*gates_size)(int mode, int64_t T, int64_t B, int64_t H);
    double (*peak)(double seconds);
};

// Regularised sequences, and the linear map of their input, of one type.
struct StepKernels {
    int (*forward)(const unrolled_regularised_args &);
    int (*backward)(const unrolled_regularised_args &);
    int (*linear)(const unrolled_linear_args &);
};

// One step of a cell and its gradients, in float.
struct CellKernels {
    int (*forward)(const unrolled_cell_args &);
    int (*backward)(const unrolled_cell_args &);
};

// Entries of null functions where there are no kernels.
struct InstructionSet {
    const char *name;
    SequenceKernels sequences[3];  // by dtype
    StepKernels steps[3];          // by dtype
    StreamKernels streams[3];      // by precision
    int (*step)(const unrolled_step_args &);
    CellKernels cells;
};

// The one in use, and one by its name: null where the build has none or the machine cannot run it.
const InstructionSet &chosen_isa();
const InstructionSet *isa_named(const char *name);

}  // namespace unrolled
