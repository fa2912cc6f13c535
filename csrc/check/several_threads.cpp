// Three threads at once, on the same layers and the same stream: inference, training and streaming, for ThreadSanitizer to
// watch. Built and run by tests/kernels/test_library.py, as all_kernels.cpp.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "../unrolled_streaming.h"
#include "threads.hpp"

static const int64_t T = 6, B = 2, I = 5, H = 9, kLayers = 70;  // more than weights are kept of
static std::vector<float> weights, w_ih, w_hh;                  // written before the threads start

static void expect(bool good, const char *what) {
    if (good) return;
    printf("failed: %s\n", what);
    exit(1);
}

static std::vector<float> numbers(int64_t n) { return std::vector<float>(static_cast<size_t>(n), 0.1f); }

// Of 70 layers in turn. Several sizes of buffers: their memory goes from call to call.
static void infer_and_train(int round, int threads) {
    for (int64_t layer = 0; layer < kLayers; ++layer) {
        const int64_t b = B + (layer + round) % 3 * 8;
        auto x = numbers(T * b * I), out = numbers(T * b * H), cs = out, gates = std::vector<float>();
        auto dx = x, dw_hh = numbers(4 * H * H);
        unrolled_args a = {};
        a.mode = UNROLLED_LSTM, a.dtype = UNROLLED_F32, a.threads = threads;
        a.T = T, a.B = b, a.I = I, a.H = H;
        a.x = x.data(), a.w_ih = weights.data() + layer * 4 * H * (I + H), a.out = out.data();
        a.w_hh = weights.data() + layer * 4 * H * (I + H) + 4 * H * I;
        expect(unrolled_forward(&a) == 0, "inference");
        gates = numbers(unrolled_gates_size(a.mode, a.dtype, T, b, H));
        a.cs = cs.data(), a.gates = gates.data();
        expect(unrolled_forward(&a) == 0, "training, forward");
        a.d_out = out.data(), a.dx = dx.data(), a.dw_hh = dw_hh.data();
        expect(unrolled_backward(&a) == 0, "training, backward");
    }
}

int main() {
    unrolled_use_openmp(parallel, thread_number, thread_count);
    weights = numbers(kLayers * 4 * H * (I + H)), w_ih = numbers(4 * H * H), w_hh = numbers(4 * H * H);
    const float *pointers[] = {w_ih.data(), w_hh.data(), nullptr, nullptr};
    const auto decoder = numbers(H * H);
    unrolled_stream_spec spec = {};
    spec.mode = UNROLLED_LSTM, spec.L = 1, spec.I = H, spec.H = H, spec.weights = pointers;
    spec.V = spec.V_out = H, spec.embedding = spec.decoder = decoder.data();
    int32_t error = 0;
    unrolled_stream *stream = unrolled_stream_create(&spec, &error);
    expect(stream, "create");
    auto bound_h = numbers(H), bound_c = numbers(H);
    expect(unrolled_stream_bind(stream, 1, bound_h.data(), bound_c.data()) == 0, "bind");

    const auto work = [&](int me) {
        for (int round = 0; round < 10; ++round) {
            infer_and_train(round + me, 1 + (round + me) % 2);
            for (int64_t b = 1; b < 9; ++b) {
                const std::vector<int64_t> ids(static_cast<size_t>(b), 3);
                auto h = numbers(b * H), c = h, out = h;
                unrolled_stream_call call = {b, ids.data(), nullptr, nullptr, h.data(), c.data(), out.data()};
                expect(unrolled_stream_run(stream, &call) == 0, "run");
                std::vector<int64_t> text(20);
                const unrolled_stream_choice choice = {0.8, 0, 0, -1, nullptr, 0, 2};
                expect(unrolled_stream_generate(stream, 20, &choice, text.data()) == 20, "generate");
                if (me == 0) expect(unrolled_stream_repack(stream, &spec) == 0, "repack");
            }
        }
    };
    std::vector<std::thread> all;
    for (int me = 0; me < 3; ++me) all.emplace_back(work, me);
    for (auto &one : all) one.join();
    unrolled_stream_destroy(stream);
    printf("done\n");
}
