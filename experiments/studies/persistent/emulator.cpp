// Runs one kernel on a CPU: emulator FOLDER BLOCKS SHARED_WORDS, where FOLDER has the kernel's
// arguments as in0, in1, …; they are written back as out0, out1, …

//
// g++ -std=c++17 -DEMULATED -DSEED=0 -DFORWARD (or -DBACKWARD), and the macros of common.cuh.

#ifdef FORWARD
#include "forward.cu"
#else
#include "backward.cu"
#endif

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

static const size_t STACK = 64 * 1024;
static const long ROUNDS = 20000000;  // after which it is stuck
static std::vector<std::vector<char>> arguments;

template <typename T>
static T* argument(int n) {
  return (T*)arguments[n].data();
}

static void run() {
  typedef const unsigned char Byte;
#ifdef FORWARD
  u32* exchange = argument<u32>(6);  // XLA gives one memory for the input and the output
  lstm_forward(argument<int>(0), argument<float>(1), argument<float>(2), argument<float>(3),
               argument<float>(4), argument<Byte>(5), exchange, argument<float>(7),
               argument<float>(8), argument<float>(9), exchange, argument<int>(11));
#else
  u32* exchange = argument<u32>(9);
  lstm_backward(argument<int>(0), argument<float>(1), argument<float>(2), argument<float>(3),
                argument<float>(4), argument<float>(5), argument<float>(6), argument<float>(7),
                argument<Byte>(8), exchange, argument<float>(10), argument<float>(11),
                argument<float>(12), exchange, argument<int>(14));
#endif
  running->done = true;
  yield();
}

static bool read_arguments(const std::string& folder) {
  for (int n = 0;; n++) {
    std::ifstream file(folder + "/in" + std::to_string(n), std::ios::binary);
    if (!file) return n > 0;
    arguments.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
}

int main(int count, char** words) {
  if (count != 4 || !read_arguments(words[1])) return 2;
  const int num_blocks = atoi(words[2]), num_warps = num_blocks * WARPS;
  std::vector<Block> blocks(num_blocks);
  std::vector<Block*> peers(num_blocks);
  std::vector<Warp> warps(num_warps);
  std::vector<Barrier> clusters(num_blocks / CLUSTER);
  for (int b = 0; b < num_blocks; b++) {
    peers[b] = &blocks[b];
    blocks[b].shared.assign(atol(words[3]), NAN);  // so that what nobody wrote is seen
    blocks[b].barrier.threads = THREADS;
    blocks[b].cluster = &clusters[b / CLUSTER];
    blocks[b].cluster->threads = THREADS * CLUSTER;
    blocks[b].peers = &peers[b / CLUSTER * CLUSTER];
  }
  for (Warp& warp : warps) warp.barrier.threads = 32;
  std::vector<Fiber> fibers(num_warps * 32);
  for (size_t i = 0; i < fibers.size(); i++) {
    Fiber& fiber = fibers[i];
    fiber.block_number = i / THREADS;
    fiber.thread = i % THREADS;
    fiber.block = &blocks[fiber.block_number];
    fiber.warp = &warps[i / 32];
    fiber.stack.resize(STACK);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = STACK;
    makecontext(&fiber.context, run, 0);
  }

  std::vector<int> order(num_warps);
  for (int w = 0; w < num_warps; w++) order[w] = w;
  size_t left = fibers.size();
  for (long round = 1; left; round++) {
    if (round > ROUNDS) {
      fprintf(stderr, "the kernel is stuck\n");
      return 3;
    }
    if (round % 64 == 0) std::shuffle(order.begin(), order.end(), chance);
    for (int w : order) {
      if (chance() % 8 == 0) continue;
      for (int i = 0; i < 32; i++) {
        running = &fibers[w * 32 + i];
        if (running->done) continue;
        swapcontext(&scheduler, &running->context);
        left -= running->done;
      }
    }
  }
  for (size_t n = 0; n < arguments.size(); n++) {
    std::ofstream file(words[1] + ("/out" + std::to_string(n)), std::ios::binary);
    file.write(arguments[n].data(), arguments[n].size());
  }
}
