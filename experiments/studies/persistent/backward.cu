// The backward pass of an LSTM layer over a whole sequence: (T1), (B1) to (B3) and (T4) of
// `cells.passes` and `cells.lstm`. It gives dz; (B4) and (B5) are large products after it.
//
// A block owns UNITS units and LANES lanes, as in the forward pass. A step: it computes dz of its
// units, multiplies it by its columns of U', which gives a share of dh for every unit of the
// layer, and sends each share to the unit's owner. At the next step the owner adds up the shares
// of the whole team, in a fixed order. In a cluster the blocks put their dz together, and each
// multiplies it for a part of the layer's units. That divides what goes through L2.
//
// The exchange holds a share as the threads of a product have it: [unit / 8][from][unit, lane].

#include "common.cuh"

#define M_BLOCK (HIDDEN / CLUSTER)  // units whose dh a block sends shares of
#define M_WARP (M_BLOCK / WARPS)    // and a warp
#define ROW_TILES (M_WARP / 16)
#define COLUMNS (4 * UNITS * CLUSTER)  // the cluster's: [peer][gate][unit]
#define K_TILES (COLUMNS / 8)
#define DZ_WORDS (COLUMNS * LANES)
#define SHARES (TEAM / CLUSTER)            // that a unit's dh is the sum of
#define SHARE_VECTORS (UNITS * LANES / 4)  // of a share of all units of a block
#define GROUP (8 * LANES)                  // words of a share of eight units
// Threads with the same position add up shares of their own: the ADDERS divide them.
#define ADDERS (THREADS / SHARE_VECTORS < SHARES ? THREADS / SHARE_VECTORS : SHARES)
#define SHARES_EACH ((SHARES + ADDERS - 1) / ADDERS)
#define BATCHES ((SHARES_EACH + BATCH - 1) / BATCH)
#define STEP_WORDS (ADDERS * GROUP)  // from a share of an adder to its next
#define SLOT ((size_t)HIDDEN * SHARES * LANES)

static_assert(M_BLOCK % WARPS == 0 && M_WARP % 16 == 0, "units do not divide among warps");
static_assert(THREADS >= SHARE_VECTORS, "too few threads for a share");

KERNEL(lstm_backward)
(const int* __restrict__ sizes,             // T, B
 const float* __restrict__ gates,           // TxBx4H, activated
 const float* __restrict__ c,               // TxBxH
 const float* __restrict__ c0,              // BxH
 const float* __restrict__ U,               // Hx4H
 const float* __restrict__ e_TxBxH,         // what arrives at the outputs
 const float* __restrict__ dh_final,        // BxH
 const float* __restrict__ dc_final,        // BxH
 const unsigned char* __restrict__ resets,  // TxB
 const u32*,                                // the same memory as `exchange`, all zeros
 float* __restrict__ dz,                    // TxBx4H
 float* __restrict__ dh0,                   // BxH
 float* __restrict__ dc0,                   // BxH
 u32* exchange,                             // [team][slot][unit / 8][from][unit, lane]
 int* __restrict__ failed) {                // of each block
  wait_for_earlier_kernels();
  const int T = sizes[0], B = sizes[1];
  const int block = BLOCK % TEAM, team = BLOCK / TEAM;
  const int cluster = block / CLUSTER, rank = block % CLUSTER;
  const int warp = THREAD / 32, thread = THREAD % 32;
  const int row = thread / 4, column = thread % 4;  // of a thread in a tile
  float* added = SHARED;                            // [adder][unit, lane]
  float* dz_tiles = added + ADDERS * UNITS * LANES;
  float* flag = dz_tiles + (CLUSTER > 1 ? 2 : 1) * DZ_WORDS;
  if (THREAD == 0) flag[0] = 0.f;
  u32* slots = exchange + (size_t)team * 2 * SLOT;
  int gave_up = 0;

  float weights[ROW_TILES][K_TILES][4];
  EACH(m, ROW_TILES) EACH(k, K_TILES) EACH(i, 4) {
    int target = rank * M_BLOCK + warp * M_WARP + m * 16 + row + (i & 1) * 8;
    int col = k * 8 + column + (i >> 1) * 4;
    int peer = col / (4 * UNITS), gate = col / UNITS % 4, of_peer = col % UNITS;
    int unit = (cluster * CLUSTER + peer) * UNITS + of_peer;
    weights[m][k][i] = rounded(U[(size_t)target * 4 * HIDDEN + (size_t)gate * HIDDEN + unit]);
  }

  // The elements that this thread computes: at most OWNED, maybe none.
  bool own[OWNED], was_reset[OWNED];
  int unit[OWNED], lane[OWNED];
  int spot[OWNED];  // in a sum of shares
  int tile[OWNED];  // in the tiles of dz, of gate 0
  float dh[OWNED], dc[OWNED];
  EACH(e, OWNED) {
    int number = THREAD + e * THREADS;
    own[e] = number < UNITS * LANES;
    if (!own[e]) number = 0;
    int eight = number / GROUP, of_eight = number % 8, lane_in_team = number / 8 % LANES;
    int lane_tile = lane_in_team / 8, of_tile = lane_in_team % 8;
    unit[e] = block * UNITS + eight * 8 + of_eight;
    lane[e] = team * LANES + lane_in_team;
    int holder = of_eight * 4 + of_tile / 2;  // the thread that has it in a product's tile
    if (LANE_TILES > 1) {
      spot[e] = ((lane_tile / 2 * 32 + holder) * 2 + lane_tile % 2) * 2 + of_tile % 2;
    } else {
      spot[e] = holder * 2 + of_tile % 2;
    }
    spot[e] += eight * GROUP;
    tile[e] = ((rank * 4 * (UNITS / 8) + eight) * LANE_TILES + lane_tile) * 64;
    tile[e] += (of_tile * 4 + of_eight % 4) * 2 + of_eight / 4;
    size_t at = (size_t)lane[e] * HIDDEN + unit[e];
    dh[e] = own[e] ? dh_final[at] : 0.f;
    dc[e] = own[e] ? dc_final[at] : 0.f;
    was_reset[e] = false;
  }
  const int position = THREAD % SHARE_VECTORS, adder = THREAD / SHARE_VECTORS;
  const int shares = adder < ADDERS ? (SHARES - adder + ADDERS - 1) / ADDERS : 0;
  const size_t eight_of_layer = block * (UNITS / 8) + position / (GROUP / 4);
  const u32* own_shares =
      slots + (eight_of_layer * SHARES + adder) * GROUP + position % (GROUP / 4) * 4;
  sync_block();
  if (CLUSTER > 1) sync_cluster();  // a peer's shared memory exists only once it has started

  for (int n = 0; n <= T; n++) {  // the last round only adds up dh of the initial state
    const int t = T - 1 - n;
    // Asked for now, needed after the wait for the other blocks.
    float gate[OWNED][4], cell[OWNED], cell_before[OWNED], e_t[OWNED];
    bool reset[OWNED];
    EACH(e, OWNED) if (own[e] && t >= 0) {
      size_t at = (size_t)t * B + lane[e];
      reset[e] = resets[at];
      EACH(j, 4) gate[e][j] = ask(gates + at * 4 * HIDDEN + (size_t)j * HIDDEN + unit[e]);
      cell[e] = ask(c + at * HIDDEN + unit[e]);
      e_t[e] = ask(e_TxBxH + at * HIDDEN + unit[e]);
      cell_before[e] = ask(t > 0 ? c + (at - B) * HIDDEN + unit[e]
                                 : c0 + (size_t)lane[e] * HIDDEN + unit[e]);
    }

    if (n > 0) {  // dz U' of step t + 1: the sum of all shares. Two batches are on their way.
      const u32* from = own_shares + ((n - 1) & 1) * SLOT;
      Vector arriving[2][BATCH];
      float sum[4] = {0.f, 0.f, 0.f, 0.f};
      EACH(i, BATCH) if (i < shares) arriving[0][i] = load(from + (size_t)i * STEP_WORDS);
      if (BATCHES > 1) EACH(i, BATCH) if (BATCH + i < shares) {
        arriving[1][i] = load(from + (size_t)(BATCH + i) * STEP_WORDS);
      }
      EACH(b, BATCHES) {
        settle<BATCH, STEP_WORDS>(arriving[b & 1], from + (size_t)b * BATCH * STEP_WORDS,
                                  shares - b * BATCH, parity_of(n - 1), gave_up);
        EACH(i, BATCH) if (b * BATCH + i < shares) {
          const Vector v = arriving[b & 1][i];
          sum[0] += value(v.x);
          sum[1] += value(v.y);
          sum[2] += value(v.z);
          sum[3] += value(v.w);
        }
        if (b + 2 < BATCHES) EACH(i, BATCH) if ((b + 2) * BATCH + i < shares) {
          arriving[b & 1][i] = load(from + (size_t)((b + 2) * BATCH + i) * STEP_WORDS);
        }
      }
      if (adder < ADDERS) {
        float* to = added + adder * UNITS * LANES + position * 4;
        EACH(j, 4) to[j] = sum[j];
      }
      sync_block();
      EACH(e, OWNED) if (own[e]) {
        float total = 0.f;
        EACH(k, ADDERS) total += added[k * UNITS * LANES + spot[e]];
        dh[e] = was_reset[e] ? 0.f : total;  // (B3), (T4)
      }
    }
    if (t < 0) break;

    float* tiles = dz_tiles + (CLUSTER > 1 ? (n & 1) * DZ_WORDS : 0);
    float dz_t[OWNED][4];
    EACH(e, OWNED) if (own[e]) {
      const float i = gate[e][0], f = gate[e][1], g = gate[e][2], o = gate[e][3];
      const float tanh_c = hyperbolic_tangent(cell[e]);
      const float before = reset[e] ? 0.f : cell_before[e];           // (S1)
      const float dh_t = e_t[e] + dh[e];                              // (T1)
      const float dc_t = dh_t * o * (1.f - tanh_c * tanh_c) + dc[e];  // (B1)
      dz_t[e][0] = dc_t * g * i * (1.f - i);                          // (B2)
      dz_t[e][1] = dc_t * before * f * (1.f - f);
      dz_t[e][2] = dc_t * i * (1.f - g * g);
      dz_t[e][3] = dh_t * tanh_c * o * (1.f - o);
      dc[e] = reset[e] ? 0.f : dc_t * f;  // (B3), (T4)
      was_reset[e] = reset[e];
      EACH(j, 4) {
        float x = rounded(dz_t[e][j]);
        float* to = tiles + tile[e] + j * (UNITS / 8) * LANE_TILES * 64;
        if (CLUSTER == 1) {
          *to = x;
        } else {
          EACH(p, CLUSTER) store_at_peer(to, p, x);
        }
      }
    }
    if (CLUSTER == 1) {
      sync_block();
    } else {
      sync_cluster();
    }

    // dz U', (B3): a share for every unit of this block's part, sent to its owner.
    const u32 parity = parity_of(n);
    const size_t first_eight = (rank * M_BLOCK + warp * M_WARP) / 8;
    u32* to_owners = slots + (n & 1) * SLOT + (first_eight * SHARES + cluster) * GROUP;
    EACH(pair, (LANE_TILES + 1) / 2) {
      float b[K_TILES][PAIR][2];
      EACH(k, K_TILES) EACH(p, PAIR) {
        const float* from = tiles + (k * LANE_TILES + pair * 2 + p) * 64 + thread * 2;
        b[k][p][0] = from[0];
        b[k][p][1] = from[1];
      }
      EACH(m, ROW_TILES) {
        float d[PAIR][4];
        EACH(p, PAIR) {
          EACH(j, 4) d[p][j] = 0.f;
          EACH(k, K_TILES) multiply(d[p], weights[m][k], b[k][p][0], b[k][p][1]);
        }
        EACH(half, 2) {  // a tile has sixteen units: twice eight
          u32* to = to_owners + (size_t)(m * 2 + half) * SHARES * GROUP;
          u32 first[2], last[2];
          EACH(j, 2) {
            first[j] = with_parity(d[0][half * 2 + j], parity);
            last[j] = with_parity(d[PAIR - 1][half * 2 + j], parity);
          }
          if (LANE_TILES > 1) {
            store(to + (pair * 32 + thread) * 4, first[0], first[1], last[0], last[1]);
          } else {
            store(to + thread * 2, first[0], first[1]);
          }
        }
      }
    }

    EACH(e, OWNED) if (own[e]) {
      size_t at = (size_t)t * B + lane[e];
      EACH(j, 4) dz[at * 4 * HIDDEN + (size_t)j * HIDDEN + unit[e]] = dz_t[e][j];
    }
  }
  EACH(e, OWNED) if (own[e]) {
    size_t at = (size_t)lane[e] * HIDDEN + unit[e];
    dh0[at] = dh[e];
    dc0[at] = dc[e];
  }
  report(failed, flag, gave_up);
}
