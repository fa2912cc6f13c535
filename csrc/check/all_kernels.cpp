// Calls every kernel over odd sizes with every option, on buffers of exactly the right size, for the sanitizers to watch.
// Threads are plain std::threads here. Built and run by tests/kernels/test_library.py. Named instruction sets alone are
// called when there are arguments. The sum that is printed is of all results in double precision: two machines agree on it.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unrolled_kernels.h"
#include "threads.hpp"

// One array of exactly n elements of a storage type, on the heap, where AddressSanitizer guards both ends. Large ones begin
// at a cache line: the kernels write past the caches there.
struct Array {
    void *p;
    Array(int dtype, int64_t n, bool random = true) {
        const size_t bytes = size_t(n) * size_of(dtype);
        if (posix_memalign(&p, bytes >= (1 << 20) ? 64 : 8, bytes + (n == 0)) != 0) abort();
        for (int64_t i = 0; i < n; ++i) {
            const double v = random ? uniform() : 0;
            const float f = float(v);
            if (dtype == UNROLLED_F64) ((double *)p)[i] = v;
            if (dtype == UNROLLED_F32) ((float *)p)[i] = f;
            if (dtype == UNROLLED_BF16) ((uint16_t *)p)[i] = uint16_t(((const uint16_t *)&f)[1]);
        }
    }
    Array(const Array &) = delete;
    ~Array() { free(p); }
    static size_t size_of(int dtype) { return dtype == UNROLLED_F64 ? 8 : dtype == UNROLLED_F32 ? 4 : 2; }
};

static int calls = 0;
static double sum = 0;

static void add(const Array &array, int64_t n) {
    for (int64_t i = 0; i < n; ++i) sum += fabs(((const double *)array.p)[i]);
}

static void one(int mode, int dtype, int64_t T, int64_t B, int64_t I, int64_t H, int options, int threads) {
    const int real = dtype == UNROLLED_F64 ? UNROLLED_F64 : UNROLLED_F32;
    const int64_t G = mode == UNROLLED_LSTM ? 4 : mode == UNROLLED_GRU ? 3 : 1, V = 5;
    const bool lstm = mode == UNROLLED_LSTM, masks = options & 1, reverse = options & 2, ids = options & 4, bare = options & 8;
    std::vector<int64_t> lengths(B), tokens(T * B);
    std::vector<uint8_t> resets(T * B);
    for (auto &l : lengths) l = int64_t((uniform() + 0.5) * double(T + 1));
    for (auto &t : tokens) t = int64_t((uniform() + 0.5) * double(V));
    for (auto &r : resets) r = uniform() > 0.2;
    Array x(dtype, T * B * I), table(real, V * G * H), w_ih(dtype, G * H * I), w_hh(dtype, G * H * H), b_ih(dtype, G * H),
        b_hh(dtype, G * H), h0(dtype, B * H), c0(real, B * H), out(dtype, T * B * H), cs(real, T * B * H), h_n(dtype, B * H),
        c_n(real, B * H), gates(dtype, unrolled_gates_size(mode, dtype, T, B, H)), d_out(dtype, T * B * H),
        d_cs(real, T * B * H), d_h_n(dtype, B * H), d_c_n(real, B * H), dx(dtype, T * B * I), d_table(real, V * G * H),
        dw_ih(dtype, G * H * I), dw_hh(dtype, G * H * H), db_ih(dtype, G * H), db_hh(dtype, G * H), dh0(dtype, B * H),
        dc0(real, B * H), norms(UNROLLED_F32, 2 * T * B);
    unrolled_args a = {};
    a.mode = mode, a.dtype = dtype, a.reverse = reverse, a.threads = threads;
    a.T = T, a.B = B, a.I = ids ? 0 : I, a.H = H, a.V = ids ? V : 0;
    if (ids) {
        a.ids = tokens.data(), a.table = table.p;
    } else {
        a.x = x.p, a.w_ih = w_ih.p, a.b_ih = bare ? nullptr : b_ih.p;
    }
    a.w_hh = w_hh.p;
    if (!bare) a.b_hh = b_hh.p, a.h0 = h0.p, a.c0 = lstm ? c0.p : nullptr, a.h_n = h_n.p, a.c_n = lstm ? c_n.p : nullptr;
    if (masks) a.lengths = lengths.data(), a.resets = resets.data();
    a.out = out.p;
    int code = unrolled_forward(&a);  // inference
    if (lstm) a.cs = cs.p;
    a.gates = gates.p;
    code |= unrolled_forward(&a);
    a.d_out = d_out.p;
    if (!bare) a.d_h_n = d_h_n.p, a.d_cs = lstm ? d_cs.p : nullptr, a.d_c_n = lstm ? d_c_n.p : nullptr;
    if (ids)
        a.d_table = d_table.p;
    else
        a.dx = dx.p, a.dw_ih = dw_ih.p, a.db_ih = db_ih.p;
    a.dw_hh = dw_hh.p, a.db_hh = db_hh.p, a.dh0 = dh0.p, a.dc0 = lstm ? dc0.p : nullptr, a.grad_norms = (float *)norms.p;
    code |= unrolled_backward(&a);
    if (code) {
        printf("error %d\n", code);
        exit(1);
    }
    if (dtype == UNROLLED_F64) {
        add(out, T * B * H), add(dw_hh, G * H * H), add(db_hh, G * H), add(dh0, B * H);
        if (!ids) add(dx, T * B * I), add(dw_ih, G * H * I);
    }
    ++calls;
}

int main(int count, char **names) {
    unrolled_use_openmp(parallel, thread_number, thread_count);
    const int64_t sizes[][4] = {{1, 1, 1, 1}, {5, 3, 7, 7}, {2, 13, 15, 16}, {4, 7, 33, 17}, {3, 9, 64, 65}, {2, 2, 5, 150},
                                {0, 3, 4, 5}, {3, 0, 4, 5}, {3, 2, 0, 5}, {3, 2, 4, 0}, {25, 20, 33, 63}};
    for (const char *isa : {"avx512", "avx2", "portable"}) {
        bool wanted = count == 1;
        for (int i = 1; i < count; ++i) wanted |= strcmp(names[i], isa) == 0;
        if (!wanted || unrolled_use_isa(isa) != 0) continue;
        for (int dtype : {UNROLLED_F32, UNROLLED_BF16, UNROLLED_F64}) {
            if (!unrolled_has_dtype(dtype)) continue;
            for (int mode = 0; mode < 4; ++mode)
                for (auto &s : sizes)
                    for (int options = 0; options < 16; ++options)
                        one(mode, dtype, s[0], s[1], s[2], s[3], options, 1 + options % 3);
            if (dtype != UNROLLED_F64) one(UNROLLED_LSTM, dtype, 220, 160, 2, 15, 1, 2);  // megabytes of gates
        }
    }
    printf("%d calls, sum %.9e\n", calls, sum);
}
