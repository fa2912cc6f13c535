// To see whether weights are still what was packed: whoever writes to them, through `.data` or NumPy too, is seen.
#pragma once
#include <stdint.h>
#include <string.h>

#include "simd.hpp"

namespace UNROLLED_ISA {

// What a stretch of memory holds, in 256 bytes: 32 sums of 64 bits, each over every 32nd word, in an order that matters. A
// change of one word in a sum never goes unseen, of several with a chance of one in 2^64. The round is XXH64's with one
// multiplication instead of two; it reads as fast as the weights arrive from L3.
struct Fingerprint {
    typedef uint64_t Words __attribute__((vector_size(64)));
    static constexpr index kBytes = 256;
    Words sums[4];
    Fingerprint() { memset(sums, 0x55, sizeof sums); }
    UNROLLED_INLINE void add_whole(const char *p) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            Words v;
            memcpy(&v, p + 64 * i, 64);
            v ^= sums[i];
            sums[i] = ((v << 31) | (v >> 33)) * uint64_t(0x9e3779b185ebca87u);
        }
    }
    void add(const void *from, index bytes) {
        const char *p = static_cast<const char *>(from);
        for (; bytes >= kBytes; bytes -= kBytes, p += kBytes) add_whole(p);
        if (bytes <= 0) return;
        char last[kBytes] = {};
        memcpy(last, p, size_t(bytes));
        add_whole(last);
    }
};

}  // namespace UNROLLED_ISA
