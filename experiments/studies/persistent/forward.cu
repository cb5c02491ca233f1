// The forward pass of an LSTM layer over a whole sequence: (S1) and (F1) to (F4) of `cells.passes`
// and `cells.lstm`, with x W + b at hand. U stays in registers for all T steps.
//
// A block owns UNITS units and LANES lanes. Its rows of U' are the four gates of its units; its
// columns are all units, divided among its warps. A step: every warp waits for its units' h,
// multiplies, and leaves a partial sum in shared memory. The block adds these up, computes its
// units, and sends their h to the team. In a cluster a block reads a share of the units only, for
// the rows of all its peers, and sends each its part. That divides what is read from L2.
//
// The exchange holds h_t in the order in which its readers' threads want the tiles of a product.

#include "common.cuh"

#define K_BLOCK (HIDDEN / CLUSTER)  // units whose h a block reads
#define K_WARP (K_BLOCK / WARPS)    // and a warp
#define K_TILES (K_WARP / 8)
#define ROWS (4 * UNITS * CLUSTER)  // the cluster's: [peer][gate][unit]
#define ROW_TILES (ROWS / 16)
#define OWN_ROWS (4 * UNITS)
#define VECTORS (K_TILES * LANE_TILES / 2)  // that a thread reads at a step: two tiles each
#define BATCHES (VECTORS / BATCH)
#define ROW_STRIDE (LANES == 8 ? 8 : LANES + 8)  // words; against conflicts of the banks
#define PARTIAL_WORDS (WARPS * ROWS * ROW_STRIDE)
#define RECEIVED_WORDS (CLUSTER > 1 ? 2 * CLUSTER * OWN_ROWS * LANES : 0)
#define SLOT ((size_t)LANES * HIDDEN)

static_assert(K_BLOCK % WARPS == 0 && K_WARP % 8 == 0, "units do not divide among warps");
static_assert(ROWS % 16 == 0, "rows do not divide into tiles");
static_assert((K_TILES * LANE_TILES) % 2 == 0 && VECTORS % BATCH == 0, "vectors do not divide");

// The unit and the lane, both within the block, of its element number `e`. Numbered as the
// exchange lies, so that the threads of a warp store side by side.
DEVICE void locate(int e, int& unit, int& lane) {
  int half = e & 1, rest = e >> 1, of_pair = 0, pair = 0;
  if (LANE_TILES > 1) {
    of_pair = rest & 1;
    rest >>= 1;
  }
  int thread = rest & 31;
  rest >>= 5;
  if (LANE_TILES > 1) {
    pair = rest % (LANE_TILES / PAIR);
    rest /= LANE_TILES / PAIR;
  }
  unit = rest * 8 + half * 4 + (thread & 3);
  lane = (pair * 2 + of_pair) * 8 + (thread >> 2);
}

// Where h of a unit of the layer and a lane of the team lies in a slot.
DEVICE int place(int unit, int lane) {
  int rank = unit / K_BLOCK, warp = unit % K_BLOCK / K_WARP, k_tile = unit % K_WARP / 8;
  int lane_tile = lane / 8, thread = lane % 8 * 4 + unit % 4, half = unit % 8 / 4;
  int vector = LANE_TILES > 1 ? lane_tile / 2 * K_TILES + k_tile : k_tile / 2;
  int which = LANE_TILES > 1 ? lane_tile % 2 : k_tile % 2;
  return ((rank * WARPS + warp) * VECTORS + vector) * 128 + thread * 4 + which * 2 + half;
}

KERNEL(lstm_forward)
(const int* __restrict__ sizes,              // T, B
 const float* __restrict__ xw,               // TxBx4H, x W + b
 const float* __restrict__ U,                // Hx4H
 const float* __restrict__ h0,               // BxH
 const float* __restrict__ c0,               // BxH
 const unsigned char* __restrict__ resets,   // TxB
 const u32*,                                 // the same memory as `exchange`, all zeros
 float* __restrict__ h,                      // TxBxH
 float* __restrict__ c,                      // TxBxH
 float* __restrict__ gates,                  // TxBx4H, activated
 u32* exchange,                              // [team][slot][place]
 int* __restrict__ failed) {                 // of each block
  wait_for_earlier_kernels();
  const int T = sizes[0], B = sizes[1];
  const int block = BLOCK % TEAM, team = BLOCK / TEAM;
  const int cluster = block / CLUSTER, rank = block % CLUSTER;
  const int warp = THREAD / 32, thread = THREAD % 32;
  const int row = thread / 4, column = thread % 4;  // of a thread in a tile
  float* partial = SHARED;                          // [warp][row][lane]
  float* received = partial + PARTIAL_WORDS;        // [slot][from][own row][lane]
  float* flag = received + RECEIVED_WORDS;
  if (THREAD == 0) flag[0] = 0.f;
  u32* slots = exchange + (size_t)team * 2 * SLOT;
  int gave_up = 0;

  float weights[ROW_TILES][K_TILES][4];
  EACH(m, ROW_TILES) EACH(k, K_TILES) EACH(i, 4) {
    int r = m * 16 + row + (i & 1) * 8;
    int unit = rank * K_BLOCK + warp * K_WARP + k * 8 + column + (i >> 1) * 4;
    int peer = r / OWN_ROWS, gate = r / UNITS % 4, of_peer = r % UNITS;
    int target = (cluster * CLUSTER + peer) * UNITS + of_peer;
    weights[m][k][i] = rounded(U[(size_t)unit * 4 * HIDDEN + (size_t)gate * HIDDEN + target]);
  }

  // The elements that this thread computes: at most OWNED, maybe none.
  bool own[OWNED];
  int unit_in_block[OWNED], lane_in_team[OWNED], unit[OWNED], lane[OWNED], spot[OWNED];
  float cell[OWNED];
  EACH(e, OWNED) {
    int number = THREAD + e * THREADS;
    own[e] = number < UNITS * LANES;
    locate(own[e] ? number : 0, unit_in_block[e], lane_in_team[e]);
    unit[e] = block * UNITS + unit_in_block[e];
    lane[e] = team * LANES + lane_in_team[e];
    spot[e] = place(unit[e], lane_in_team[e]);
    cell[e] = 0.f;
    if (own[e]) {
      size_t at = (size_t)lane[e] * HIDDEN + unit[e];
      cell[e] = c0[at];
      store(slots + spot[e], with_parity(rounded(h0[at]), parity_of(0)));
    }
  }
  sync_block();
  if (CLUSTER > 1) sync_cluster();  // a peer's shared memory exists only once it has started

  for (int t = 0; t < T; t++) {
    // Asked for now, needed after the product.
    float input[OWNED][4];
    bool reset[OWNED];
    EACH(e, OWNED) if (own[e]) {
      size_t at = (size_t)t * B + lane[e];
      reset[e] = resets[at];
      EACH(j, 4) input[e][j] = ask(xw + at * 4 * HIDDEN + (size_t)j * HIDDEN + unit[e]);
    }

    // h_{t-1} U, a warp's share of it. Two batches are on their way at any time.
    const u32* from =
        slots + (t & 1) * SLOT + (size_t)(rank * WARPS + warp) * VECTORS * 128 + thread * 4;
    Vector arriving[2][BATCH];
    EACH(i, BATCH) arriving[0][i] = load(from + i * 128);
    if (BATCHES > 1) EACH(i, BATCH) arriving[1][i] = load(from + (BATCH + i) * 128);
    float sum[ROW_TILES][PAIR][4];
    EACH(b, BATCHES) {
      settle<BATCH, 128>(arriving[b & 1], from + b * BATCH * 128, BATCH, parity_of(t), gave_up);
      EACH(i, BATCH) {
        // A vector has one tile of units for two of lanes, or two of units for the only one.
        const int n = b * BATCH + i;
        const int k = LANE_TILES > 1 ? n % K_TILES : n * 2;
        const int pair = LANE_TILES > 1 ? n / K_TILES : 0;
        const Vector v = arriving[b & 1][i];
        if (k == 0) EACH(m, ROW_TILES) EACH(p, PAIR) EACH(j, 4) sum[m][p][j] = 0.f;
        EACH(m, ROW_TILES) {
          multiply(sum[m][0], weights[m][k], value(v.x), value(v.y));
          multiply(sum[m][PAIR - 1], weights[m][LANE_TILES > 1 ? k : k + 1], value(v.z),
                   value(v.w));
        }
        if (k == K_TILES - (LANE_TILES > 1 ? 1 : 2)) EACH(m, ROW_TILES) EACH(p, PAIR) {
          float* to = partial + ((size_t)warp * ROWS + m * 16 + row) * ROW_STRIDE;
          to += (pair * 2 + p) * 8 + column * 2;
          to[0] = sum[m][p][0];
          to[1] = sum[m][p][1];
          to[8 * ROW_STRIDE] = sum[m][p][2];
          to[8 * ROW_STRIDE + 1] = sum[m][p][3];
        }
      }
      if (b + 2 < BATCHES) {
        EACH(i, BATCH) arriving[b & 1][i] = load(from + ((b + 2) * BATCH + i) * 128);
      }
    }
    sync_block();

    // In a cluster each peer gets the rows of its own units.
    float* box = received + (CLUSTER > 1 ? (t & 1) * CLUSTER * OWN_ROWS * LANES : 0);
    if (CLUSTER > 1) {
      for (int i = THREAD; i < ROWS * LANES; i += THREADS) {
        int r = i / LANES, n = i % LANES;
        float total = 0.f;
        EACH(w, WARPS) total += partial[((size_t)w * ROWS + r) * ROW_STRIDE + n];
        store_at_peer(box + (rank * OWN_ROWS + r % OWN_ROWS) * LANES + n, r / OWN_ROWS, total);
      }
      sync_cluster();
    }

    // The sums have a fixed order, so a second run has the same bits.
    float gate[OWNED][4], out[OWNED];
    EACH(e, OWNED) if (own[e]) {
      float z[4];
      EACH(j, 4) {
        int r = j * UNITS + unit_in_block[e], n = lane_in_team[e];
        float total = 0.f;
        if (CLUSTER == 1) {
          EACH(w, WARPS) total += partial[((size_t)w * ROWS + r) * ROW_STRIDE + n];
        } else {
          EACH(p, CLUSTER) total += box[(p * OWN_ROWS + r) * LANES + n];
        }
        z[j] = input[e][j] + (reset[e] ? 0.f : total);  // (S1), (F1)
      }
      gate[e][0] = sigmoid(z[0]);  // (F2): i f g o
      gate[e][1] = sigmoid(z[1]);
      gate[e][2] = hyperbolic_tangent(z[2]);
      gate[e][3] = sigmoid(z[3]);
      cell[e] = gate[e][1] * (reset[e] ? 0.f : cell[e]) + gate[e][0] * gate[e][2];  // (S1), (F3)
      out[e] = gate[e][3] * hyperbolic_tangent(cell[e]);                            // (F4)
      if (t + 1 < T) {  // to the team at once: all else can wait
        u32* to = slots + ((t + 1) & 1) * SLOT + spot[e];
        store(to, with_parity(rounded(out[e]), parity_of(t + 1)));
      }
    }
    if (CLUSTER == 1) sync_block();  // `partial` is free for the next step; sync_cluster said so

    EACH(e, OWNED) if (own[e]) {
      size_t at = (size_t)t * B + lane[e];
      h[at * HIDDEN + unit[e]] = out[e];
      c[at * HIDDEN + unit[e]] = cell[e];
      EACH(j, 4) gates[at * 4 * HIDDEN + (size_t)j * HIDDEN + unit[e]] = gate[e][j];
    }
  }
  report(failed, flag, gave_up);
}
