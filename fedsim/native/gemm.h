// Products of small matrices that stay in a core's cache. Matrices are rows of whole vectors; the rows of the left one
// are given by pointers, so that a convolution is a product whose rows are windows of the image, never copied.
#pragma once
#include <algorithm>
#include <utility>
#include "vec.h"

// A window: `rows` runs of `run` floats, `stride` apart. A dense layer has one run.
struct Window { int rows, run; int64_t stride; };

constexpr int most_rows(int vectors) { return W == 16 ? (vectors == 1 ? 14 : vectors == 2 ? 12 : 6) : (vectors == 1 ? 6 : vectors == 2 ? 5 : 2); }

enum class Into { store, store_relu, add };

// out[m][n] = start[n] + sum over the window of a[m][k] * b[k][n], for R rows and V vectors of columns.
template <int R, int V, Into into>
static inline void product_tile(const float* const* a, int64_t a_at, Window w, const float* b, int64_t b_row,
                                const float* start, float* const* out, int64_t out_at) {
  vf acc[R][V];
  for (int v = 0; v < V; v++) {
    vf first = start ? load(start + v * W) : vf{};
    for (int i = 0; i < R; i++) acc[i][v] = first;
  }
  for (int r = 0; r < w.rows; r++)
    for (int k = 0; k < w.run; k++) {
      const float* row = b + (int64_t)(r * w.run + k) * b_row;
      vf right[V];
      for (int v = 0; v < V; v++) right[v] = load(row + v * W);
      for (int i = 0; i < R; i++) {
        float left = a[i][a_at + r * w.stride + k];
        for (int v = 0; v < V; v++) acc[i][v] += left * right[v];
      }
    }
  for (int i = 0; i < R; i++)
    for (int v = 0; v < V; v++) {
      float* to = out[i] + out_at + v * W;
      if (into == Into::add) store(to, load(to) + acc[i][v]);
      else store(to, into == Into::store_relu ? positive(acc[i][v]) : acc[i][v]);
    }
}

template <int R, int V, Into into>
static inline void product_rows(int rows, const float* const* a, int64_t a_at, Window w, const float* b, int64_t b_row,
                                const float* start, float* const* out, int64_t out_at) {
  if constexpr (R > 0) {
    if (rows == R) return product_tile<R, V, into>(a, a_at, w, b, b_row, start, out, out_at);
    product_rows<R - 1, V, into>(rows, a, a_at, w, b, b_row, start, out, out_at);
  }
}

template <int V, Into into>
static inline void product_columns(int m, const float* const* a, int64_t a_at, Window w, const float* b, int64_t b_row,
                                   const float* start, float* const* out, int64_t out_at) {
  constexpr int most = most_rows(V);
  int tiles = (m + most - 1) / most, done = 0;
  for (int t = 0; t < tiles; t++) {
    int rows = (m - done + tiles - t - 1) / (tiles - t);
    product_rows<most, V, into>(rows, a + done, a_at, w, b, b_row, start, out + done, out_at);
    done += rows;
  }
}

// out[m] (+)= a[m] * b (+ start), for m rows and `columns` (whole vectors) columns.
template <Into into>
static void product(int m, const float* const* a, int64_t a_at, Window w, const float* b, int64_t b_row,
                    const float* start, float* const* out, int64_t out_at, int columns) {
  int n = 0;
  for (; n + 4 * W <= columns; n += 4 * W)
    product_columns<4, into>(m, a, a_at, w, b + n, b_row, start ? start + n : nullptr, out, out_at + n);
  if (n + 2 * W <= columns) {
    product_columns<2, into>(m, a, a_at, w, b + n, b_row, start ? start + n : nullptr, out, out_at + n);
    n += 2 * W;
  }
  if (n < columns) product_columns<1, into>(m, a, a_at, w, b + n, b_row, start ? start + n : nullptr, out, out_at + n);
}

// g[k][n] (+)= sum over m of a[m][k] * d[m][n], for K rows and V vectors of columns.
template <int K, int V>
static inline void outer_tile(int m, const float* const* a, int64_t a_at, const float* const* d, int64_t n, float* g,
                              int64_t g_row, bool add) {
  vf acc[K][V];
  for (int k = 0; k < K; k++)
    for (int v = 0; v < V; v++) acc[k][v] = vf{};
  for (int i = 0; i < m; i++) {
    const float* left = a[i] + a_at;
    vf right[V];
    for (int v = 0; v < V; v++) right[v] = load(d[i] + n + v * W);
    for (int k = 0; k < K; k++)
      for (int v = 0; v < V; v++) acc[k][v] += left[k] * right[v];
  }
  for (int k = 0; k < K; k++)
    for (int v = 0; v < V; v++) {
      float* to = g + k * g_row + v * W;
      store(to, add ? load(to) + acc[k][v] : acc[k][v]);
    }
}

template <int K, int V>
static inline void outer_rows(int rows, int m, const float* const* a, int64_t a_at, const float* const* d, int64_t n,
                              float* g, int64_t g_row, bool add) {
  if constexpr (K > 0) {
    if (rows == K) return outer_tile<K, V>(m, a, a_at, d, n, g, g_row, add);
    outer_rows<K - 1, V>(rows, m, a, a_at, d, n, g, g_row, add);
  }
}

template <int V>
static inline void outer_columns(int m, const float* const* a, Window w, const float* const* d, int64_t n, float* g,
                                 int64_t g_row, bool add) {
  constexpr int most = most_rows(V);
  int tiles = (w.run + most - 1) / most;
  for (int r = 0; r < w.rows; r++)
    for (int t = 0, done = 0; t < tiles; t++) {
      int rows = (w.run - done + tiles - t - 1) / (tiles - t);
      outer_rows<most, V>(rows, m, a, r * w.stride + done, d, n, g + (int64_t)(r * w.run + done) * g_row, g_row, add);
      done += rows;
    }
}

// g (+)= a^T d over m rows.
static void outer(int m, const float* const* a, Window w, const float* const* d, float* g, int columns, bool add) {
  int n = 0;
  for (; n + 4 * W <= columns; n += 4 * W) outer_columns<4>(m, a, w, d, n, g + n, columns, add);
  if (n + 2 * W <= columns) { outer_columns<2>(m, a, w, d, n, g + n, columns, add); n += 2 * W; }
  if (n < columns) outer_columns<1>(m, a, w, d, n, g + n, columns, add);
}

// g[n] (+)= sum over m of d[m][n].
static void column_sums(int m, const float* const* d, float* g, int columns, bool add) {
  for (int n = 0; n < columns; n += W) {
    vf total = add ? load(g + n) : vf{};
    for (int i = 0; i < m; i++) total += load(d[i] + n);
    store(g + n, total);
  }
}

template <int S, int... I> static inline vf low_blocks(vf a, vf b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I & S ? W + I - S : I)...);
}
template <int S, int... I> static inline vf high_blocks(vf a, vf b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I & S ? W + I : I + S)...);
}
template <int S> static inline void exchange(vf x[W]) {
  if constexpr (S < W) {
    constexpr auto lanes_of = std::make_integer_sequence<int, W>();
    for (int r = 0; r < W; r++)
      if (!(r & S)) {
        vf a = x[r], b = x[r + S];
        x[r] = low_blocks<S>(a, b, lanes_of);
        x[r + S] = high_blocks<S>(a, b, lanes_of);
      }
    exchange<2 * S>(x);
  }
}

// to[c * to_row + r] = put(to[c * to_row + r], from[r * from_row + c]), W x W values in registers at a time.
template <class Put>
static void transpose(const float* from, int64_t from_row, int rows, int columns, float* to, int64_t to_row, Put put) {
  int whole_rows = rows / W * W, whole_columns = columns / W * W;
  for (int c = 0; c < whole_columns; c += W)
    for (int r = 0; r < whole_rows; r += W) {
      vf x[W];
      for (int k = 0; k < W; k++) x[k] = load(from + (r + k) * from_row + c);
      exchange<1>(x);
      for (int k = 0; k < W; k++) { float* p = to + (c + k) * to_row + r; store(p, put(load(p), x[k])); }
    }
  for (int c = 0; c < columns; c++)
    for (int r = c < whole_columns ? whole_rows : 0; r < rows; r++) {
      float* p = to + c * to_row + r;
      *p = put(all(*p), all(from[r * from_row + c]))[0];
    }
}

// Sum of squares in double precision: clip norms are exact to far below what clipping could notice.
static double squares(const float* p, int64_t count) {
  typedef double vd __attribute__((vector_size(8 * W)));
  vd total = {};
  int64_t i = 0;
  for (; i + W <= count; i += W) {
    vd x = __builtin_convertvector(load(p + i), vd);
    total += x * x;
  }
  double rest = 0;
  for (; i < count; i++) rest += (double)p[i] * p[i];
  return rest + summed(total)[0];
}
