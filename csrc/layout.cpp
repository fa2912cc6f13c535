// Sizes and offsets of the structures of the C interface, so that a caller that repeats them can see whether it is right.
#include <stddef.h>
#include <string.h>

#include "unrolled_cell.h"
#include "unrolled_regularised.h"
#include "unrolled_step.h"
#include "unrolled_streaming.h"

namespace {

struct Field {
    const char *structure, *name;
    size_t offset, size;
};

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define WHOLE {TEXT(STRUCTURE), "", 0, sizeof(STRUCTURE)}
#define FIELD(f) {TEXT(STRUCTURE), #f, offsetof(STRUCTURE, f), sizeof(STRUCTURE::f)}

const Field fields[] = {
#define STRUCTURE unrolled_args
    WHOLE, FIELD(mode), FIELD(dtype), FIELD(reverse), FIELD(threads), FIELD(T), FIELD(B), FIELD(I), FIELD(H),
    FIELD(V), FIELD(x), FIELD(ids), FIELD(table), FIELD(w_ih), FIELD(w_hh), FIELD(b_ih), FIELD(b_hh), FIELD(h0), FIELD(c0),
    FIELD(lengths), FIELD(resets), FIELD(out), FIELD(cs), FIELD(h_n), FIELD(c_n), FIELD(gates), FIELD(d_out), FIELD(d_cs),
    FIELD(d_h_n), FIELD(d_c_n), FIELD(dx), FIELD(d_table), FIELD(dw_ih), FIELD(dw_hh), FIELD(db_ih), FIELD(db_hh), FIELD(dh0),
    FIELD(dc0), FIELD(grad_norms),
#undef STRUCTURE
#define STRUCTURE unrolled_regularised_args
    WHOLE, FIELD(mode), FIELD(dtype), FIELD(threads), FIELD(kept), FIELD(reverse), FIELD(unused),
    FIELD(T), FIELD(B), FIELD(H), FIELD(share_h), FIELD(share_c), FIELD(x), FIELD(w_hh), FIELD(p), FIELD(b_hh), FIELD(gain_hh),
    FIELD(gain_c), FIELD(bias_c), FIELD(mask), FIELD(stay_h), FIELD(stay_c), FIELD(alive), FIELD(cut), FIELD(start_h),
    FIELD(start_c), FIELD(h), FIELD(c), FIELD(seen), FIELD(out), FIELD(cs), FIELD(h_n), FIELD(c_n), FIELD(d_out), FIELD(d_cs),
    FIELD(dh), FIELD(dc), FIELD(dx), FIELD(dp), FIELD(d_start_h), FIELD(d_start_c), FIELD(sums), FIELD(grad_norms),
#undef STRUCTURE
#define STRUCTURE unrolled_linear_args
    WHOLE, FIELD(dtype), FIELD(threads), FIELD(back), FIELD(unused), FIELD(rows), FIELD(inputs),
    FIELD(outputs), FIELD(x), FIELD(w), FIELD(bias), FIELD(y), FIELD(d), FIELD(dx), FIELD(dw),
#undef STRUCTURE
#define STRUCTURE unrolled_step_args
    WHOLE, FIELD(mode), FIELD(L), FIELD(B), FIELD(I), FIELD(H), FIELD(x), FIELD(h_in), FIELD(c_in), FIELD(h_out), FIELD(c_out),
    FIELD(out),
#undef STRUCTURE
#define STRUCTURE unrolled_cell_args
    WHOLE, FIELD(mode), FIELD(threads), FIELD(B), FIELD(I), FIELD(H), FIELD(x), FIELD(h), FIELD(c), FIELD(w_ih), FIELD(w_hh),
    FIELD(b_ih), FIELD(b_hh), FIELD(h_out), FIELD(c_out), FIELD(gates), FIELD(d_h), FIELD(d_c), FIELD(dx), FIELD(dh), FIELD(dc),
    FIELD(dgates),
#undef STRUCTURE
#define STRUCTURE unrolled_stream_spec
    WHOLE, FIELD(mode), FIELD(precision), FIELD(L), FIELD(I), FIELD(H), FIELD(weights), FIELD(V),
    FIELD(table), FIELD(embedding), FIELD(V_out), FIELD(decoder), FIELD(decoder_bias), FIELD(isa),
#undef STRUCTURE
#define STRUCTURE unrolled_stream_choice
    WHOLE, FIELD(temperature), FIELD(top_p), FIELD(top_k), FIELD(stop), FIELD(forbidden),
    FIELD(forbidden_count), FIELD(threads),
#undef STRUCTURE
#define STRUCTURE unrolled_stream_call
    WHOLE, FIELD(B), FIELD(x), FIELD(h_in), FIELD(c_in), FIELD(h_out), FIELD(c_out), FIELD(out),
};

}  // namespace

int unrolled_layout(const char *structure, const char *field, int64_t *offset, int64_t *size) {
    for (const Field &f : fields)
        if (!strcmp(f.structure, structure) && !strcmp(f.name, field)) {
            *offset = int64_t(f.offset);
            *size = int64_t(f.size);
            return 0;
        }
    return -1;
}
