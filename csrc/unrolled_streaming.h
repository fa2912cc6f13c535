/* The C interface of the streaming engine: one step at a time of a stack of layers, weights packed once and kept.
 *
 * A stream holds a packed copy of the weights (fp32, bf16 or int8), optionally a table of input rows for token ids and a
 * linear layer that scores the next token. State is the caller's: h and, for the LSTM, c, each (L, B, H) float,
 * contiguous. `feed` and `generate` share the threads given to unrolled_use_openmp, all else runs on the calling thread;
 * calls on one stream from several threads wait for each other. A child forked during another thread's call finds the
 * stream free, its bound state somewhere within that call, and weights that were just being packed half packed.
 *   L layers, B batch, I input width, H hidden width, V tokens, G gates (LSTM 4: i f g o, GRU 3: r z n, RNN 1)
 */
#ifndef UNROLLED_STREAMING_H
#define UNROLLED_STREAMING_H
#include "unrolled_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { UNROLLED_STREAM_FP32 = 0, UNROLLED_STREAM_BF16 = 1, UNROLLED_STREAM_INT8 = 2 };

/* Errors are negative: */
enum {
    UNROLLED_STREAM_MEMORY = -1,      /* out of memory                                                               */
    UNROLLED_STREAM_UNSUPPORTED = -2, /* unknown mode, precision, instruction set, or sizes beyond int8's sums       */
    UNROLLED_STREAM_ID = -3,          /* a token id outside [0, V); nothing was changed                              */
    UNROLLED_STREAM_SCORES = -4,      /* no token can be chosen: scores are NaN, +Inf, or -Inf everywhere            */
    UNROLLED_STREAM_MISSING = -5,     /* no decoder, no token front, or no bound state                               */
    UNROLLED_STREAM_SETTINGS = -6     /* temperature < 0 or NaN, top_k < 0, top_p outside [0, 1], a batch that isn't 1 or the state's */
};

typedef struct unrolled_stream unrolled_stream;

typedef struct unrolled_stream_spec {
    int32_t mode, precision; /* UNROLLED_LSTM ..., UNROLLED_STREAM_...                                               */
    int64_t L, I, H;
    const float *const *weights; /* 4 L pointers: w_ih (G*H, I or H), w_hh (G*H, H), b_ih ? (G*H), b_hh ? (G*H)      */
    int64_t V;                   /* > 0: the input is token ids in [0, V)                                            */
    const float *table;          /* (V, G*H) ? : W_ih x of the first layer for every token; its w_ih is not read     */
    const float *embedding;      /* (V, I) ?   : otherwise, x for every token                                        */
    int64_t V_out;               /* > 0: there is a decoder                                                          */
    const float *decoder, *decoder_bias; /* (V_out, H), (V_out) ?                                                    */
    const char *isa; /* ? : "portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"; NULL is the best of unrolled_isa() */
} unrolled_stream_spec;

/* Copies and packs everything; NULL and *error if it cannot. */
UNROLLED_API unrolled_stream *unrolled_stream_create(const unrolled_stream_spec *spec, int32_t *error);
/* Pack other weights of the same sizes in place of what is there. */
UNROLLED_API int unrolled_stream_repack(unrolled_stream *stream, const unrolled_stream_spec *spec);
UNROLLED_API void unrolled_stream_destroy(unrolled_stream *stream);
UNROLLED_API const char *unrolled_stream_isa(const unrolled_stream *stream); /* the variant that runs it              */
UNROLLED_API int64_t unrolled_stream_bytes(const unrolled_stream *stream);   /* of packed weights and tables          */
UNROLLED_API int unrolled_stream_available(const char *isa, int32_t precision); /* 1 if this machine and build run it */

/* One step from a state to a state, which may be the same memory. */
typedef struct unrolled_stream_call {
    int64_t B;
    const void *x;             /* (B, I) float, or (B) int64 ids if the stream has a token front                       */
    const float *h_in, *c_in;  /* ? : zeros                                                                          */
    float *h_out, *c_out;
    float *out;                /* (B, H) ? : a copy of the last layer's h                                            */
} unrolled_stream_call;
UNROLLED_API int unrolled_stream_run(unrolled_stream *stream, const unrolled_stream_call *call);

/* The state that the calls below advance in place. Forgets a token that `generate` still had to feed back. */
UNROLLED_API int unrolled_stream_bind(unrolled_stream *stream, int64_t B, float *h, float *c);
UNROLLED_API int unrolled_stream_step(unrolled_stream *stream, int64_t B, const void *x, float *out);
/* The scores of the next token given the bound state: (B, V_out). */
UNROLLED_API int unrolled_stream_logits(unrolled_stream *stream, int64_t B, float *out);
/* Step over n tokens without scoring any; B must be 1. On up to `threads` threads, as `generate`. */
UNROLLED_API int unrolled_stream_feed(unrolled_stream *stream, const int64_t *ids, int64_t n, int32_t threads);
/* Feed back the last generated token, if that is still to be done, so that the bound state is that after it. */
UNROLLED_API int unrolled_stream_flush(unrolled_stream *stream);

typedef struct unrolled_stream_choice {
    double temperature;       /* 0: the likeliest token; else the scores are divided by it                          */
    double top_p;             /* 0: off; else draw among the fewest likeliest whose probabilities reach it          */
    int64_t top_k;            /* 0: off; else draw among the k likeliest                                            */
    int64_t stop;             /* a token that ends the text and is not part of it; -1: none                         */
    const int64_t *forbidden; /* ? : tokens never chosen                                                            */
    int64_t forbidden_count;
    int64_t threads;          /* at most; fewer for small weights, or while a core is taken. The same bits for any     */
} unrolled_stream_choice;

/* The random numbers of `generate`: xoshiro256** (Blackman and Vigna 2018), its four words drawn by splitmix64 from the
 * seed. One number of 53 bits is drawn per token, none at temperature 0. */
UNROLLED_API void unrolled_stream_seed(unrolled_stream *stream, uint64_t seed);
/* Write up to n tokens; returns how many (fewer: `stop` was chosen), or an error. Call again to go on where it ended:
 * chunks of any sizes give the same tokens. The last token is fed back by the next call that needs the state. */
UNROLLED_API int64_t unrolled_stream_generate(unrolled_stream *stream, int64_t n, const unrolled_stream_choice *choice,
                                              int64_t *ids);

#ifdef __cplusplus
}
#endif
#endif
