// Packed weights that outlive a call: a few, the least recently used thrown out first, behind a lock held for nanoseconds.
// LSTM inference of 10 steps at B = 1, I = H = 512 1.6 times faster, of 5 steps at B = 4 1.7 times.
// Whoever takes an entry has it alone until it is given back; a second thread that runs the same layer at the same time gets
// an entry of its own. In a forked child the entries that other threads of the parent had at that moment stay taken.
#include <string.h>

#include "kernels.hpp"
#include "lock.hpp"

namespace {

using unrolled::KeptWeights;

constexpr size_t kMostBytes = size_t(128) << 20;
constexpr int kMost = 64;

struct Entry {
    KeptWeights kept;
    unrolled::PackedFrom from;
    size_t bytes;
    uint64_t used;
    bool busy;
} entries[kMost];
size_t all_bytes = 0;
uint64_t clock_of_uses = 0;

bool same(const unrolled::PackedFrom &a, const unrolled::PackedFrom &b) {
    return a.weights == b.weights && a.layout == b.layout && a.H == b.H && a.K == b.K;
}

Entry *least_recently_used() {
    Entry *found = nullptr;
    for (Entry &e : entries)
        if (e.kept.packed && !e.busy && (!found || e.used < found->used)) found = &e;
    return found;
}

}  // namespace

namespace unrolled {

KeptWeights *take_kept_weights(const PackedFrom &from, size_t packed_bytes, size_t fingerprint_bytes) {
    const size_t bytes = packed_bytes + fingerprint_bytes;
    void *thrown_out[kMost];
    int thrown = 0;
    Entry *mine = nullptr;
    {
        SpinLock lock(tables_lock);
        for (Entry &e : entries)
            if (e.kept.packed && !e.busy && same(e.from, from)) {
                e.busy = true;
                e.used = ++clock_of_uses;
                return &e.kept;
            }
        for (Entry &e : entries)
            if (!e.kept.packed && !e.busy) mine = &e;
        while (bytes <= kMostBytes && (!mine || all_bytes + bytes > kMostBytes)) {
            Entry *old = least_recently_used();
            if (!old) break;
            thrown_out[thrown++] = old->kept.packed;
            all_bytes -= old->bytes;
            *old = {};
            mine = old;
        }
        if (mine && all_bytes + bytes <= kMostBytes) {
            *mine = {{}, from, bytes, ++clock_of_uses, true};
            all_bytes += bytes;
        } else {
            mine = nullptr;
        }
    }
    while (thrown > 0) give_memory_back(thrown_out[--thrown]);
    if (!mine) return nullptr;
    char *memory = static_cast<char *>(take_memory(bytes));
    if (memory) memset(memory + packed_bytes, 0, fingerprint_bytes);
    SpinLock lock(tables_lock);
    if (memory) {
        mine->kept = {memory, memory + packed_bytes};
        return &mine->kept;
    }
    all_bytes -= bytes;
    *mine = {};
    return nullptr;
}

void give_kept_weights_back(KeptWeights *kept) {
    SpinLock lock(tables_lock);
    reinterpret_cast<Entry *>(kept)->busy = false;  // its first member
}

}  // namespace unrolled
