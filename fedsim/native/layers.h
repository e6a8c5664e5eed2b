// Layers of a chain, each forward and backward for the examples of one batch of one client.
//
// Images lie [height][width][channels], channels padded to whole vectors and padding always zero, with a border of
// zeros as wide as the convolution that reads them wants. A layer's parameters lie in one flat vector in an order of
// their own; `places` says where each of torch's parameters is in it.
#pragma once
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>
#include "gemm.h"

struct Buffer {  // aligned floats, zero at first
  float* data = nullptr;
  Buffer() = default;
  explicit Buffer(int64_t count) { allocate(count); }
  Buffer(Buffer&& other) noexcept { std::swap(data, other.data); }
  Buffer(const Buffer&) = delete;
  ~Buffer() { free(data); }
  void allocate(int64_t count) {
    int64_t bytes = (4 * (count + 2 * W) + 63) / 64 * 64;
    free(data);
    data = (float*)aligned_alloc(64, bytes);
    if (!data) throw std::bad_alloc();
    memset(data, 0, bytes);
  }
};

// The values between two layers, for every example of a batch: `a` activations, `g` gradients.
struct Values {
  int channels, height, width, stride, border_h = 0, border_w = 0;  // stride: floats from pixel to pixel
  Buffer a, g;
  bool relu = false, mask = false;  // whoever writes it applies relu, and masks the gradient
  Values(int c, int h, int w, bool pad) : channels(c), height(h), width(w), stride(pad ? padded(c) : c) {}
  int64_t row() const { return (int64_t)(width + 2 * border_w) * stride; }
  int64_t size() const { return row() * (height + 2 * border_h); }
  int64_t at(int y, int x) const { return (y + border_h) * row() + (int64_t)(x + border_w) * stride; }
  void allocate(int examples) { a.allocate(size() * examples); g.allocate(size() * examples); }
  float* act(int b) const { return a.data + b * size(); }
  float* grad(int b) const { return g.data + b * size(); }
  template <class F> void each(F f) const {  // every real value: torch's number and the place here
    for (int c = 0, i = 0; c < channels; c++)
      for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) f(i++, at(y, x) + c);
  }
};

struct Step {  // what the layers of a batch share
  float* weights;            // this client's parameters
  float* gradient;           // of the same layout
  const uint32_t* dropped;   // random words, `dropped_row` for each example; null in a model without dropout
  int64_t dropped_row;
};

typedef std::vector<int> Chosen;  // numbers of examples

struct Layer {
  Values *in = nullptr, *out = nullptr;
  bool first = false;  // nobody needs the gradient of the data
  virtual ~Layer() = default;
  virtual void prepare(int /*examples*/, bool /*per_example*/) {}
  virtual void forward(const Step&, int n) = 0;
  virtual void backward(const Step&, int n) = 0;  // out->g to in->g
  virtual void norms(const Step&, int /*n*/, double* /*squares*/) {}
  // gradient (+)= sum over the chosen examples of factors[b] times its gradient; factors null: all are 1.
  virtual void collect(const Step&, const Chosen&, const float* /*factors*/, bool /*add*/) {}
};

static inline void mask_by_sign(float* g, const float* a, int64_t count) {
  for (int64_t i = 0; i < count; i += W) store(g + i, load(a + i) <= 0.0f ? vf{} : load(g + i));
}

static inline void scale(float* p, int64_t count, float by) {
  for (int64_t i = 0; i < count; i++) p[i] *= by;
}

struct Dense : Layer {
  static constexpr int BLOCK = 256;
  int inputs, outputs, columns;
  int64_t weight, bias;  // bias -1: none
  std::vector<const float*> rows, grads, chosen_rows;
  std::vector<float*> outs, ins;
  std::vector<const float*> chosen_grads;
  Buffer turned;
  void prepare(int examples, bool) override {
    inputs = (int)in->size();
    columns = padded(outputs);
    rows.resize(examples);
    for (int b = 0; b < examples; b++) {
      rows[b] = in->act(b);
      outs.push_back(out->act(b)); ins.push_back(in->grad(b)); grads.push_back(out->grad(b));
    }
    if (!first) turned.allocate((int64_t)BLOCK * columns);
  }
  Window window() const { return {1, inputs, 0}; }
  void forward(const Step& s, int n) override {
    const float* start = bias < 0 ? nullptr : s.weights + bias;
    auto run = out->relu ? product<Into::store_relu> : product<Into::store>;
    run(n, rows.data(), 0, window(), s.weights + weight, columns, start, outs.data(), 0, columns);
  }
  void backward(const Step& s, int n) override {
    if (out->mask) mask_by_sign(out->g.data, out->a.data, n * out->size());
    if (first) return;
    for (int k = 0; k < inputs; k += BLOCK) {  // so that what is turned is still in the cache
      int rows = std::min(BLOCK, inputs - k);
      transpose(s.weights + weight + (int64_t)k * columns, columns, rows, columns, turned.data, BLOCK,
                [](vf, vf x) { return x; });
      product<Into::store>(n, grads.data(), 0, {1, outputs, 0}, turned.data, BLOCK, nullptr, ins.data(), k, rows);
    }
  }
  void norms(const Step&, int n, double* total) override {
    for (int b = 0; b < n; b++)
      total[b] += squares(out->grad(b), columns) * (squares(rows[b], inputs) + (bias >= 0));
  }
  void collect(const Step& s, const Chosen& chosen, const float* factors, bool add) override {
    chosen_rows.clear(); chosen_grads.clear();
    for (int b : chosen) {
      if (factors) scale(out->grad(b), columns, factors[b]);
      chosen_rows.push_back(rows[b]); chosen_grads.push_back(out->grad(b));
    }
    int n = (int)chosen.size();
    outer(n, chosen_rows.data(), window(), chosen_grads.data(), s.gradient + weight, columns, add);
    if (bias >= 0) column_sums(n, chosen_grads.data(), s.gradient + bias, columns, add);
  }
};

struct Conv : Layer {
  int kernel_h, kernel_w, stride_h, stride_w, columns, pixels;
  int64_t weight, bias;
  std::vector<const float*> windows, grads;
  std::vector<float*> outs, ins;
  Buffer turned, own;  // own: every example's gradient, weights then bias
  Window window() const { return {kernel_h, kernel_w * in->stride, in->row()}; }
  int64_t depth() const { return (int64_t)kernel_h * kernel_w * in->stride; }
  int64_t own_size() const { return (depth() + 1) * columns; }
  void prepare(int examples, bool per_example) override {
    columns = padded(out->channels);
    pixels = out->height * out->width;
    for (int b = 0; b < examples; b++)
      for (int y = 0; y < out->height; y++)
        for (int x = 0; x < out->width; x++) {
          int64_t from = in->at(y * stride_h, x * stride_w) - in->at(0, 0), to = out->at(y, x);
          windows.push_back(in->act(b) + from); ins.push_back(in->grad(b) + from);
          outs.push_back(out->act(b) + to); grads.push_back(out->grad(b) + to);
        }
    if (!first) turned.allocate(depth() * columns);
    if (per_example) own.allocate(own_size() * examples);
  }
  void forward(const Step& s, int n) override {
    const float* start = bias < 0 ? nullptr : s.weights + bias;
    auto run = out->relu ? product<Into::store_relu> : product<Into::store>;
    run(n * pixels, windows.data(), 0, window(), s.weights + weight, columns, start, outs.data(), 0, columns);
  }
  void backward(const Step& s, int n) override {
    if (out->mask) mask_by_sign(out->g.data, out->a.data, n * out->size());
    if (first) return;
    transpose(s.weights + weight, columns, (int)depth(), columns, turned.data, depth(), [](vf, vf x) { return x; });
    memset(in->g.data, 0, 4 * n * in->size());
    Window w = window();
    for (int b = 0; b < n; b++)
      for (int r = 0; r < w.rows; r++)
        product<Into::add>(pixels, grads.data() + b * pixels, 0, {1, out->channels, 0}, turned.data + r * w.run,
                           depth(), nullptr, ins.data() + b * pixels, r * w.stride, w.run);
  }
  void one(int b, float* to_weight, float* to_bias, bool add) {
    outer(pixels, windows.data() + b * pixels, window(), grads.data() + b * pixels, to_weight, columns, add);
    if (bias >= 0) column_sums(pixels, grads.data() + b * pixels, to_bias, columns, add);
  }
  void norms(const Step&, int n, double* total) override {
    for (int b = 0; b < n; b++) {
      float* mine = own.data + b * own_size();
      one(b, mine, mine + depth() * columns, false);
      total[b] += squares(mine, (depth() + (bias >= 0)) * columns);
    }
  }
  void collect(const Step& s, const Chosen& chosen, const float* factors, bool add) override {
    if (!factors) {
      for (int b : chosen) { one(b, s.gradient + weight, s.gradient + bias, add); add = true; }
      return;
    }
    combine(s.gradient + weight, own.data, depth() * columns, chosen, factors, add);
    if (bias >= 0) combine(s.gradient + bias, own.data + depth() * columns, columns, chosen, factors, add);
  }
  void combine(float* to, const float* from, int64_t count, const Chosen& chosen, const float* factors, bool add) {
    for (int64_t i = 0; i < count; i += W) {
      vf total = add ? load(to + i) : vf{};
      for (int b : chosen) total += factors[b] * load(from + b * own_size() + i);
      store(to + i, total);
    }
  }
};

struct MaxPool : Layer {
  int kernel_h, kernel_w, stride_h, stride_w;
  std::vector<int32_t> winner;
  bool relu = false;  // what it pools had relu applied: a maximum of 0 passes no gradient
  int64_t count() const { return (int64_t)out->height * out->width * out->stride; }
  void prepare(int examples, bool) override { winner.resize(count() * examples + W); }
  template <class F> void windows(F f) {
    int64_t k = 0;
    for (int y = 0; y < out->height; y++)
      for (int x = 0; x < out->width; x++)
        for (int c = 0; c < out->stride; c += W, k += W) f(in->at(y * stride_h, x * stride_w) + c, out->at(y, x) + c, k);
  }
  void forward(const Step&, int n) override {
    for (int b = 0; b < n; b++) {
      const float* from = in->act(b); float* to = out->act(b); int32_t* code = winner.data() + b * count();
      windows([&](int64_t i, int64_t o, int64_t k) {
        vf best = load(from + i); vi which = {};
        for (int t = 1; t < kernel_h * kernel_w; t++) {
          vf other = load(from + i + (t / kernel_w) * in->row() + (t % kernel_w) * in->stride);
          vi more = other > best || other != other;  // torch lets NaN win
          best = more ? other : best;
          which = more ? vi{} + t : which;
        }
        store(to + o, best);
        memcpy(code + k, &which, sizeof which);
      });
    }
  }
  void backward(const Step&, int n) override {
    memset(in->g.data, 0, 4 * n * in->size());
    for (int b = 0; b < n; b++) {
      float* to = in->grad(b); const float *from = out->grad(b), *pooled = out->act(b);
      const int32_t* code = winner.data() + b * count();
      windows([&](int64_t i, int64_t o, int64_t k) {
        vi which; memcpy(&which, code + k, sizeof which);
        vf g = load(from + o);
        if (relu) g = load(pooled + o) <= 0.0f ? vf{} : g;
        for (int t = 0; t < kernel_h * kernel_w; t++) {
          float* p = to + i + (t / kernel_w) * in->row() + (t % kernel_w) * in->stride;
          store(p, load(p) + (which == t ? g : vf{}));
        }
      });
    }
  }
};

struct Activate : Layer {
  enum Function { relu, tanh, sigmoid, gelu } function;
  template <class F> void pixels(int n, F f) {
    for (int b = 0; b < n; b++)
      for (int y = 0; y < in->height; y++)
        for (int x = 0; x < in->width; x++)
          for (int c = 0; c < in->channels; c++) f(b, in->at(y, x) + c, out->at(y, x) + c);
  }
  void forward(const Step&, int n) override {
    pixels(n, [&](int b, int64_t i, int64_t o) {
      float x = in->act(b)[i];
      out->act(b)[o] = function == relu ? (x < 0 ? 0 : x) : function == tanh ? std::tanh(x)
                     : function == sigmoid ? 1 / (1 + std::exp(-x)) : 0.5f * x * (1 + std::erf(x * 0.707106781f));
    });
  }
  void backward(const Step&, int n) override {
    pixels(n, [&](int b, int64_t i, int64_t o) {
      float x = in->act(b)[i], y = out->act(b)[o];
      float slope = function == relu ? !(y <= 0) : function == tanh ? 1 - y * y : function == sigmoid ? y * (1 - y)
                  : 0.5f * (1 + std::erf(x * 0.707106781f)) + x * 0.398942280f * std::exp(-0.5f * x * x);
      in->grad(b)[i] = out->grad(b)[o] * slope;
    });
  }
};

struct Drop : Layer {
  uint32_t below;  // words below this drop their value
  float kept;      // 1 / (1 - p)
  int64_t words_at;
  std::vector<int32_t> at;  // where torch's values are
  Buffer factors;           // 0 or `kept`, laid out as the values are
  void prepare(int examples, bool) override {
    out->each([&](int, int64_t o) { at.push_back((int32_t)o); });
    factors.allocate(out->size() * examples);
  }
  void forward(const Step& s, int n) override {
    for (int b = 0; b < n; b++) {
      const uint32_t* words = s.dropped + b * s.dropped_row + words_at;
      float* to = factors.data + b * out->size();
      for (size_t e = 0; e < at.size(); e++) to[at[e]] = words[e] >= below ? kept : 0.0f;
      multiply(in->act(b), to, out->act(b));
    }
  }
  void backward(const Step&, int n) override {
    for (int b = 0; b < n; b++) multiply(out->grad(b), factors.data + b * out->size(), in->grad(b));
  }
  void multiply(const float* a, const float* b, float* to) {
    for (int64_t i = 0; i < out->size(); i += W) store(to + i, load(a + i) * load(b + i));
  }
};

struct Flatten : Layer {  // from an image to a vector in torch's order
  template <class F> void each(F f) {
    for (int y = 0; y < in->height; y++)
      for (int x = 0; x < in->width; x++) {
        int64_t from = in->at(y, x), to = (int64_t)y * in->width + x, plane = (int64_t)in->height * in->width;
        for (int c = 0; c < in->channels; c++) f(from + c, to + c * plane);
      }
  }
  void forward(const Step&, int n) override {
    for (int b = 0; b < n; b++) each([a = in->act(b), to = out->act(b)](int64_t i, int64_t o) { to[o] = a[i]; });
  }
  void backward(const Step&, int n) override {
    for (int b = 0; b < n; b++) each([to = in->grad(b), g = out->grad(b)](int64_t i, int64_t o) { to[i] = g[o]; });
  }
};

struct Norm : Layer {  // group normalisation; `whole` scales every value instead of every channel
  int groups;
  float epsilon;
  bool whole;
  int64_t weight, bias, count;  // -1: none
  Buffer normal, own;           // normalised values, and every example's gradient: scale, then shift
  std::vector<float> inverse;
  int64_t places() const { return whole ? out->size() : out->stride; }
  int64_t place(int64_t at, int c) const { return whole ? at : c; }
  void prepare(int examples, bool) override {
    normal.allocate(out->size() * examples);
    own.allocate(2 * places() * examples);
    inverse.resize(groups * examples);
    count = (int64_t)in->channels / groups * in->height * in->width;
  }
  template <class F> void each(int group, F f) {
    int per = in->channels / groups;
    for (int y = 0; y < in->height; y++)
      for (int x = 0; x < in->width; x++)
        for (int c = group * per; c < (group + 1) * per; c++) f(in->at(y, x) + c, out->at(y, x) + c, c);
  }
  void forward(const Step& s, int n) override {
    for (int b = 0; b < n; b++)
      for (int group = 0; group < groups; group++) {
        const float* from = in->act(b); float *to = out->act(b), *unit = normal.data + b * out->size();
        double mean = 0, variance = 0;
        each(group, [&](int64_t i, int64_t, int) { mean += from[i]; });
        mean /= count;
        each(group, [&](int64_t i, int64_t, int) { variance += (from[i] - mean) * (from[i] - mean); });
        float by = inverse[b * groups + group] = (float)(1 / std::sqrt(variance / count + epsilon));
        each(group, [&](int64_t i, int64_t o, int c) {
          unit[o] = (float)(from[i] - mean) * by;
          to[o] = unit[o] * (weight < 0 ? 1 : s.weights[weight + place(o, c)]) + (bias < 0 ? 0 : s.weights[bias + place(o, c)]);
        });
      }
  }
  void backward(const Step& s, int n) override {
    memset(own.data, 0, 4 * n * 2 * places());
    for (int b = 0; b < n; b++)
      for (int group = 0; group < groups; group++) {
        const float *from = out->grad(b), *unit = normal.data + b * out->size();
        float *to = in->grad(b), *scales = own.data + b * 2 * places(), *shifts = scales + places();
        double sum = 0, dot = 0;
        auto slope = [&](int64_t o, int c) { return from[o] * (weight < 0 ? 1 : s.weights[weight + place(o, c)]); };
        each(group, [&](int64_t, int64_t o, int c) {
          sum += slope(o, c); dot += slope(o, c) * unit[o];
          scales[place(o, c)] += from[o] * unit[o]; shifts[place(o, c)] += from[o];
        });
        float by = inverse[b * groups + group];
        each(group, [&](int64_t i, int64_t o, int c) {
          to[i] = by * (float)(slope(o, c) - sum / count - unit[o] * dot / count);
        });
      }
  }
  void norms(const Step&, int n, double* total) override {
    for (int b = 0; b < n; b++) {
      if (weight >= 0) total[b] += squares(own.data + b * 2 * places(), places());
      if (bias >= 0) total[b] += squares(own.data + (b * 2 + 1) * places(), places());
    }
  }
  void collect(const Step& s, const Chosen& chosen, const float* factors, bool add) override {
    for (int which = 0; which < 2; which++) {
      int64_t at = which ? bias : weight;
      if (at < 0) continue;
      for (int64_t i = 0; i < places(); i++) {
        float total = add ? s.gradient[at + i] : 0;
        for (int b : chosen) total += (factors ? factors[b] : 1) * own.data[(b * 2 + which) * places() + i];
        s.gradient[at + i] = total;
      }
    }
  }
};
