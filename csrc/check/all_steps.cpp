// Calls the streaming engine, single steps, cells and the regularised sequences over odd sizes with every option, on buffers of
// exactly the right size, for the sanitizers to watch. Built and run by tests/kernels/test_library.py, as all_kernels.cpp.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "../unrolled_cell.h"
#include "../unrolled_regularised.h"
#include "../unrolled_step.h"
#include "../unrolled_streaming.h"
#include "threads.hpp"

template <class T>
static std::vector<T> random(int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    values.shrink_to_fit();
    for (auto &value : values) value = T(uniform());
    return values;
}
static std::vector<uint8_t> flags(int64_t n, double below) {
    std::vector<uint8_t> values(static_cast<size_t>(n));
    for (auto &value : values) value = uniform() + 0.5 < below;
    return values;
}

static int calls = 0;
static void expect(bool good, const char *what) {
    ++calls;
    if (!good) {
        printf("failed: %s\n", what);
        exit(1);
    }
}

enum Front { NUMBERS, TABLE, EMBEDDING };

static void stream(const char *isa, int precision, int mode, int64_t L, int64_t I, int64_t H, Front front, bool biases) {
    const int64_t G = mode == UNROLLED_LSTM ? 4 : mode == UNROLLED_GRU ? 3 : 1, V = 7, B = 3;
    std::vector<std::vector<float>> weights;
    std::vector<const float *> pointers;
    for (int64_t l = 0; l < L; ++l) {
        weights.push_back(random<float>(G * H * (l ? H : I)));
        weights.push_back(random<float>(G * H * H));
        for (auto &w : weights.back()) w /= sqrtf(float(H));  // or the rectified cell's state would grow beyond all numbers
        for (int i = 0; i < 2; ++i) weights.push_back(biases ? random<float>(G * H) : std::vector<float>());
    }
    for (auto &w : weights) pointers.push_back(w.empty() ? nullptr : w.data());
    const auto table = random<float>(V * G * H), embedding = random<float>(V * I), decoder = random<float>(V * H);
    const auto bias = random<float>(V);
    unrolled_stream_spec spec = {};
    spec.mode = mode, spec.precision = precision, spec.L = L, spec.I = I, spec.H = H, spec.weights = pointers.data();
    spec.V = front == NUMBERS ? 0 : V;
    spec.table = front == TABLE ? table.data() : nullptr, spec.embedding = front == EMBEDDING ? embedding.data() : nullptr;
    spec.V_out = V, spec.decoder = decoder.data(), spec.decoder_bias = biases ? bias.data() : nullptr;
    spec.isa = isa;
    int32_t error = 0;
    unrolled_stream *s = unrolled_stream_create(&spec, &error);
    expect(s && !error, "create");

    auto x = random<float>(B * I);
    const std::vector<int64_t> ids = {0, V - 1, 3};
    const void *input = front == NUMBERS ? static_cast<const void *>(x.data()) : ids.data();
    std::vector<float> h(static_cast<size_t>(L * B * H)), c(h), out(static_cast<size_t>(B * H)), scores(size_t(B * V));
    unrolled_stream_call call = {B, input, nullptr, nullptr, h.data(), c.data(), out.data()};
    expect(unrolled_stream_run(s, &call) == 0, "run from zeros");
    call.h_in = h.data(), call.c_in = c.data();
    expect(unrolled_stream_run(s, &call) == 0, "run in place");
    call.B = 0;
    expect(unrolled_stream_run(s, &call) == 0, "run of nothing");
    expect(unrolled_stream_bind(s, B, h.data(), c.data()) == 0, "bind");
    expect(unrolled_stream_step(s, B, input, out.data()) == 0, "step");
    expect(unrolled_stream_step(s, B + 1, input, out.data()) == UNROLLED_STREAM_SETTINGS, "step of another batch");
    expect(unrolled_stream_logits(s, B, scores.data()) == 0, "logits");
    if (front != NUMBERS) {
        std::vector<float> one_h(size_t(L * H)), one_c(one_h);
        expect(unrolled_stream_bind(s, 1, one_h.data(), one_c.data()) == 0, "bind one");
        const std::vector<int64_t> forbidden = {1};
        const bool wide = H > 100;  // enough for threads to share the units; how a token is chosen is the same for every width
        for (int64_t threads = wide ? 2 : 1; threads <= 3; ++threads) {
            expect(unrolled_stream_feed(s, ids.data(), 3, int32_t(threads)) == 0, "feed");
            for (int how = 0; how < (wide ? 1 : 4); ++how) {
                unrolled_stream_choice choice = {how ? 0.8 : 0.0, how == 2 ? 0.7 : 0.0, how == 3 ? 3 : 0, how == 1 ? 2 : -1,
                                                 forbidden.data(), how == 3, threads};
                std::vector<int64_t> text(70);  // longer than threads stay together before they look up
                unrolled_stream_seed(s, uint64_t(how));
                expect(unrolled_stream_generate(s, 70, &choice, text.data()) >= 0, "generate");
            }
            expect(unrolled_stream_flush(s) == 0, "flush");
        }
    }
    unrolled_stream_destroy(s);
}

template <class T>
static T *slot(std::vector<T> &values) {
    return values.empty() ? nullptr : values.data();
}

template <class T>
static void regularised(int mode, int64_t T_, int64_t B, int64_t H, int options, int threads) {
    const int64_t G = mode == UNROLLED_LSTM ? 4 : mode == UNROLLED_GRU ? 3 : 1, all = T_ * B * H;
    const bool lstm = mode == UNROLLED_LSTM, norms = options & 1, masks = options & 2, zones = options & 4, cuts = options & 8;
    const bool apart = norms || mode == UNROLLED_GRU;
    auto w_hh = random<T>(G * H * H);
    auto x = random<T>(T_ * B * G * H), p = random<T>(T_ * B * G * H), b_hh = random<T>(masks ? 0 : G * H);
    auto gain_hh = random<T>(norms ? G * H : 0), gain_c = random<T>(norms && lstm ? H : 0), bias_c = gain_c;
    auto mask = random<T>(masks ? B * H : 0), h = random<T>(all), seen = masks ? h : std::vector<T>();
    auto c = random<T>(lstm ? all : 0), out = random<T>(all), cs = c, h_n = random<T>(B * H), c_n = random<T>(lstm ? B * H : 0);
    auto stay_h = flags(zones ? all : 0, 0.3), stay_c = flags(zones && lstm ? all : 0, 0.3);
    auto alive = flags(cuts ? T_ * B : 0, 0.8), cut = flags(cuts ? T_ * B : 0, 0.2);
    for (size_t i = 0; i < cut.size(); ++i) cut[i] = cut[i] && alive[i];
    auto start_h = random<T>(cuts ? B * H : 0), start_c = random<T>(cuts && lstm ? B * H : 0), d_start_h = start_h,
         d_start_c = start_c;
    auto d_out = random<T>(all), d_cs = c, dh = random<T>(B * H), dc = c_n, dx = x, dp = x;
    auto sums = random<T>(threads * (2 * G * H + 2 * H));
    auto squares = random<float>(2 * T_ * B);
    unrolled_regularised_args a = {};
    a.mode = mode, a.dtype = sizeof(T) == 8 ? UNROLLED_F64 : UNROLLED_F32, a.threads = threads, a.kept = 1;
    a.T = T_, a.B = B, a.H = H, a.share_h = zones ? 0 : 0.1, a.share_c = 0;
    a.w_hh = slot(w_hh), a.x = slot(x), a.p = slot(p), a.b_hh = slot(b_hh), a.gain_hh = slot(gain_hh), a.gain_c = slot(gain_c);
    a.bias_c = slot(bias_c), a.mask = slot(mask), a.stay_h = slot(stay_h), a.stay_c = slot(stay_c);
    a.alive = slot(alive), a.cut = slot(cut), a.start_h = slot(start_h), a.start_c = slot(start_c);
    a.h = slot(h), a.c = slot(c), a.seen = masks ? slot(seen) : slot(h);
    a.out = slot(out), a.cs = slot(cs), a.h_n = slot(h_n), a.c_n = slot(c_n);
    a.d_out = slot(d_out), a.d_cs = slot(d_cs), a.dh = slot(dh), a.dc = slot(dc), a.dx = slot(dx);
    a.dp = apart ? slot(dp) : slot(dx), a.d_start_h = slot(d_start_h), a.d_start_c = slot(d_start_c), a.sums = slot(sums);
    a.grad_norms = squares.data();
    a.reverse = (options >> 1) & 1;
    expect(unrolled_regularised_forward(&a) == 0, "regularised forward");
    expect(unrolled_regularised_backward(&a) == 0, "regularised backward");
}

template <class T>
static void linear(int64_t rows, int64_t inputs, int64_t outputs, int threads) {
    auto x = random<T>(rows * inputs), w = random<T>(outputs * inputs), bias = random<T>(outputs), y = random<T>(rows * outputs);
    auto d = y, dx = x, dw = w;
    unrolled_linear_args a = {};
    a.dtype = sizeof(T) == 8 ? UNROLLED_F64 : UNROLLED_F32, a.threads = threads;
    a.rows = rows, a.inputs = inputs, a.outputs = outputs;
    a.x = x.data(), a.w = w.data(), a.bias = bias.data(), a.y = y.data();
    expect(unrolled_linear(&a) == 0, "linear");
    a.back = 1, a.d = d.data(), a.dx = dx.data(), a.dw = dw.data();
    expect(unrolled_linear(&a) == 0, "linear, backward");
}

static void step(int mode, int64_t L, int64_t B, int64_t I, int64_t H, bool biases) {
    const int64_t G = mode == UNROLLED_LSTM ? 4 : mode == UNROLLED_GRU ? 3 : 1;
    std::vector<std::vector<float>> weights;
    for (int64_t l = 0; l < L; ++l)
        for (int64_t n : {G * H * (l ? H : I), G * H * H, biases ? G * H : 0, biases ? G * H : 0}) weights.push_back(random<float>(n));
    auto x = random<float>(B * I), h_in = random<float>(L * B * H), c_in = h_in;
    std::vector<float> h(size_t(L * B * H)), c(mode == UNROLLED_LSTM ? h.size() : 0), out(size_t(B * H));
    std::vector<void *> behind;  // the arguments, then the weights
    behind.resize(sizeof(unrolled_step_args) / sizeof(void *));
    const unrolled_step_args a = {mode, L, B, I, H, slot(x), slot(h_in), slot(c_in), slot(h), slot(c), slot(out)};
    memcpy(behind.data(), &a, sizeof a);
    for (auto &w : weights) behind.push_back(slot(w));
    expect(unrolled_step(reinterpret_cast<const unrolled_step_args *>(behind.data())) == 0, "step");
    expect(std::equal(out.begin(), out.end(), h.end() - B * H), "the last layer's h");
}

static void cell(int mode, int64_t B, int64_t I, int64_t H, bool biases, int threads) {
    const int64_t G = mode == UNROLLED_LSTM ? 4 : mode == UNROLLED_GRU ? 3 : 1, D = mode < 2 ? 4 : 1;
    const bool lstm = mode == UNROLLED_LSTM;
    auto x = random<float>(B * I), h = random<float>(B * H), w_ih = random<float>(G * H * I), w_hh = random<float>(G * H * H);
    auto b_ih = random<float>(G * H), b_hh = b_ih, c = random<float>(lstm ? B * H : 0), d_h = h, d_c = c;
    auto h_out = h, c_out = c, dx = x, dh = h, dc = c, dgates = random<float>(B * D * H);
    auto gates = random<float>(unrolled_gates_size(mode, UNROLLED_F32, 1, B, H));
    unrolled_cell_args a = {};
    a.mode = mode, a.threads = threads, a.B = B, a.I = I, a.H = H;
    a.x = x.data(), a.h = h.data(), a.w_ih = w_ih.data(), a.w_hh = w_hh.data();
    if (biases) a.b_ih = b_ih.data(), a.b_hh = b_hh.data();
    a.h_out = h_out.data();
    if (lstm) a.c = c.data(), a.c_out = c_out.data();
    expect(unrolled_cell_forward(&a) == 0, "a step");
    if (D > 1) a.gates = gates.data();
    expect(unrolled_cell_forward(&a) == 0, "a step, for backward");
    a.c_out = nullptr, a.dgates = dgates.data();
    if (lstm) a.dc = dc.data();
    expect(unrolled_cell_backward(&a) == 0, "a step backwards, of nothing");
    a.d_h = d_h.data(), a.dx = dx.data(), a.dh = dh.data();
    if (lstm) a.d_c = d_c.data();
    expect(unrolled_cell_backward(&a) == 0, "a step backwards");
}

int main() {
    unrolled_use_openmp(parallel, thread_number, thread_count);
    const int64_t sizes[][3] = {{1, 1, 1}, {2, 7, 5}, {2, 15, 16}, {1, 33, 17}, {3, 20, 65}};
    for (const char *isa : {"portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"})
        for (int precision : {UNROLLED_STREAM_FP32, UNROLLED_STREAM_BF16, UNROLLED_STREAM_INT8}) {
            if (!unrolled_stream_available(isa, precision)) continue;
            for (int mode = 0; mode < 4; ++mode) {
                for (auto &s : sizes)
                    for (Front front : {NUMBERS, TABLE, EMBEDDING})
                        for (bool biases : {false, true}) stream(isa, precision, mode, s[0], s[1], s[2], front, biases);
                stream(isa, precision, mode, 2, 9, 525, TABLE, true);
            }
        }
    for (const char *isa : {"portable", "avx2", "avx512"}) {
        if (unrolled_use_isa(isa) != 0) continue;
        for (int mode = 0; mode < 4; ++mode)
            for (int64_t H : {1, 7, 16, 33})
                for (int options = 0; options < 16; ++options)
                    for (int64_t B : {1, 3}) {
                        regularised<float>(mode, 3, B, H, options, 1 + options % 3);
                        regularised<double>(mode, 3, B, H, options, 1 + options % 3);
                    }
    }
    for (const char *isa : {"portable", "avx2", "avx512"}) {
        if (unrolled_use_isa(isa) != 0) continue;
        for (int mode = 0; mode < 4; ++mode)
            for (auto &s : sizes)
                for (int64_t B : {0, 1, 2, 7})
                    for (bool biases : {false, true}) step(mode, s[0], B, s[1], s[2], biases);
    }
    for (const char *isa : {"portable", "avx2", "avx512"}) {
        if (unrolled_use_isa(isa) != 0) continue;
        const int64_t of[][3] = {{1, 1, 1}, {0, 3, 4}, {3, 0, 5}, {2, 3, 0}, {5, 15, 16}, {7, 17, 33}, {300, 33, 65}, {517, 70, 23}};
        for (auto &s : of)
            for (int threads : {1, 3}) linear<float>(s[0], s[1], s[2], threads), linear<double>(s[0], s[1], s[2], threads);
    }
    for (const char *isa : {"portable", "avx2", "avx512"}) {
        if (unrolled_use_isa(isa) != 0) continue;
        const int64_t of[][3] = {{1, 1, 1}, {2, 3, 5}, {7, 17, 33}, {13, 40, 16}, {20, 150, 200}};  // the last on several threads
        for (int mode = 0; mode < 4; ++mode)
            for (auto &s : of)
                for (bool biases : {false, true}) cell(mode, s[0], s[1], s[2], biases, 3);
    }
    printf("%d calls\n", calls);
}
