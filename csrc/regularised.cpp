// Which instruction set runs regularised sequences: the one in use for all.
#include <string.h>

#include "unrolled_regularised.h"

namespace unrolled {
int regularised_portable(const unrolled_regularised_args &, bool back);
int regularised_float64(const unrolled_regularised_args &, bool back);
int regularised_avx2(const unrolled_regularised_args &, bool back);
int regularised_avx512(const unrolled_regularised_args &, bool back);
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
int unrolled_regularised_forward(const unrolled_regularised_args *args) { return run(*args, false); }
int unrolled_regularised_backward(const unrolled_regularised_args *args) { return run(*args, true); }
}
