// Plain std::threads in the place of an OpenMP runtime, and numbers to compute with, for the programs in this folder.
#pragma once
#include <stdint.h>

#include <thread>
#include <vector>

static thread_local int my_number = 0, team_size = 1;

static void parallel(void (*body)(void *), void *data, unsigned threads, unsigned) {
    std::vector<std::thread> team;
    for (unsigned i = 0; i < threads; ++i)
        team.emplace_back([=] {
            my_number = int(i);
            team_size = int(threads);
            body(data);
        });
    for (auto &t : team) t.join();
}
static int thread_number() { return my_number; }
static int thread_count() { return team_size; }

static uint64_t state = 1;
static double uniform() {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return double(state >> 40) / double(1 << 24) - 0.5;
}
