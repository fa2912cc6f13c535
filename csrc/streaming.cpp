// The streaming engine's C interface: a stream's lifetime, which variant runs it, and choosing tokens.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>

#include "kernels.hpp"
#include "lock.hpp"

using unrolled::CallLock;
using unrolled::StreamCall;
using unrolled::StreamKernels;
using unrolled::StreamModel;
using unrolled::StreamWalk;

struct unrolled_stream {
    StreamModel model;
    const StreamKernels *kernels;
    int holder;  // of the lock: the scratch memory of a stream serves one call at a time
    // the bound state
    ptrdiff_t B;
    float *h, *c;
    int64_t pending;  // a generated token still to be fed back, or -1
    // walking
    char *scratch;
    int scratch_threads;
    int late;         // regions on end in which one thread would have been faster, because another lost its core
    int64_t alone;    // steps left to do on one thread, and how many those are the next time
    int64_t alone_next;
    // choosing
    uint64_t random[4];
    float *logits;
    double *probabilities;
    int64_t *order;
};

namespace {

const StreamKernels *kernels_named(const char *isa, int precision) {
    if (precision < UNROLLED_STREAM_FP32 || precision > UNROLLED_STREAM_INT8) return nullptr;
    const unrolled::InstructionSet *set = unrolled::isa_named(isa);
    return set && set->streams[precision].pack ? &set->streams[precision] : nullptr;
}

const StreamKernels *best_kernels(int precision) {
    const unrolled::InstructionSet &chosen = unrolled::chosen_isa();
    if (!strcmp(chosen.name, "avx512") && precision != UNROLLED_STREAM_FP32)
        if (const StreamKernels *k = kernels_named(precision == UNROLLED_STREAM_INT8 ? "avx512_vnni" : "avx512_bf16", precision))
            return k;
    return &chosen.streams[precision];
}

// Large arenas on pages of 2 MB where the system gives them, because a step walks through all of it: 1.2 times faster
// with 13 MB of weights, no difference with 6 and less.
char *aligned(size_t bytes) {
    const size_t huge = size_t(2) << 20, page = bytes >= huge ? huge : 64;
    void *p = nullptr;
    if (posix_memalign(&p, page, (bytes + page - 1) / page * page) != 0) return nullptr;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (page == huge) madvise(p, (bytes + page - 1) / page * page, MADV_HUGEPAGE);
#endif
    return static_cast<char *>(p);
}

bool reserve_rows(unrolled_stream &s, ptrdiff_t B) {
    StreamModel &m = s.model;
    if (B <= m.rows) return true;
    const ptrdiff_t widest = m.I > m.H ? m.I : m.H;
    const size_t bytes = size_t(B) * size_t(s.kernels->act_bytes(widest) + s.kernels->act_bytes(m.H));
    char *acts = aligned(bytes);
    float *scales = static_cast<float *>(malloc(size_t(B) * 2 * sizeof(float)));
    if (!acts || !scales) {
        free(acts);
        free(scales);
        return false;
    }
    memset(acts, 0, bytes);
    std::swap(m.acts, acts);  // before anything is freed: a child may be forked here, and go on with it
    std::swap(m.act_scales, scales);
    m.rows = B;
    free(acts);
    free(scales);
    return true;
}

bool valid_ids(const StreamModel &m, const int64_t *ids, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; ++i)
        if (ids[i] < 0 || ids[i] >= m.V) return false;
    return true;
}

int run(unrolled_stream &s, ptrdiff_t B, const void *x, const float *h_in, const float *c_in, float *h_out, float *c_out) {
    StreamCall call{B, nullptr, nullptr, h_in, c_in, h_out, c_out};
    if (s.model.V) {
        call.ids = static_cast<const int64_t *>(x);
        if (!valid_ids(s.model, call.ids, B)) return UNROLLED_STREAM_ID;
    } else {
        call.x = static_cast<const float *>(x);
    }
    if (B < 1) return 0;
    if (!reserve_rows(s, B)) return UNROLLED_STREAM_MEMORY;
    s.kernels->step(s.model, call);
    return 0;
}

const float *last_h(const unrolled_stream &s, ptrdiff_t B, const float *h) { return h + (s.model.L - 1) * B * s.model.H; }

void copy_out(const unrolled_stream &s, ptrdiff_t B, const float *h, float *out) {
    if (out && B > 0) memcpy(out, last_h(s, B, h), size_t(B * s.model.H) * sizeof(float));
}

int flush(unrolled_stream &s) {
    if (s.pending < 0) return 0;
    const int64_t token = s.pending;
    s.pending = -1;
    return run(s, 1, &token, s.h, s.c, s.h, s.c);
}

// ------------------------------------------------------------------------------------------------------------- walking
constexpr size_t kBytesPerThread = size_t(1) << 19;  // of weights; with less, meeting costs more than a second core gains
constexpr int64_t kStepsTogether = 64;               // before anybody looks whether the cores are still there
constexpr int64_t kMostStepsAlone = 2048;            // twice as many each time the core is still not back

// n steps of the bound state, or until `choose` ends them. Threads meet at every layer, so one that loses its core holds
// up all: then the next steps are done on one thread. The bits are the same either way.
int walk(unrolled_stream &s, StreamWalk &w, int64_t n, int64_t threads) {
    threads = std::min(threads, int64_t(s.model.table_at / kBytesPerThread));  // table_at: the bytes of all weights
    threads = std::max(int64_t(1), std::min(threads, int64_t(64)));
    if (s.scratch_threads < threads) {
        char *scratch = aligned(size_t(threads) * size_t(s.kernels->walk_bytes(s.model)));
        if (!scratch) return UNROLLED_STREAM_MEMORY;
        std::swap(s.scratch, scratch);
        s.scratch_threads = int(threads);
        free(scratch);
    }
    w.scratch = s.scratch;
    w.h = s.h;
    w.c = s.c;
    for (w.from = 0; w.from < n && !w.ended; w.from = w.end) {
        const bool together = threads > 1 && s.alone <= 0;
        w.end = threads > 1 ? std::min(n, w.from + kStepsTogether) : n;
        const int lost = together ? s.kernels->walk(s.model, w, int(threads)) : -1;
        if (together) s.late = lost > 0 ? s.late + 1 : 0;
        if (lost == 0) s.alone_next = kStepsTogether;
        if (s.late > 1) {  // once is an accident
            s.alone = s.alone_next;
            s.alone_next = std::min(2 * s.alone_next, kMostStepsAlone);
            s.late = 0;
        }
        if (lost < 0) {
            s.kernels->walk(s.model, w, 1);
            s.alone -= s.alone > 0 ? w.end - w.from : 0;
            if (together) threads = 1;  // inside somebody else's parallel region
        }
    }
    return 0;
}

// ------------------------------------------------------------------------------------------------------ random numbers
uint64_t rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

uint64_t next_random(uint64_t (&s)[4]) {  // xoshiro256**
    const uint64_t result = rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

void seed_random(uint64_t (&s)[4], uint64_t seed) {  // splitmix64
    for (uint64_t &word : s) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        word = z ^ (z >> 31);
    }
}

// ------------------------------------------------------------------------------------------------------------ choosing
// unrolled.decoding.choose, for one row of scores: the token, or an error. Among equals the lower id is the likelier.
int64_t choose(unrolled_stream &s, const unrolled_stream_choice &how) {
    float *const scores = s.logits;
    double *const p = s.probabilities;
    const int64_t V = s.model.V_out;
    for (int64_t i = 0; i < how.forbidden_count; ++i) scores[how.forbidden[i]] = -HUGE_VALF;
    int64_t likeliest = 0;
    bool numbers = true;
    for (int64_t v = 0; v < V; ++v) {
        numbers &= scores[v] == scores[v];
        if (scores[v] > scores[likeliest]) likeliest = v;
    }
    const double top = scores[likeliest];
    if (!numbers || top == -HUGE_VAL || (top == HUGE_VAL && how.temperature > 0)) return UNROLLED_STREAM_SCORES;
    if (how.temperature == 0) return likeliest;

    double sum = 0;
    for (int64_t v = 0; v < V; ++v) sum += p[v] = exp((double(scores[v]) - top) / how.temperature);
    const double u = double(next_random(s.random) >> 11) * 0x1p-53;
    if (!how.top_k && !(how.top_p > 0)) {
        const double target = u * sum;
        double passed = 0;
        for (int64_t v = 0; v < V; ++v)
            if ((passed += p[v]) > target) return v;
        return likeliest;
    }
    // Likeliest first, from a heap: only as many are put in order as are kept.
    int64_t *const order = s.order;
    for (int64_t v = 0; v < V; ++v) order[v] = v;
    const auto less = [p](int64_t a, int64_t b) { return p[a] < p[b] || (p[a] == p[b] && a > b); };
    std::make_heap(order, order + V, less);
    double kept = 0;
    int64_t end = V;  // the kept ones gather at the array's end, the likeliest last
    while (end > 0 && !(how.top_k && V - end >= how.top_k) && !(how.top_p > 0 && kept / sum >= how.top_p)) {
        std::pop_heap(order, order + end, less);
        kept += p[order[--end]];
    }
    const double target = u * kept;
    double passed = 0;
    for (int64_t i = V - 1; i >= end; --i)
        if ((passed += p[order[i]]) > target) return order[i];
    return likeliest;
}

int check_generate(const unrolled_stream &s, const unrolled_stream_choice &how) {
    if (!s.model.V || !s.model.V_out || !s.h || s.model.V < s.model.V_out) return UNROLLED_STREAM_MISSING;
    if (s.B != 1 || !(how.temperature >= 0) || how.top_k < 0 || !(how.top_p >= 0 && how.top_p <= 1))
        return UNROLLED_STREAM_SETTINGS;
    for (int64_t i = 0; i < how.forbidden_count; ++i)
        if (how.forbidden[i] < 0 || how.forbidden[i] >= s.model.V_out) return UNROLLED_STREAM_ID;
    return 0;
}

}  // namespace

extern "C" {

int unrolled_stream_repack(unrolled_stream *s, const unrolled_stream_spec *spec) {
    const StreamModel &m = s->model;
    const bool table = spec->V > 0 && spec->table, embedding = spec->V > 0 && !table;
    if (spec->mode != m.mode || spec->precision != m.precision || spec->L != m.L || (table ? 0 : spec->I) != m.I ||
        spec->H != m.H || spec->V != m.V || spec->V_out != m.V_out || table != m.has_table || embedding != m.has_embedding)
        return UNROLLED_STREAM_UNSUPPORTED;
    const CallLock lock(s->holder);
    s->kernels->pack(*spec, s->model);
    return 0;
}

void unrolled_stream_destroy(unrolled_stream *s) {
    if (!s) return;
    free(s->model.arena);
    free(s->model.layer_at);
    free(s->model.acts);
    free(s->model.act_scales);
    free(s->scratch);
    free(s->logits);
    free(s->probabilities);
    free(s->order);
    free(s);
}

unrolled_stream *unrolled_stream_create(const unrolled_stream_spec *spec, int32_t *error) {
    *error = UNROLLED_STREAM_UNSUPPORTED;
    if (spec->mode < UNROLLED_LSTM || spec->mode > UNROLLED_RNN_RELU || spec->L < 1 || spec->H < 1 || spec->V < 0 ||
        spec->V_out < 0)
        return nullptr;
    if (spec->precision < UNROLLED_STREAM_FP32 || spec->precision > UNROLLED_STREAM_INT8) return nullptr;
    const StreamKernels *kernels = spec->isa ? kernels_named(spec->isa, spec->precision) : best_kernels(spec->precision);
    if (!kernels) return nullptr;
    const bool table = spec->V > 0 && spec->table, embedding = spec->V > 0 && !table;
    if ((embedding && !spec->embedding) || (!table && spec->I < 1)) return nullptr;
    const int64_t longest = !table && spec->I > spec->H ? spec->I : spec->H;
    if (spec->precision == UNROLLED_STREAM_INT8 && longest > 65536) return nullptr;  // 255 * 127 * K fits 31 bits

    *error = UNROLLED_STREAM_MEMORY;
    auto *s = static_cast<unrolled_stream *>(calloc(1, sizeof(unrolled_stream)));
    if (!s) return nullptr;
    StreamModel &m = s->model;
    m.mode = spec->mode;
    m.precision = spec->precision;
    m.L = spec->L;
    m.I = table ? 0 : spec->I;
    m.H = spec->H;
    m.V = spec->V;
    m.V_out = spec->V_out;
    m.has_table = table;
    m.has_embedding = embedding;
    s->kernels = kernels;
    s->pending = -1;
    s->alone_next = kStepsTogether;
    seed_random(s->random, 0);
    m.layer_at = static_cast<size_t *>(malloc(size_t(m.L + 1) * sizeof(size_t)));
    bool ok = m.layer_at != nullptr;
    if (ok) {
        kernels->pack(*spec, m);  // sizes
        m.arena = aligned(m.bytes);
        ok = m.arena != nullptr;
    }
    if (ok) {
        memset(m.arena, 0, m.bytes);
        kernels->pack(*spec, m);
        ok = reserve_rows(*s, 1);
    }
    if (ok && m.V_out) {
        s->logits = static_cast<float *>(malloc(size_t(m.V_out) * sizeof(float)));
        s->probabilities = static_cast<double *>(malloc(size_t(m.V_out) * sizeof(double)));
        s->order = static_cast<int64_t *>(malloc(size_t(m.V_out) * sizeof(int64_t)));
        ok = s->logits && s->probabilities && s->order;
    }
    if (!ok) {
        unrolled_stream_destroy(s);
        return nullptr;
    }
    *error = 0;
    return s;
}

const char *unrolled_stream_isa(const unrolled_stream *s) { return s->kernels->name; }

int64_t unrolled_stream_bytes(const unrolled_stream *s) { return int64_t(s->model.bytes); }

int unrolled_stream_available(const char *isa, int32_t precision) { return kernels_named(isa, precision) != nullptr; }

int unrolled_stream_run(unrolled_stream *s, const unrolled_stream_call *call) {
    const CallLock lock(s->holder);
    const int code = run(*s, call->B, call->x, call->h_in, call->c_in, call->h_out, call->c_out);
    if (!code) copy_out(*s, call->B, call->h_out, call->out);
    return code;
}

int unrolled_stream_bind(unrolled_stream *s, int64_t B, float *h, float *c) {
    const CallLock lock(s->holder);
    s->B = B;
    s->h = h;
    s->c = c;
    s->pending = -1;
    return reserve_rows(*s, B) ? 0 : UNROLLED_STREAM_MEMORY;
}

int unrolled_stream_step(unrolled_stream *s, int64_t B, const void *x, float *out) {
    const CallLock lock(s->holder);
    if (!s->h) return UNROLLED_STREAM_MISSING;
    if (B != s->B) return UNROLLED_STREAM_SETTINGS;
    if (s->model.V && !valid_ids(s->model, static_cast<const int64_t *>(x), s->B)) return UNROLLED_STREAM_ID;
    int code = flush(*s);
    if (!code) code = run(*s, s->B, x, s->h, s->c, s->h, s->c);
    if (!code) copy_out(*s, s->B, s->h, out);
    return code;
}

int unrolled_stream_logits(unrolled_stream *s, int64_t B, float *out) {
    const CallLock lock(s->holder);
    if (!s->h || !s->model.V_out) return UNROLLED_STREAM_MISSING;
    if (B != s->B) return UNROLLED_STREAM_SETTINGS;
    const int code = flush(*s);
    if (!code && s->B > 0) s->kernels->decode(s->model, s->B, last_h(*s, s->B, s->h), out);
    return code;
}

int unrolled_stream_feed(unrolled_stream *s, const int64_t *ids, int64_t n, int32_t threads) {
    const CallLock lock(s->holder);
    if (!s->h || !s->model.V) return UNROLLED_STREAM_MISSING;
    if (s->B != 1) return UNROLLED_STREAM_SETTINGS;
    if (!valid_ids(s->model, ids, n)) return UNROLLED_STREAM_ID;
    int code = flush(*s);
    if (code) return code;
    StreamWalk w{};
    w.given = ids;
    return walk(*s, w, n, threads);
}

int unrolled_stream_flush(unrolled_stream *s) {
    const CallLock lock(s->holder);
    return flush(*s);
}

void unrolled_stream_seed(unrolled_stream *s, uint64_t seed) {
    const CallLock lock(s->holder);
    seed_random(s->random, seed);
}

int64_t unrolled_stream_generate(unrolled_stream *s, int64_t n, const unrolled_stream_choice *choice, int64_t *ids) {
    const CallLock lock(s->holder);
    int code = check_generate(*s, *choice);
    if (code) return code;
    struct Text {
        unrolled_stream *s;
        const unrolled_stream_choice *choice;
        int64_t *ids, result;
    } text{s, choice, ids, n};
    StreamWalk w{};
    w.token = s->pending;
    w.logits = s->logits;
    w.owner = &text;
    w.choose = [](StreamWalk &walk, int64_t at) {
        Text &t = *static_cast<Text *>(walk.owner);
        walk.token = choose(*t.s, *t.choice);
        t.s->pending = walk.token < 0 ? -1 : walk.token;
        const bool on = walk.token >= 0 && walk.token != t.choice->stop;
        if (on)
            t.ids[at] = walk.token;
        else
            t.result = walk.token < 0 ? walk.token : at;
        return on;
    };
    code = n > 0 ? walk(*s, w, n, choice->threads) : 0;
    return code ? code : text.result;
}

}  // extern "C"
