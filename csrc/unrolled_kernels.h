/* The C interface of the CPU kernels: plain pointers and sizes, linked against nothing of PyTorch's.
 *
 * One call runs one layer in one direction over a whole sequence. Every array is contiguous and time-major.
 *   T steps, B batch, I input width, H hidden width, V table rows, G gates (LSTM 4: i f g o, GRU 3: r z n, RNN 1)
 * `real` is the accumulator type: float for UNROLLED_F32 and UNROLLED_BF16, double for UNROLLED_F64.
 * `elem` is the storage type of x, weights, biases, h and their gradients: float, bf16 or double.
 */
#ifndef UNROLLED_KERNELS_H
#define UNROLLED_KERNELS_H
#include <stdint.h>

#if defined(_WIN32)
#define UNROLLED_API __declspec(dllexport)
#else
#define UNROLLED_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { UNROLLED_LSTM = 0, UNROLLED_GRU = 1, UNROLLED_RNN_TANH = 2, UNROLLED_RNN_RELU = 3 };
enum { UNROLLED_F32 = 0, UNROLLED_BF16 = 1, UNROLLED_F64 = 2 };

typedef struct unrolled_args {
    int32_t mode, dtype, reverse, threads;
    int64_t T, B, I, H, V;

    /* Inputs of both passes. Pointers marked ? may be NULL. */
    const void *x;           /* (T, B, I) elem; ? when ids are given                                     */
    const int64_t *ids;      /* (T, B) ? : x W_ih^T + b_ih is row ids[t, b] of `table`                    */
    const void *table;       /* (V, G*H) real; only with ids                                             */
    const void *w_ih, *w_hh; /* (G*H, I), (G*H, H) elem; w_ih unused with ids                            */
    const void *b_ih, *b_hh; /* (G*H) elem ?                                                             */
    const void *h0;          /* (B, H) elem ? (zeros)                                                    */
    const void *c0;          /* (B, H) real ? (zeros)                                                    */
    const int64_t *lengths;  /* (B) in [0, T] ? : steps t >= lengths[b] give output 0 and keep the state */
    const uint8_t *resets;   /* (T, B) ? : nonzero sets h and c to zero before step t                    */

    /* Results of forward, inputs of backward. */
    void *out;   /* (T, B, H) elem                                                                       */
    void *cs;    /* (T, B, H) real, LSTM; ? in forward when nothing will be differentiated               */
    void *h_n;   /* (B, H) elem ?                                                                        */
    void *c_n;   /* (B, H) real, LSTM ?                                                                  */
    void *gates; /* unrolled_gates_size() elem ? : saved for backward; NULL means inference              */

    /* Gradients coming in. */
    const void *d_out; /* (T, B, H) elem ? */
    const void *d_cs;  /* (T, B, H) real ? */
    const void *d_h_n; /* (B, H) elem ?    */
    const void *d_c_n; /* (B, H) real ?    */

    /* Gradients going out; every one is overwritten. */
    void *dx;           /* (T, B, I) elem ?                                                              */
    void *d_table;      /* (V, G*H) real ? : with ids, instead of dx, dw_ih and db_ih                    */
    void *dw_ih, *dw_hh; /* elem ? */
    void *db_ih, *db_hh; /* elem ? */
    void *dh0;          /* (B, H) elem ? */
    void *dc0;          /* (B, H) real ? */
    float *grad_norms;  /* (2, T, B) ? : ||dL/dh_t|| and ||dL/dc_t|| of every row, all that arrives there */
} unrolled_args;

/* 0, or a negative number: -1 out of memory, -2 unknown mode or dtype. */
UNROLLED_API int unrolled_forward(const unrolled_args *args);
UNROLLED_API int unrolled_backward(const unrolled_args *args);

/* How many elements the `gates` buffer holds (it depends on the instruction set in use). */
UNROLLED_API int64_t unrolled_gates_size(int32_t mode, int32_t dtype, int64_t T, int64_t B, int64_t H);

/* Memory for the caller's buffers, or NULL; what is given back is kept for the next, up to 512 MB in the process. */
UNROLLED_API void *unrolled_take_memory(int64_t bytes);
UNROLLED_API void unrolled_give_memory_back(void *memory);

/* Where a field of one of this interface's structures lies and how large it is; with "" for the field, the whole structure.
 * -1 if there is none of that name. */
UNROLLED_API int unrolled_layout(const char *structure, const char *field, int64_t *offset, int64_t *size);

/* "avx512", "avx2", "portable": the one in use, whether one can run here, and choosing one (0 if it could be). */
UNROLLED_API const char *unrolled_isa(void);
UNROLLED_API int unrolled_isa_available(const char *name);
UNROLLED_API int unrolled_use_isa(const char *name);
/* 1 if this dtype has kernels under the instruction set in use. */
UNROLLED_API int unrolled_has_dtype(int32_t dtype);
/* 1 if this processor multiplies matrices of bf16 in a unit of its own (AMX), which these kernels do not use. */
UNROLLED_API int unrolled_has_amx_bf16(void);

/* The library starts no threads. It is handed the host's OpenMP entry points (GCC's names, which LLVM's and Intel's
 * runtimes export too), so that it shares the pool torch already has. Without them, and in a process that was forked after
 * the library was loaded, every call runs on one thread. */
typedef void (*unrolled_parallel_fn)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
UNROLLED_API void unrolled_use_openmp(unrolled_parallel_fn parallel, int (*thread_num)(void), int (*num_threads)(void));

/* Floating-point operations per second that `threads` threads of this machine reach with nothing but FMAs in
 * registers: the peak that the benchmark's percentages refer to. */
UNROLLED_API double unrolled_fma_peak(int32_t dtype, int32_t threads, double seconds);

#ifdef __cplusplus
}
#endif
#endif
