// Which instruction set runs, and on whose threads. The choice is made when the library is loaded: the best the machine
// has, or what UNROLLED_ISA names.
#include <stdlib.h>
#include <string.h>
#if defined(UNROLLED_X86)
#include <cpuid.h>
#endif

#include "kernels.hpp"
#include "lock.hpp"

namespace {

unrolled_parallel_fn openmp_parallel = nullptr;
int (*openmp_thread_num)(void) = nullptr;
int (*openmp_num_threads)(void) = nullptr;

bool machine_has(const char *isa) {
    if (!strcmp(isa, "portable")) return true;
#if defined(UNROLLED_X86)
    __builtin_cpu_init();
    if (!strcmp(isa, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(isa, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!strcmp(isa, "avx512_bf16")) return machine_has("avx512") && __builtin_cpu_supports("avx512bf16");
#endif
    return false;
}

const unrolled::Kernels *f32_kernels(const char *isa) {
    if (!machine_has(isa)) return nullptr;
    if (!strcmp(isa, "portable")) return unrolled::portable_f32();
#if defined(UNROLLED_X86)
    if (!strcmp(isa, "avx2")) return unrolled::avx2_f32();
    if (!strcmp(isa, "avx512")) return unrolled::avx512_f32();
#endif
    return nullptr;
}

const unrolled::Kernels *choose() {
    const char *wanted = getenv("UNROLLED_ISA");
    if (wanted && f32_kernels(wanted)) return f32_kernels(wanted);
    const char *const best_first[] = {"avx512", "avx2"};
    for (const char *isa : best_first)
        if (f32_kernels(isa)) return f32_kernels(isa);
    return unrolled::portable_f32();
}

const unrolled::Kernels *chosen = choose();

const unrolled::Kernels *kernels_for(int dtype) {
    if (dtype == UNROLLED_F32) return chosen;
    if (dtype == UNROLLED_F64) return unrolled::portable_f64();
#if defined(UNROLLED_X86)
    // Intel's vdpbf16ps does half the work of its fp32 products (Emerald Rapids: 96 and 218 GFLOP/s a core), AMD's twice
    // (Zen 4: 218 and 108). Without these kernels the caller widens bf16 to fp32.
    if (dtype == UNROLLED_BF16 && !strcmp(chosen->name, "avx512") && machine_has("avx512_bf16") && __builtin_cpu_is("amd"))
        return unrolled::avx512_bf16();
#endif
    return nullptr;
}

struct Region {
    void (*body)(void *, int, int);
    void *data;
    int threads;
    bool ran;
};

}  // namespace

namespace unrolled {

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
    const unrolled::Kernels *k = kernels_for(args->dtype);
    return k ? k->forward(*args) : -2;
}

int unrolled_backward(const unrolled_args *args) {
    const unrolled::Kernels *k = kernels_for(args->dtype);
    return k ? k->backward(*args) : -2;
}

int64_t unrolled_gates_size(int32_t mode, int32_t dtype, int64_t T, int64_t B, int64_t H) {
    const unrolled::Kernels *k = kernels_for(dtype);
    return k ? k->gates_size(mode, T, B, H) : 0;
}

const char *unrolled_isa(void) { return chosen->name; }

int unrolled_has_amx_bf16(void) {
#if defined(UNROLLED_X86)
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx >> 22 & 1);
#else
    return 0;
#endif
}

int unrolled_isa_available(const char *name) { return f32_kernels(name) != nullptr; }

int unrolled_use_isa(const char *name) {
    const unrolled::Kernels *k = f32_kernels(name);
    if (!k) return -1;
    chosen = k;
    return 0;
}

int unrolled_has_dtype(int32_t dtype) { return kernels_for(dtype) != nullptr; }

void unrolled_use_openmp(unrolled_parallel_fn parallel, int (*thread_num)(void), int (*num_threads)(void)) {
    openmp_parallel = thread_num && num_threads ? parallel : nullptr;
    openmp_thread_num = thread_num;
    openmp_num_threads = num_threads;
}

double unrolled_fma_peak(int32_t dtype, int32_t threads, double seconds) {
    const unrolled::Kernels *k = kernels_for(dtype);
    if (!k) return 0;
    struct Peak {
        const unrolled::Kernels *kernels;
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
