/* The C interface of a single step of a stack of layers, weights read where they lie, so that they are always those of now.
 * Float, contiguous; ? may be NULL. Runs on the calling thread and keeps nothing.
 *   L layers, B batch, I input width, H hidden width, G gates (LSTM 4: i f g o, GRU 3: r z n, RNN 1)
 */
#ifndef UNROLLED_STEP_H
#define UNROLLED_STEP_H
#include "unrolled_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Behind it, 4 L pointers: of each layer w_ih (G*H, I or H), w_hh (G*H, H), b_ih ? (G*H), b_hh ? (G*H). */
typedef struct unrolled_step_args {
    int64_t mode, L, B, I, H;
    const float *x;           /* (B, I)                                                                 */
    const float *h_in, *c_in; /* (L, B, H), c of the LSTM alone                                         */
    float *h_out, *c_out;     /* alike; no memory of those above                                        */
    float *out;               /* (B, H): a copy of the last layer's h                                   */
} unrolled_step_args;

/* 0, or -2: unknown mode. */
UNROLLED_API int unrolled_step(const unrolled_step_args *args);

#ifdef __cplusplus
}
#endif
#endif
