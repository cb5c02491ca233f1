// What the two kernels share: sizes, the exchange between blocks, products and gates.
//
// kernels.py gives these macros:
//   HIDDEN   units of the layer, H
//   UNITS    units that a block owns
//   LANES    lanes of the batch that a block works on
//   WARPS    warps per block
//   CLUSTER  blocks per cluster; they divide one product among themselves
//   BATCH    vectors that a thread asks for at once
//   PRECISE  where defined, a product is three of TF32, which is as good as float32
//
// A team is the HIDDEN / UNITS blocks that work on the same lanes. Teams never talk.
//
// The exchange. Blocks of a team send one another float32 words through global memory, in two
// slots that take turns. No barrier says when a word is there. Its lowest bit does: it is the
// parity of how often the slot has been used, and a reader asks again until it is the right one.
// A slot is written again only by a block that has read the other slot in full. Whoever filled
// that one had read this one before. So two slots are enough.

#pragma once

#ifdef EMULATED
#include "emulator.h"
#else

typedef unsigned int u32;

struct alignas(16) Vector {
  u32 x, y, z, w;
};

#define DEVICE __device__ __forceinline__
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < (n); i++)
#define THREAD ((int)threadIdx.x)
#define BLOCK ((int)blockIdx.x)
extern __shared__ __align__(16) float shared_memory[];
#define SHARED shared_memory

#if CLUSTER > 1
#define KERNEL(name) \
  extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(WARPS * 32, 1) name
#else
#define KERNEL(name) extern "C" __global__ void __launch_bounds__(WARPS * 32, 1) name
#endif

// ---- words of the exchange: relaxed and of the whole GPU, so that they come from L2

DEVICE Vector load(const u32* from) {
  Vector v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
}

// Under a predicate instead of a branch, so that the loads of a batch leave together.
DEVICE void load_again_if(Vector& v, const u32* from, u32 wanted) {
  asm volatile(
      "{\n\t"
      ".reg .pred p;\n\t"
      "setp.ne.u32 p, %5, 0;\n\t"
      "@p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n\t"
      "}"
      : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
      : "l"(from), "r"(wanted)
      : "memory");
}

DEVICE void store(u32* to, u32 a) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(a) : "memory");
}

DEVICE void store(u32* to, u32 a, u32 b) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(a), "r"(b)
               : "memory");
}

DEVICE void store(u32* to, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

// An input of the kernel, asked for here: `volatile` keeps the compiler from moving it down to
// where it is used, behind the wait for the other blocks.
DEVICE float ask(const float* from) {
  float x;
  asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(x) : "l"(from));
  return x;
}

// ---- float32, TF32, and one tile of a product

DEVICE u32 bits(float x) { return __float_as_uint(x); }
DEVICE float value(u32 x) { return __uint_as_float(x); }

DEVICE float tf32(float x) {
  u32 rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return value(rounded);
}

// d 16x8 += a 16x8 b 8x8, divided among a warp's threads as PTX has it for m16n8k8.
DEVICE void multiply_tf32(float (&d)[4], const float (&a)[4], float b0, float b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(bits(a[0])), "r"(bits(a[1])), "r"(bits(a[2])), "r"(bits(a[3])), "r"(bits(b0)),
        "r"(bits(b1)));
}

// ---- threads

DEVICE int any_of_warp(int x) { return __any_sync(0xffffffffu, x); }
DEVICE void sync_block() { __syncthreads(); }

DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

// For the kernels before this one. XLA may launch a kernel while the one before is at its end
// (programmatic dependent launch); where it does not, this returns at once.
DEVICE void wait_for_earlier_kernels() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Into the same place of another block's shared memory.
DEVICE void store_at_peer(float* to, int rank, float x) {
  u32 own = (u32)__cvta_generic_to_shared(to), peer;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(peer) : "r"(own), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(peer), "f"(x) : "memory");
}

// ---- gates

#ifdef PRECISE
DEVICE float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
#else
DEVICE float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#define LOG2_E 1.4426950408889634f
DEVICE float sigmoid(float x) { return reciprocal(1.f + power_of_2(-LOG2_E * x)); }
DEVICE float hyperbolic_tangent(float x) { return fmaf(2.f, sigmoid(2.f * x), -1.f); }
#endif

#endif  // EMULATED

#define THREADS (WARPS * 32)
#define TEAM (HIDDEN / UNITS)                              // blocks
#define LANE_TILES (LANES / 8)                             // of a product's eight columns
#define PAIR (LANE_TILES > 1 ? 2 : 1)                      // lane tiles that one vector holds
#define OWNED ((UNITS * LANES + THREADS - 1) / THREADS)    // (unit, lane) of a thread, at most
#define NOT_A_NUMBER 0x7fffffffu
#ifndef POLLS
#define POLLS (1 << 20)  // before a reader gives up: about a second
#endif

static_assert(HIDDEN % UNITS == 0 && TEAM % CLUSTER == 0, "units do not divide among blocks");
static_assert(UNITS % 8 == 0 && LANES % 8 == 0, "a tile has eight units and eight lanes");
static_assert(LANE_TILES == 1 || LANE_TILES % 2 == 0, "lane tiles come in pairs");

// What a product reads, and a product of tiles.
#ifdef PRECISE
DEVICE float rounded(float x) { return x; }

// Each factor is a TF32 number and a rest; the rests' own product is below float32.
DEVICE void multiply(float (&d)[4], const float (&a)[4], float b0, float b1) {
  float a_high[4], a_low[4];
  float b0_high = tf32(b0), b1_high = tf32(b1);
  float b0_low = tf32(b0 - b0_high), b1_low = tf32(b1 - b1_high);
  EACH(i, 4) {
    a_high[i] = tf32(a[i]);
    a_low[i] = tf32(a[i] - a_high[i]);
  }
  multiply_tf32(d, a_low, b0_high, b1_high);
  multiply_tf32(d, a_high, b0_low, b1_low);
  multiply_tf32(d, a_high, b0_high, b1_high);
}
#else
DEVICE float rounded(float x) { return tf32(x); }
DEVICE void multiply(float (&d)[4], const float (&a)[4], float b0, float b1) {
  multiply_tf32(d, a, b0, b1);
}
#endif

// ---- the exchange's parity

// Of the words of step n. Memory starts as zeros, so the first use of a slot has parity 1.
DEVICE u32 parity_of(int n) { return ((n >> 1) & 1) ^ 1; }
DEVICE u32 with_parity(float x, u32 parity) { return (bits(x) & ~1u) | parity; }
DEVICE u32 lacks(const Vector& v, u32 parity) {
  return ((v.x ^ parity) | (v.y ^ parity) | (v.z ^ parity) | (v.w ^ parity)) & 1u;
}

// Waits until the first `count` vectors, STRIDE words apart, have their parity.
//
// A warp that has waited for POLLS rounds gives up, for good: from then on it reads NaN, which
// spreads to all that the team computes. So a fault is seen, and no kernel runs for ever.
template <int N, int STRIDE>
DEVICE void settle(Vector (&v)[N], const u32* from, int count, u32 parity, int& gave_up) {
  for (int polls = 0; !gave_up; polls++) {
    u32 missing = 0;
    EACH(i, N) {
      u32 wanted = i < count ? lacks(v[i], parity) : 0;
      missing |= wanted;
      load_again_if(v[i], from + (size_t)i * STRIDE, wanted);
    }
    if (!any_of_warp(missing)) return;
    gave_up = polls > POLLS;
  }
  EACH(i, N) v[i] = {NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER, NOT_A_NUMBER};
}

// What a block says at its end: 1 where one of its warps gave up.
DEVICE void report(int* failed, float* flag, int gave_up) {
  if (gave_up) flag[0] = 1.f;
  sync_block();
  if (THREAD == 0) failed[BLOCK] = flag[0] != 0.f;
}
