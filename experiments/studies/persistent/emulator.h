// Enough of CUDA to run the kernels on a CPU, in place of the first half of common.cuh: for tests.
//
// Every thread is a fiber. It goes on until it waits for others, so what the kernels' indices and
// their exchange come to can be seen without a GPU. What cannot be seen: the hardware's memory
// model, registers, times. Fibers are switched at random, by the macro SEED, also between the
// words of a store.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

typedef uint32_t u32;

struct alignas(16) Vector {
  u32 x, y, z, w;
};

struct Barrier {
  int threads = 0, arrived = 0, generation = 0;
};

struct Block {
  std::vector<float> shared;
  Barrier barrier;
  Barrier* cluster;
  Block** peers;  // of its cluster
};

struct Warp {
  float a[32][4], b[32][2];
  int vote[32];
  Barrier barrier;
};

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  int thread, block_number;
  Block* block;
  Warp* warp;
  bool done = false;
};

inline Fiber* running;
inline ucontext_t scheduler;
inline std::mt19937 chance(SEED);

inline void yield() { swapcontext(&running->context, &scheduler); }
inline void sometimes_yield(int one_of) {
  if (chance() % one_of == 0) yield();
}
inline void arrive(Barrier& barrier) {
  int generation = barrier.generation;
  if (++barrier.arrived == barrier.threads) {
    barrier.arrived = 0;
    barrier.generation++;
  }
  while (barrier.generation == generation) yield();
}

#define DEVICE static inline
#define EACH(i, n) for (int i = 0; i < (n); i++)
#define KERNEL(name) void name
#define THREAD (running->thread)
#define BLOCK (running->block_number)
#define SHARED (running->block->shared.data())
#define __restrict__

inline u32 bits(float x) {
  u32 y;
  memcpy(&y, &x, 4);
  return y;
}
inline float value(u32 x) {
  float y;
  memcpy(&y, &x, 4);
  return y;
}

inline Vector load(const u32* from) {
  sometimes_yield(4);
  return {from[0], from[1], from[2], from[3]};
}
inline void load_again_if(Vector& v, const u32* from, u32 wanted) {
  if (!wanted) return;
  yield();
  v = load(from);
}
inline void store(u32* to, u32 a) {
  sometimes_yield(16);
  *to = a;
}
inline void store(u32* to, u32 a, u32 b) {
  store(to, a);
  store(to + 1, b);
}
inline void store(u32* to, u32 a, u32 b, u32 c, u32 d) {
  store(to, a, b);
  store(to + 2, c, d);
}
inline float ask(const float* from) { return *from; }

// To the nearest of ten bits; and as the hardware reads a factor, whatever it was rounded to.
inline float tf32(float x) {
  return std::isnan(x) ? x : value((bits(x) + 0x1000u) & ~0x1fffu);
}
inline float read_as_tf32(float x) { return value(bits(x) & ~0x1fffu); }

inline void multiply_tf32(float (&d)[4], const float (&a)[4], float b0, float b1) {
  Warp& warp = *running->warp;
  int thread = running->thread % 32;
  for (int i = 0; i < 4; i++) warp.a[thread][i] = read_as_tf32(a[i]);
  warp.b[thread][0] = read_as_tf32(b0);
  warp.b[thread][1] = read_as_tf32(b1);
  arrive(warp.barrier);
  for (int i = 0; i < 4; i++) {
    int row = thread / 4 + i / 2 * 8, column = thread % 4 * 2 + i % 2;
    float sum = 0.f;
    for (int k = 0; k < 8; k++) {
      sum += warp.a[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2] *
             warp.b[column * 4 + k % 4][k / 4];
    }
    d[i] += sum;
  }
  arrive(warp.barrier);
}

inline int any_of_warp(int x) {
  Warp& warp = *running->warp;
  warp.vote[running->thread % 32] = x;
  arrive(warp.barrier);
  int any = 0;
  for (int vote : warp.vote) any |= vote;
  arrive(warp.barrier);
  return any;
}
inline void sync_block() { arrive(running->block->barrier); }
inline void sync_cluster() { arrive(*running->block->cluster); }
inline void wait_for_earlier_kernels() {}
inline void store_at_peer(float* to, int rank, float x) {
  running->block->peers[rank]->shared.at(to - running->block->shared.data()) = x;
}

inline float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
inline float hyperbolic_tangent(float x) { return tanhf(x); }
