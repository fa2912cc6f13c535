// Which instruction set runs, and on whose threads. The choice is made when the library is loaded: the best the machine
// has, or what UNROLLED_ISA names.
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels.hpp"
#include "lock.hpp"

// Of each compilation of isa.cpp.
namespace portable {
extern const unrolled::InstructionSet kernels;
}
namespace avx2 {
extern const unrolled::InstructionSet kernels;
}
namespace avx512 {
extern const unrolled::InstructionSet kernels;
}
namespace avx512_bf16 {
extern const unrolled::InstructionSet kernels;
}
namespace avx512_vnni {
extern const unrolled::InstructionSet kernels;
}

namespace {

unrolled_parallel_fn openmp_parallel = nullptr;
int (*openmp_thread_num)(void) = nullptr;
int (*openmp_num_threads)(void) = nullptr;

bool machine_has([[maybe_unused]] const char *isa) {
    if (!strcmp(isa, "portable")) return true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (strncmp(isa, "avx512", 6) || !__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return false;
    if (!strcmp(isa, "avx512_bf16")) return __builtin_cpu_supports("avx512bf16");
    if (!strcmp(isa, "avx512_vnni")) return __builtin_cpu_supports("avx512vnni");
    return !strcmp(isa, "avx512");
#else
    return false;
#endif
}

// The whole sets that can be chosen, best first; then those that only add to avx512.
const unrolled::InstructionSet *const compiled[] = {
#if defined(UNROLLED_HAS_avx512)
    &avx512::kernels,
#endif
#if defined(UNROLLED_HAS_avx2)
    &avx2::kernels,
#endif
#if defined(UNROLLED_HAS_portable)
    &portable::kernels,
#endif
#if defined(UNROLLED_HAS_avx512_bf16)
    &avx512_bf16::kernels,
#endif
#if defined(UNROLLED_HAS_avx512_vnni)
    &avx512_vnni::kernels,
#endif
};

const unrolled::InstructionSet *whole_set(const char *name) {
    const unrolled::InstructionSet *set = name ? unrolled::isa_named(name) : nullptr;
    return set && set->sequences[UNROLLED_F32].forward ? set : nullptr;
}

const unrolled::InstructionSet *choose() {
    if (const unrolled::InstructionSet *wanted = whole_set(getenv("UNROLLED_ISA"))) return wanted;
    for (const unrolled::InstructionSet *set : compiled)
        if (machine_has(set->name)) return set;
    return compiled[0];
}

const unrolled::InstructionSet *chosen = choose();

// Double is portable's. bf16 is avx512_bf16's, beside avx512: but Intel's vdpbf16ps does half the work of its fp32 products
// (Emerald Rapids: 96 and 218 GFLOP/s a core), AMD's twice (Zen 4: 218 and 108). Without these kernels the caller widens bf16.
const unrolled::InstructionSet *const doubles = unrolled::isa_named("portable"), *const pairs = unrolled::isa_named("avx512_bf16");

const unrolled::InstructionSet *set_for(int dtype) {
    if (dtype == UNROLLED_F32) return &unrolled::chosen_isa();
    if (dtype == UNROLLED_F64) return doubles;
#if defined(__x86_64__)
    if (dtype == UNROLLED_BF16 && !strcmp(unrolled::chosen_isa().name, "avx512") && __builtin_cpu_is("amd")) return pairs;
#endif
    return nullptr;
}

const unrolled::SequenceKernels *kernels_for(int dtype) {
    const unrolled::InstructionSet *set = set_for(dtype);
    return set && set->sequences[dtype].forward ? &set->sequences[dtype] : nullptr;
}

const unrolled::StepKernels *steps_for(int dtype) {
    const unrolled::InstructionSet *set = set_for(dtype);
    return set && set->steps[dtype].forward ? &set->steps[dtype] : nullptr;
}

struct Region {
    void (*body)(void *, int, int);
    void *data;
    int threads;
    bool ran;
};

}  // namespace

namespace unrolled {

const InstructionSet &chosen_isa() { return *__atomic_load_n(&chosen, __ATOMIC_RELAXED); }

const InstructionSet *isa_named(const char *name) {
    for (const InstructionSet *set : compiled)
        if (!strcmp(set->name, name)) return machine_has(name) ? set : nullptr;
    return nullptr;
}

bool run_parallel(int threads, void (*body)(void *, int, int), void *data) {
    // An OpenMP runtime's threads are not there in a forked child, and GCC's would wait for them for ever.
    if (!openmp_parallel || forks) return false;
    Region region{body, data, threads, true};
    openmp_parallel(
        [](void *p) {
            Region *r = static_cast<Region *>(p);
            if (openmp_num_threads() == r->threads)
                r->body(r->data, r->threads, openmp_thread_num());
            else if (openmp_thread_num() == 0)
                r->ran = false;
        },
        &region, unsigned(threads), 0);
    return region.ran;
}

}  // namespace unrolled

extern "C" {

int unrolled_forward(const unrolled_args *args) {
    const unrolled::SequenceKernels *k = kernels_for(args->dtype);
    if (!k) return -2;
    return args->B ? k->forward(*args) : 0;  // without sequences every result is empty, however many steps there are
}

int unrolled_backward(const unrolled_args *args) {
    const unrolled::SequenceKernels *k = kernels_for(args->dtype);
    return k ? k->backward(*args) : -2;
}

int64_t unrolled_gates_size(int32_t mode, int32_t dtype, int64_t T, int64_t B, int64_t H) {
    const unrolled::SequenceKernels *k = kernels_for(dtype);
    return k ? k->gates_size(mode, T, B, H) : 0;
}

int unrolled_regularised_forward(const unrolled_regularised_args *args) {
    const unrolled::StepKernels *k = steps_for(args->dtype);
    return k ? k->forward(*args) : -2;
}

int unrolled_regularised_backward(const unrolled_regularised_args *args) {
    const unrolled::StepKernels *k = steps_for(args->dtype);
    return k ? k->backward(*args) : -2;
}

int unrolled_linear(const unrolled_linear_args *args) {
    const unrolled::StepKernels *k = steps_for(args->dtype);
    return k ? k->linear(*args) : -2;
}

int unrolled_step(const unrolled_step_args *args) { return unrolled::chosen_isa().step(*args); }

int unrolled_cell_forward(const unrolled_cell_args *args) { return unrolled::chosen_isa().cells.forward(*args); }

int unrolled_cell_backward(const unrolled_cell_args *args) { return unrolled::chosen_isa().cells.backward(*args); }

const char *unrolled_isa(void) { return unrolled::chosen_isa().name; }

int unrolled_has_amx_bf16(void) {
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1);
#else
    return 0;
#endif
}

int unrolled_isa_available(const char *name) { return whole_set(name) != nullptr; }

int unrolled_use_isa(const char *name) {
    const unrolled::InstructionSet *set = whole_set(name);
    if (!set) return -1;
    __atomic_store_n(&chosen, set, __ATOMIC_RELAXED);
    return 0;
}

int unrolled_has_dtype(int32_t dtype) { return kernels_for(dtype) != nullptr; }

void unrolled_use_openmp(unrolled_parallel_fn parallel, int (*thread_num)(void), int (*num_threads)(void)) {
    openmp_parallel = thread_num && num_threads ? parallel : nullptr;
    openmp_thread_num = thread_num;
    openmp_num_threads = num_threads;
}

double unrolled_fma_peak(int32_t dtype, int32_t threads, double seconds) {
    const unrolled::SequenceKernels *k = kernels_for(dtype);
    if (!k) return 0;
    struct Peak {
        const unrolled::SequenceKernels *kernels;
        double seconds, each[256];
    } p{k, seconds, {}};
    threads = threads < 1 ? 1 : threads > 256 ? 256 : threads;
    auto body = [](void *data, int, int me) {
        Peak *peak = static_cast<Peak *>(data);
        peak->each[me] = peak->kernels->peak(peak->seconds);
    };
    if (threads == 1 || !unrolled::run_parallel(threads, body, &p)) body(&p, 1, 0);
    double sum = 0;
    for (double each : p.each) sum += each;
    return sum;
}

}  // extern "C"
