// A chain of layers with its buffers, built from a description in whole numbers; one for each thread.
#pragma once
#include "chacha.h"
#include "layers.h"

enum Loss { CROSS_ENTROPY, SQUARED, ABSOLUTE };
enum Kind { DENSE, CONV, POOL, NORM, ACTIVATE, DROP, FLATTEN };
constexpr int FIELDS = 14;

// A layer's description. `weight` and `bias` are places in torch's flat vector, -1 for none; `shape` and `result` are
// channels, height and width.
struct Field {
  int64_t kind, shape[3], result[3], kernel[2], stride[2], option, weight, bias;
};
static_assert(sizeof(Field) == FIELDS * 8, "the description in training/native.py");

struct Net {
  std::vector<std::unique_ptr<Values>> values;
  std::vector<std::unique_ptr<Layer>> layers;
  // A matrix of torch's parameters, rows `from_row` apart at `from`, lies turned at `to`, its columns `to_row` apart.
  struct Turned { int64_t from, from_row, to, to_row; int rows, columns; };
  std::vector<Turned> parameters;
  int64_t size = 0, features, dropped_row = 0;
  int outputs, examples;
  bool rows_in_place;  // the first layer reads the data where it is

  Net(const Field* fields, const double* numbers, int count, const int64_t* borders, int examples,
      bool per_example) : examples(examples) {
    const Field& head = fields[0];
    rows_in_place = head.kind == DENSE;
    values.emplace_back(new Values((int)head.shape[0], (int)head.shape[1], (int)head.shape[2],
                                   head.kind != DENSE && head.kind != CONV));
    features = head.shape[0] * head.shape[1] * head.shape[2];
    for (int i = 0; i < count; i++) {
      const Field& f = fields[i];
      Values* in = values.back().get();
      values.emplace_back(new Values((int)f.result[0], (int)f.result[1], (int)f.result[2], true));
      // The border that a convolution wants around what it reads.
      in->border_h = (int)borders[2 * i]; in->border_w = (int)borders[2 * i + 1];
      layers.emplace_back(make(f, numbers[i]));
      layers[i]->in = in; layers[i]->out = values.back().get(); layers[i]->first = i == 0;
    }
    outputs = values.back()->channels;
    for (auto& v : values) v->allocate(examples);
    for (int i = 0; i < count; i++) lay_out(fields[i], i);
    fuse_relu(fields, count);
    for (auto& layer : layers) layer->prepare(examples, per_example);
  }

  Layer* make(const Field& f, double number) {
    if (f.kind == DENSE) { auto* l = new Dense; l->outputs = (int)f.result[0]; l->bias = f.bias; return l; }
    if (f.kind == CONV) {
      auto* l = new Conv; l->kernel_h = (int)f.kernel[0]; l->kernel_w = (int)f.kernel[1];
      l->stride_h = (int)f.stride[0]; l->stride_w = (int)f.stride[1]; l->bias = f.bias; return l;
    }
    if (f.kind == POOL) {
      auto* l = new MaxPool; l->kernel_h = (int)f.kernel[0]; l->kernel_w = (int)f.kernel[1];
      l->stride_h = (int)f.stride[0]; l->stride_w = (int)f.stride[1]; return l;
    }
    if (f.kind == NORM) {
      auto* l = new Norm; l->groups = (int)f.option; l->whole = f.kernel[0]; l->epsilon = (float)number;
      l->weight = f.weight; l->bias = f.bias; return l;
    }
    if (f.kind == ACTIVATE) { auto* l = new Activate; l->function = (Activate::Function)f.option; return l; }
    if (f.kind == FLATTEN) return new Flatten;
    auto* l = new Drop;
    l->below = (uint32_t)f.option; l->kept = (float)(1 / (1 - number)); l->words_at = dropped_row;
    dropped_row += f.shape[0] * f.shape[1] * f.shape[2];
    return l;
  }

  // Give a layer's parameters their room, and note where torch's are in it.
  void lay_out(const Field& f, int i) {
    Values *in = layers[i]->in, *out = layers[i]->out;
    int columns = padded(out->channels);
    if (f.kind == DENSE) {
      auto* l = (Dense*)layers[i].get();
      int inputs = (int)(f.shape[0] * f.shape[1] * f.shape[2]);
      l->weight = room(in->size() * columns);
      parameters.push_back({f.weight, inputs, l->weight, columns, l->outputs, inputs});
      l->bias = vector_room(f.bias, l->outputs);
    } else if (f.kind == CONV) {
      auto* l = (Conv*)layers[i].get();
      int taps = l->kernel_h * l->kernel_w;
      l->weight = room((int64_t)taps * in->stride * columns);
      for (int c = 0; c < in->channels; c++)
        parameters.push_back({f.weight + c * taps, (int64_t)in->channels * taps, l->weight + c * columns,
                              (int64_t)in->stride * columns, out->channels, taps});
      l->bias = vector_room(f.bias, out->channels);
    } else if (f.kind == NORM) {
      auto* l = (Norm*)layers[i].get();
      l->weight = norm_room(*l, f.weight); l->bias = norm_room(*l, f.bias);
    }
  }
  int64_t room(int64_t count) { size += (count + W - 1) / W * W; return size - (count + W - 1) / W * W; }
  int64_t vector_room(int64_t from, int count) {
    if (from < 0) return -1;
    int64_t at = room(count);
    parameters.push_back({from, 1, at, 0, count, 1});
    return at;
  }
  int64_t norm_room(const Norm& l, int64_t from) {
    if (!l.whole || from < 0) return vector_room(from, l.out->channels);
    int64_t at = room(l.places());
    int plane = l.out->height * l.out->width;
    for (int y = 0; y < l.out->height; y++)
      parameters.push_back({from + (int64_t)y * l.out->width, plane, at + l.out->at(y, 0), l.out->stride,
                            l.out->channels, l.out->width});
    return at;
  }

  // put(here, torch's) for every parameter; `torch` is a vector in torch's order.
  template <class Put> void bring(const float* torch, float* here, Put put) {
    for (const Turned& p : parameters)
      transpose(torch + p.from, p.from_row, p.rows, p.columns, here + p.to, p.to_row, put);
  }
  void take(const float* here, float* torch) {
    for (const Turned& p : parameters)
      transpose(here + p.to, p.to_row, p.columns, p.rows, torch + p.from, p.from_row, [](vf, vf x) { return x; });
  }

  // relu right after a product is applied while it is stored; max-pooling after it masks the gradient for both.
  void fuse_relu(const Field* fields, int count) {
    for (int i = 0; i + 1 < count; i++) {
      bool product = fields[i].kind == DENSE || fields[i].kind == CONV;
      if (!product || fields[i + 1].kind != ACTIVATE || fields[i + 1].option != Activate::relu) continue;
      // What the activation would have written is what the product writes.
      layers[i]->out = layers[i + 1]->out;
      layers[i]->out->relu = layers[i]->out->mask = true;
      if (i + 2 < count && fields[i + 2].kind == POOL) {
        layers[i]->out->mask = false;
        ((MaxPool*)layers[i + 2].get())->relu = true;
      }
      layers[i + 1].reset();
    }
    std::vector<std::unique_ptr<Layer>> kept;
    for (auto& layer : layers) if (layer) kept.push_back(std::move(layer));
    layers = std::move(kept);
  }

  void read(const float* example, int b) {
    if (rows_in_place) { ((Dense*)layers[0].get())->rows[b] = example; return; }
    Values& v = *values[0];
    float* to = v.act(b);
    if (v.channels == 1 && v.stride == 1)
      for (int y = 0; y < v.height; y++) memcpy(to + v.at(y, 0), example + (int64_t)y * v.width, 4 * v.width);
    else
      v.each([&](int number, int64_t at) { to[at] = example[number]; });
  }

  void forward(const Step& s, int n) { for (auto& layer : layers) layer->forward(s, n); }
  void backward(const Step& s, int n) { for (int i = (int)layers.size(); i-- > 0;) layers[i]->backward(s, n); }
  Values& last() { return *values.back(); }

  // Which lanes from output i on are outputs at all.
  vi real(int i) const {
    vi number;
    for (int l = 0; l < W; l++) number[l] = i + l;
    return number < outputs;
  }

  // The gradient of each example's cross-entropy, times `scale`, with respect to the outputs.
  void cross_entropy(const int64_t* labels, const int64_t* records, int n, float scale) {
    int columns = padded(outputs);
    for (int b = 0; b < n; b++) {
      const float* z = last().act(b); float* g = last().grad(b);
      vf most = all(-INFINITY), total = {};
      for (int i = 0; i < columns; i += W) {
        vf x = real(i) ? load(z + i) : all(-INFINITY);
        most = x > most || x != x ? x : most;
      }
      most = largest(most);
      for (int i = 0; i < columns; i += W) {
        vf e = real(i) ? exponential(load(z + i) - most) : vf{};
        total += e;
        store(g + i, e);
      }
      vf by = scale / summed(total);
      for (int i = 0; i < columns; i += W) store(g + i, load(g + i) * by);
      g[labels[records[b]]] -= scale;
    }
  }

  // The gradient of each example's mean squared or absolute error, times `scale`; like torch's, NaN has the sign 0.
  void error(const float* targets, const int64_t* records, int n, bool absolute, float scale) {
    float by = (absolute ? scale : 2 * scale) / outputs;
    for (int b = 0; b < n; b++) {
      const float *z = last().act(b), *y = targets + records[b] * outputs;
      float* g = last().grad(b);
      for (int i = 0; i < padded(outputs); i++) {
        float gap = i < outputs ? z[i] - y[i] : 0;
        g[i] = by * (absolute ? (float)((gap > 0) - (gap < 0)) : gap);
      }
    }
  }
};
