// ChaCha (RFC 8439, with fewer rounds where nothing is to be protected) 16 blocks at a time, one in each lane, and normals of its words (see privacy/keystream.py).
#pragma once
#include "vec.h"

struct Address { uint32_t key[8], nonce[3], rounds; };

constexpr int LANES = 16, PAIRS = 5, GROUP_NORMALS = LANES * PAIRS * 2;
typedef uint32_t lanes __attribute__((vector_size(4 * LANES)));
typedef float lanes_f __attribute__((vector_size(4 * LANES)));

static inline lanes rotated(lanes v, int by) { return (v << by) | (v >> (32 - by)); }

#define QUARTER(a, b, c, d)                             \
  a += b; d ^= a; d = rotated(d, 16); c += d; b ^= c; b = rotated(b, 12); \
  a += b; d ^= a; d = rotated(d, 8);  c += d; b ^= c; b = rotated(b, 7);

// Words of blocks counter to counter + 15: word i of block counter + l is out[i][l].
static inline void chacha_blocks(const Address& at, uint32_t counter, lanes out[16]) {
  lanes zero = {};
  const lanes number = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  lanes in[16] = {zero + 0x61707865u, zero + 0x3320646eu, zero + 0x79622d32u, zero + 0x6b206574u};
  for (int i = 0; i < 8; i++) in[4 + i] = zero + at.key[i];
  in[12] = number + counter;
  for (int i = 0; i < 3; i++) in[13 + i] = zero + at.nonce[i];
  lanes x0 = in[0], x1 = in[1], x2 = in[2], x3 = in[3], x4 = in[4], x5 = in[5], x6 = in[6], x7 = in[7];
  lanes x8 = in[8], x9 = in[9], x10 = in[10], x11 = in[11], x12 = in[12], x13 = in[13], x14 = in[14], x15 = in[15];
  for (uint32_t i = 0; i < at.rounds; i += 2) {
    QUARTER(x0, x4, x8, x12) QUARTER(x1, x5, x9, x13) QUARTER(x2, x6, x10, x14) QUARTER(x3, x7, x11, x15)
    QUARTER(x0, x5, x10, x15) QUARTER(x1, x6, x11, x12) QUARTER(x2, x7, x8, x13) QUARTER(x3, x4, x9, x14)
  }
  out[0] = x0 + in[0]; out[1] = x1 + in[1]; out[2] = x2 + in[2]; out[3] = x3 + in[3];
  out[4] = x4 + in[4]; out[5] = x5 + in[5]; out[6] = x6 + in[6]; out[7] = x7 + in[7];
  out[8] = x8 + in[8]; out[9] = x9 + in[9]; out[10] = x10 + in[10]; out[11] = x11 + in[11];
  out[12] = x12 + in[12]; out[13] = x13 + in[13]; out[14] = x14 + in[14]; out[15] = x15 + in[15];
}

// The first words at an address in the order of the key stream; room for whole groups of 256 words.
static inline void chacha_words(const Address& at, int64_t count, uint32_t* words) {
  lanes block[16];
  for (int64_t done = 0; done < count; done += 16 * LANES) {
    chacha_blocks(at, (uint32_t)(done / 16), block);
    for (int lane = 0; lane < LANES; lane++)
      for (int i = 0; i < 16; i++) words[done + 16 * lane + i] = block[i][lane];
  }
}

// ln(x) for normal positive x, to 1e-7 relative.
template <class F, class U> static inline F logarithm_f(F x) {
  U bits; memcpy(&bits, &x, sizeof bits);
  bits -= 0x3f3504f3u;  // sqrt(1/2): the mantissa comes to [sqrt(1/2), sqrt(2))
  typedef int32_t signed_lanes __attribute__((vector_size(sizeof(U))));
  signed_lanes exponent; memcpy(&exponent, &bits, sizeof exponent);
  exponent >>= 23;
  bits = (bits & 0x007fffffu) + 0x3f3504f3u;
  F m; memcpy(&m, &bits, sizeof m);
  F s = (m - 1.0f) / (m + 1.0f), z = s * s;
  F p = 2.0f * s * (1.0f + z * (1.0f / 3 + z * (1.0f / 5 + z * (1.0f / 7 + z * (1.0f / 9)))));
  F e = __builtin_convertvector(exponent, F);
  return p + e * 0.693147182f;
}

// In single precision: enough for a simulation, whose noise anybody can repeat.
static inline void normals_of_group(const lanes block[16], float* out) {
  for (int p = 0; p < PAIRS; p++) {
    typedef int32_t signed_lanes __attribute__((vector_size(4 * LANES)));
    lanes_f high = __builtin_convertvector(block[3 * p], lanes_f), low = __builtin_convertvector(block[3 * p + 1], lanes_f);
    lanes_f u = high * 0x1p-32f + (low + 0.5f) * 0x1p-64f;
    lanes_f square = -2.0f * logarithm_f<lanes_f, lanes>(u);
    // Above 1 - 2^-25 the sum rounds to 1, whose logarithm is 0.
    square = square > 0.0f ? square : square * 0.0f;
    lanes_f radius;
    for (int l = 0; l < LANES; l++) radius[l] = __builtin_sqrtf(square[l]);
    signed_lanes turn_bits; memcpy(&turn_bits, &block[3 * p + 2], sizeof turn_bits);
    lanes_f turn = __builtin_convertvector(turn_bits, lanes_f) * 0x1p-32f;  // in [-1/2, 1/2]
    lanes_f size = turn < 0.0f ? -turn : turn;
    lanes_f x = (0.25f - size) * 6.28318531f, xx = x * x;                     // cos(2 pi t) = sin(2 pi (1/4 - |t|))
    lanes_f cosine = x * (1.0f + xx * (-0.166666667f + xx * (8.33333333e-3f + xx * (-1.98412698e-4f + xx * (2.75573192e-6f - xx * 2.50521084e-8f)))));
    lanes_f y = (size > 0.25f ? 0.5f - size : size) * 6.28318531f, yy = y * y;
    lanes_f sine = y * (1.0f + yy * (-0.166666667f + yy * (8.33333333e-3f + yy * (-1.98412698e-4f + yy * (2.75573192e-6f - yy * 2.50521084e-8f)))));
    sine = turn < 0.0f ? -sine : sine;
    lanes_f first = radius * cosine, second = radius * sine;
    memcpy(out + 2 * p * LANES, &first, sizeof first);
    memcpy(out + (2 * p + 1) * LANES, &second, sizeof second);
  }
}

// In double precision: for noise that protects somebody.
static inline void normals_of_group(const lanes block[16], double* out) {
  for (int p = 0; p < PAIRS; p++)
    for (int l = 0; l < LANES; l++) {
      double u = ((double)block[3 * p][l] * 0x1p32 + (double)block[3 * p + 1][l] + 0.5) * 0x1p-64;
      double radius = std::sqrt(-2.0 * std::log(u)), turn = block[3 * p + 2][l] * (2 * M_PI * 0x1p-32);
      out[2 * p * LANES + l] = radius * std::cos(turn);
      out[(2 * p + 1) * LANES + l] = radius * std::sin(turn);
    }
}

// The first standard normals at an address; room for whole groups of 160.
template <class Real> static inline void normals(const Address& at, int64_t count, Real* out) {
  lanes block[16];
  for (int64_t group = 0; group * GROUP_NORMALS < count; group++) {
    chacha_blocks(at, (uint32_t)(group * LANES), block);
    normals_of_group(block, out + group * GROUP_NORMALS);
  }
}
