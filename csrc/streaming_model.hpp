// What the streaming engine keeps, and the table of its entry points.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "unrolled_streaming.h"

namespace unrolled {

struct StreamModel {
    int mode, precision;
    ptrdiff_t L, I, H, V, V_out;
    char *arena;               // weights in the order in which a step reads them; then the token table
    size_t bytes;              // of the arena
    size_t *layer_at;          // (L + 1): where each layer starts, and the decoder
    size_t table_at;           // packed rows of the first layer's W_ih x, or
    size_t embedding_at;       // rows of x
    bool has_table, has_embedding;
    char *acts;                // inputs of products, converted: x of all rows, then h
    float *act_scales;         // (2, B)
    ptrdiff_t rows;            // how many rows the two hold
};

struct StreamCall {
    ptrdiff_t B;
    const float *x;
    const int64_t *ids;
    const float *h_in, *c_in;
    float *h_out, *c_out;
};

// Many steps of one sequence, its state advanced in place: over given tokens, or over those that `choose` picks.
struct StreamWalk {
    float *h, *c;
    const int64_t *given;                      // all tokens ?
    int64_t from, end;                         // of the n steps, those of this region
    int64_t token;                             // where none are given: the one to step over first, -1 if there is none
    bool (*choose)(StreamWalk &, int64_t at);  // from the logits sets the next token; false ends the walk
    void *owner;
    float *logits;
    char *scratch;                             // walk_bytes() for each thread
    bool ended;
};

struct StreamKernels {
    const char *name;
    void (*pack)(const unrolled_stream_spec &, StreamModel &);  // without an arena: only sizes and places
    ptrdiff_t (*act_bytes)(ptrdiff_t width);                    // one row of inputs of a product
    void (*step)(const StreamModel &, const StreamCall &);
    void (*decode)(const StreamModel &, ptrdiff_t B, const float *h, float *logits);
    ptrdiff_t (*walk_bytes)(const StreamModel &);
    // Returns whether one thread would have been faster, because another had lost its core; or -1 if there were not so
    // many threads: nothing was done.
    int (*walk)(const StreamModel &, StreamWalk &, int threads);
};

}  // namespace unrolled
