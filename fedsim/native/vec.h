// Vectors of W floats by compiler extension (gcc, clang): the widest that the machine has.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float vf __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), aligned(4), may_alias));

static inline vf load(const float* p) { return *(const vf*)p; }
static inline void store(float* p, vf v) { *(vf*)p = v; }
static inline vf all(float x) { return x - vf{}; }
static inline vf larger(vf a, vf b) { return a > b ? a : b; }
static inline vf positive(vf a) { return a < 0.0f ? vf{} : a; }  // relu; NaN stays NaN, as in torch
static inline int padded(int n) { return (n + W - 1) / W * W; }

// The same vector with lanes S apart exchanged.
template <int S, class V, int... I> static inline V swapped(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (I ^ S)...);
}
template <int S = W / 2, class V> static inline V summed(V v) {  // every lane the sum of all
  if constexpr (S > 0) return summed<S / 2>(v + swapped<S>(v, std::make_integer_sequence<int, W>()));
  else return v;
}
template <int S = W / 2> static inline vf largest(vf v) {  // every lane the largest of all; NaN if one is
  if constexpr (S > 0) {
    vf other = swapped<S>(v, std::make_integer_sequence<int, W>());
    return largest<S / 2>(other > v || other != other ? other : v);
  } else return v;
}

static inline vf from_bits(vi v) { vf f; memcpy(&f, &v, sizeof f); return f; }
static inline vi to_bits(vf f) { vi v; memcpy(&v, &f, sizeof v); return v; }

// e^x to 2e-7 relative, by 2^n e^r with |r| <= ln(2) / 2; below -87 it is e^-87.
static inline vf exponential(vf x) {
  x = larger(x, all(-87.0f));
  x = x > 88.0f ? all(88.0f) : x;
  vf shifted = x * 1.44269504f + 12582912.0f;  // rounds to a whole number in the lowest bits
  vf n = shifted - 12582912.0f;
  vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vf p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * from_bits((to_bits(shifted) - 0x4B400000 + 127) << 23);
}
