// Which instruction set runs regularised sequences: the one in use for all.
#include <string.h>

#include "unrolled_regularised.h"

namespace unrolled {
int regularised_portable(const unrolled_regularised_args &, bool back);
int regularised_float64(const unrolled_regularised_args &, bool back);
int regularised_avx2(const unrolled_regularised_args &, bool back);
int regularised_avx512(const unrolled_regularised_args &, bool back);
int linear_portable(const unrolled_linear_args &);
int linear_float64(const unrolled_linear_args &);
int linear_avx2(const unrolled_linear_args &);
int linear_avx512(const unrolled_linear_args &);
}  // namespace unrolled

namespace {

int run(const unrolled_regularised_args &args, bool back) {
    if (args.dtype == UNROLLED_F64) return unrolled::regularised_float64(args, back);
    if (args.dtype != UNROLLED_F32) return -2;
#if defined(UNROLLED_X86)
    if (!strcmp(unrolled_isa(), "avx512")) return unrolled::regularised_avx512(args, back);
    if (!strcmp(unrolled_isa(), "avx2")) return unrolled::regularised_avx2(args, back);
#endif
    return unrolled::regularised_portable(args, back);
}

}  // namespace

extern "C" {
int unrolled_linear(const unrolled_linear_args *args) {
    if (args->dtype == UNROLLED_F64) return unrolled::linear_float64(*args);
    if (args->dtype != UNROLLED_F32) return -2;
#if defined(UNROLLED_X86)
    if (!strcmp(unrolled_isa(), "avx512")) return unrolled::linear_avx512(*args);
    if (!strcmp(unrolled_isa(), "avx2")) return unrolled::linear_avx2(*args);
#endif
    return unrolled::linear_portable(*args);
}
int unrolled_regularised_forward(const unrolled_regularised_args *args) { return run(*args, false); }
int unrolled_regularised_backward(const unrolled_regularised_args *args) { return run(*args, true); }
}
