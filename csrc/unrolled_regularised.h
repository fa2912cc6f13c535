/* The C interface of regularised sequences, and of the linear map that is their input's part: a layer with layer normalisation, recurrent dropout, zoneout or resets to a
 * learned state, from the input's part of the gates on.
 *
 * Arrays are contiguous and of one type, float or double; ? may be NULL. G: LSTM 4, GRU 3, RNN 1. In slot arrays, step t
 * has slot t where `kept` is nonzero, else t mod 2 (nothing will be differentiated). The caller has put the state before the
 * first step into its slot of h, c and seen; backward leaves dh (but for what goes through W_hh) and dc before that step.
 */
#ifndef UNROLLED_REGULARISED_H
#define UNROLLED_REGULARISED_H
#include "unrolled_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct unrolled_regularised_args {
    int32_t mode, dtype, threads, kept, reverse, unused;
    int64_t T, B, H;
    double share_h, share_c; /* zoneout without masks: the share of the old state that stays                      */

    const void *x;                                /* (T, B, G*H): all that comes from the input, b_ih included     */
    const void *w_hh;                             /* (G*H, H)                                                      */
    void *p;                                      /* slots (B, G*H): W_hh seen                                     */
    const void *b_hh, *gain_hh, *gain_c, *bias_c; /* ? (G*H), ? (G*H), ? (H), ? (H); gains: normalise             */
    const void *mask;                             /* ? (B, H): seen = mask * h                                    */
    const uint8_t *stay_h, *stay_c;               /* ? (T, B, H): zoneout's masks, 1 where the old state stays    */
    const uint8_t *alive, *cut;                   /* ? (T, B): in the sequence; begins anew (and is in it)        */
    const void *start_h, *start_c;                /* ? (B, H): where a cut goes back to, NULL zeros               */
    void *h, *c, *seen;                           /* slots (B, H): the state before a step; seen is h without mask */

    void *out, *cs, *h_n, *c_n; /* (T, B, H), ? (T, B, H), (B, H), ? (B, H) */

    const void *d_out, *d_cs; /* ? (T, B, H), ? (T, B, H) */
    void *dh, *dc;            /* (B, H), updated: from what arrives at the last state to what arrives at the first */
    void *dx, *dp;            /* (T, B, G*H); dp is dx where both are the same */
    void *d_start_h, *d_start_c; /* ? (B, H), added to */
    void *sums;                  /* (threads, 2*G*H + 2*H), added to: db_hh, dgain_hh, dgain_c, dbias_c */
    float *grad_norms;           /* ? (2, T, B) */
} unrolled_regularised_args;

/* y = x w^T + bias; or, with `back`, its gradients dx and dw from that of y. Of one type, float or double, contiguous. */
typedef struct unrolled_linear_args {
    int32_t dtype, threads, back, unused;
    int64_t rows, inputs, outputs;
    const void *x, *w, *bias; /* (rows, inputs), (outputs, inputs), ? (outputs); backward reads x for dw, w for dx */
    void *y;                  /* (rows, outputs)                                                                    */
    const void *d;            /* (rows, outputs)                                                                    */
    void *dx, *dw;            /* ? (rows, inputs), ? (outputs, inputs)                                              */
} unrolled_linear_args;

/* 0, -1: out of memory, or -2: unknown mode or dtype. */
UNROLLED_API int unrolled_regularised_forward(const unrolled_regularised_args *args);
UNROLLED_API int unrolled_regularised_backward(const unrolled_regularised_args *args);
UNROLLED_API int unrolled_linear(const unrolled_linear_args *args);

#ifdef __cplusplus
}
#endif
#endif
