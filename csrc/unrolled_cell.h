/* The C interface of single steps in float: of cells that somebody calls in a loop of their own, in training and without.
 *
 * Arrays are contiguous; ? may be NULL. G: LSTM 4, GRU 3, RNN 1. D: columns of dgates, LSTM and GRU 4 (i f g o; r z n q, where
 * q is W_hn h + b_hn), RNN 1. Gradients of weights are the caller's, who can take those of many steps in one product:
 * dW_ih = dgates(its first G blocks)^T x, dW_hh = dgates(GRU: r z q)^T h.
 */
#ifndef UNROLLED_CELL_H
#define UNROLLED_CELL_H
#include "unrolled_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct unrolled_cell_args {
    int32_t mode, threads;
    int64_t B, I, H;
    const float *x, *h, *c;    /* (B, I), (B, H), and of the LSTM (B, H): input, and state before the step           */
    const float *w_ih, *w_hh;  /* (G*H, I), (G*H, H)                                                                 */
    const float *b_ih, *b_hh;  /* ? (G*H)                                                                            */
    float *h_out, *c_out;      /* (B, H), LSTM (B, H): state after the step; backward reads h_out for the RNN only   */
    float *gates;              /* ? unrolled_gates_size(mode, UNROLLED_F32, 1, B, H): for backward; NULL is inference */
    const float *d_h, *d_c;    /* ? (B, H), ? LSTM (B, H): what arrives at the state after the step                  */
    float *dx, *dh, *dc;       /* ? (B, I), ? (B, H), LSTM (B, H): of the input, of the state before the step   */
    float *dgates;             /* (B, D*H)                                                                           */
} unrolled_cell_args;

/* 0, -1: out of memory, or -2: unknown mode. */
UNROLLED_API int unrolled_cell_forward(const unrolled_cell_args *args);
UNROLLED_API int unrolled_cell_backward(const unrolled_cell_args *args);

#ifdef __cplusplus
}
#endif
#endif
