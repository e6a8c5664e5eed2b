// Trains each client whole in one core's cache; the interface is plain C, called by training/native.py.
#include <atomic>
#include <thread>
#include "net.h"

struct Settings {  // of one block of clients
  const float* data; const int64_t* labels;  // [records, features], [records]
  const float* targets; int64_t loss;         // [records, outputs], instead of labels; a Loss
  const int64_t *records, *starts, *lengths;  // the work: see training/work.py; [clients, steps]
  const int64_t* clients; int64_t count, steps;
  const float* start; float* updates; int64_t size;  // [params], [clients, params], params
  const float *anchor, *linear;           // [params]: see algorithms/problem.py; null: each start, and no linear term
  int64_t start_row, linear_row;          // from one client's start or linear term to the next; 0: one for all
  uint32_t key[8], round, noise_stream, dropout_stream, secure;
  const double* deviations;            // [clients]; null without privacy
  double clip_norm, denominator, count_noise;
  int64_t* noised; double* unclipped;  // [clients]: how often noise was added; sums of noised centred counts
  double learning_rate, pull, weight_decay, momentum, dampening; int64_t nesterov;
};

struct Worker {
  Net net;
  Buffer weights, begin, centre, linear, gradient, velocity, drawn;
  std::vector<uint32_t> words;
  std::vector<double> precise, total;
  std::vector<float> factors;
  Chosen chosen;  // the examples of a piece that count
  Worker(const Field* f, const double* numbers, int count, const int64_t* borders, int examples, bool per)
      : net(f, numbers, count, borders, examples, per), weights(net.size), begin(net.size),
        centre(net.size), linear(net.size), gradient(net.size), velocity(net.size) {}

  Address address(const Settings& s, uint32_t stream, int64_t step, int64_t client) const {
    Address at; memcpy(at.key, s.key, sizeof at.key);
    at.nonce[0] = (stream << 24) | (uint32_t)step; at.nonce[1] = s.round; at.nonce[2] = (uint32_t)client; at.rounds = s.secure ? 20 : 8;
    return at;
  }

  void load_vector(const float* torch, Buffer& here) {
    net.bring(torch, here.data, [](vf, vf x) { return x; });
  }

  void begin_block(const Settings& s) {
    if (!s.start_row) load_vector(s.start, begin);
    if (s.pull && s.anchor) load_vector(s.anchor, centre);
    if (s.linear && !s.linear_row) load_vector(s.linear, linear);
  }

  void train(const Settings& s, int64_t row) {
    const float* start = s.start + row * s.start_row;
    if (s.start_row) load_vector(start, begin);
    if (s.pull && !s.anchor) load_vector(start, centre);
    if (s.linear_row) load_vector(s.linear + row * s.linear_row, linear);
    memcpy(weights.data, begin.data, 4 * net.size);
    for (int64_t step = 0; step < s.steps; step++) {
      int64_t length = s.lengths[row * s.steps + step];
      if (length < 0) break;
      float by = (float)(1 / (s.deviations ? s.denominator : (double)std::max<int64_t>(length, 1)));
      // Plain SGD steps straight into the weights: the loss is scaled instead of the gradient.
      bool direct = !s.pull && !s.linear && !s.weight_decay && !s.momentum && !s.secure && length <= net.examples;
      float scale = direct ? -(float)s.learning_rate * by : 1;
      double count = gradients(s, row, step, direct, s.deviations ? 1 : scale, scale);
      if (s.deviations) add_noise(s, row, step, count, direct ? weights.data : gradient.data, scale);
      if (!direct) update(s, by, step == 0);
    }
    float* to = s.updates + row * s.size;
    net.take(weights.data, to);
    for (int64_t i = 0; i < s.size; i++) to[i] -= start[i];
  }

  // Adds up the examples' gradients, clipped ones times `scale`; returns the centred count of those that are not longer
  // than the clip norm.
  double gradients(const Settings& s, int64_t row, int64_t step, bool direct, float loss_scale, float scale) {
    int64_t length = s.lengths[row * s.steps + step];
    const int64_t* records = s.records + s.starts[row * s.steps + step];
    double count = 0;
    draw_dropout(s, row, step, length);
    bool add = direct;
    for (int64_t done = 0; done < length || done == 0; done += net.examples) {
      int n = (int)std::min<int64_t>(net.examples, length - done);
      Step common = {weights.data, direct ? weights.data : gradient.data, words.data() + done * net.dropped_row, net.dropped_row};
      for (int b = 0; b < n; b++) net.read(s.data + records[done + b] * net.features, b);
      if (n) {
        net.forward(common, n);
        if (s.loss == CROSS_ENTROPY) net.cross_entropy(s.labels, records + done, n, loss_scale);
        else net.error(s.targets, records + done, n, s.loss == ABSOLUTE, loss_scale);
        net.backward(common, n);
      }
      chosen.clear();
      const float* by = clip(s, common, n, scale, count);
      for (auto& layer : net.layers) layer->collect(common, chosen, by, add);
      add = true;
    }
    return count;
  }

  // Which examples count, and by what factor; those whose gradient is NaN or infinite do not.
  const float* clip(const Settings& s, const Step& common, int n, float scale, double& count) {
    if (!s.deviations) {
      for (int b = 0; b < n; b++) chosen.push_back(b);
      return nullptr;
    }
    total.assign(n, 0.0); factors.assign(n, 0.0f);
    for (auto& layer : net.layers) layer->norms(common, n, total.data());
    for (int b = 0; b < n; b++) {
      double norm = std::sqrt(total[b]);
      count += norm <= s.clip_norm ? 0.5 : -0.5;
      if (!std::isfinite(norm)) continue;
      double factor = std::min(1.0, s.clip_norm / (norm * (1 + 1e-6)));
      if (factor < 1.17549435e-38) continue;  // too small for single precision: it would be rounded by far too much
      factors[b] = (float)factor * scale;
      chosen.push_back(b);
    }
    return factors.data();
  }

  void draw_dropout(const Settings& s, int64_t row, int64_t step, int64_t length) {
    int64_t wanted = length * net.dropped_row;
    words.resize((wanted + 255) / 256 * 256);
    chacha_words(address(s, s.dropout_stream, step, s.clients[row]), wanted, words.data());
  }

  void add_noise(const Settings& s, int64_t row, int64_t step, double count, float* to, float scale) {
    int64_t wanted = s.size + (s.count_noise > 0);
    Address at = address(s, s.noise_stream, step, s.clients[row]);
    int64_t room = (wanted + GROUP_NORMALS - 1) / GROUP_NORMALS * GROUP_NORMALS;
    if (!drawn.data) drawn.allocate(room);
    double extra;
    if (s.secure) {
      // Added in double precision and rounded once: noise rounded on its own has gaps that tell sums apart.
      precise.resize(room);
      normals(at, wanted, precise.data());
      net.take(to, drawn.data);
      for (int64_t i = 0; i < s.size; i++) drawn.data[i] = (float)(drawn.data[i] + s.deviations[row] * precise[i]);
      net.bring(drawn.data, to, [](vf, vf x) { return x; });
      extra = precise[wanted - 1];
    } else {
      normals(at, wanted, drawn.data);
      float by = (float)s.deviations[row] * scale;
      net.bring(drawn.data, to, [by](vf there, vf x) { return there + by * x; });
      extra = drawn.data[wanted - 1];
    }
    s.noised[row]++;
    if (s.count_noise > 0) s.unclipped[row] += count + s.count_noise * extra;
  }

  // One step of torch.optim.SGD on gradient * by + pull * (weights - centre) + linear.
  void update(const Settings& s, float by, bool first) {
    float rate = (float)s.learning_rate, pull = (float)s.pull, decay = (float)s.weight_decay;
    float keep = (float)s.momentum, fresh = (float)(first ? 1 : 1 - s.dampening);
    float *w = weights.data, *g = gradient.data, *v = velocity.data, *w0 = centre.data, *l = linear.data;
    if (pull == 0 && decay == 0 && keep == 0 && !s.linear) {
      for (int64_t i = 0; i < net.size; i += W) store(w + i, load(w + i) - rate * (load(g + i) * by));
      return;
    }
    for (int64_t i = 0; i < net.size; i += W) {
      vf step = load(g + i) * by + pull * (load(w + i) - load(w0 + i)) + decay * load(w + i);
      if (s.linear) step = step + load(l + i);
      if (keep != 0) {
        vf moving = first ? step : keep * load(v + i) + fresh * step;
        store(v + i, moving);
        step = s.nesterov ? step + keep * moving : moving;
      }
      store(w + i, load(w + i) - rate * step);
    }
  }
};

struct Model {
  std::vector<std::unique_ptr<Worker>> workers;
};

// f(t) for t in [0, threads), side by side, or one after the other where the system has no thread to give. Every function
// below answers whether memory sufficed: an exception must not leave C, nor a thread.
template <class F> static bool in_threads(int64_t threads, F f) {
  std::atomic<bool> sufficed{true};
  auto guarded = [&](int64_t t) {
    try { f(t); } catch (const std::bad_alloc&) { sufficed = false; }
  };
  std::vector<std::thread> others;
  int64_t here = threads;  // those from here on have no thread of their own
  try {
    others.reserve(threads);
    for (int64_t t = 1; t < threads; t++) others.emplace_back(guarded, t);
  } catch (const std::exception&) { here = 1 + (int64_t)others.size(); }
  guarded(0);
  for (int64_t t = here; t < threads; t++) guarded(t);
  for (auto& other : others) other.join();
  return sufficed;
}

// f(from, to) over [0, count) in equal parts.
template <class F> static bool in_parts(int64_t threads, int64_t count, F f) {
  return in_threads(threads, [=](int64_t t) { f(count * t / threads, count * (t + 1) / threads); });
}

extern "C" {

Model* fedsim_open(const Field* fields, const double* numbers, int64_t count, const int64_t* borders,
                   int64_t examples, int64_t per_example, int64_t threads) {
  try {
    auto model = std::make_unique<Model>();
    for (int64_t i = 0; i < threads; i++)
      model->workers.emplace_back(new Worker(fields, numbers, (int)count, borders, (int)examples, per_example));
    return model.release();
  } catch (const std::bad_alloc&) { return nullptr; }
}

void fedsim_close(Model* model) { delete model; }

bool fedsim_train(Model* model, const Settings* settings) {
  std::atomic<int64_t> next{0};
  return in_threads((int64_t)model->workers.size(), [&](int64_t t) {
    Worker& worker = *model->workers[t];
    worker.begin_block(*settings);
    for (int64_t row; (row = next++) < settings->count;) worker.train(*settings, row);
  });
}

// Words of 64 bits at step 0 of a stream, for some clients, one after the other.
bool fedsim_words(const uint32_t* key, uint32_t rounds, uint32_t round, uint32_t stream, const int64_t* clients, const int64_t* counts,
                  int64_t rows, uint64_t* to) {
  return in_threads(1, [=](int64_t) {
    std::vector<uint32_t> words;
    uint64_t* place = to;
    for (int64_t row = 0; row < rows; row++) {
      Address at; memcpy(at.key, key, sizeof at.key);
      at.nonce[0] = stream << 24; at.nonce[1] = round; at.nonce[2] = (uint32_t)clients[row]; at.rounds = rounds;
      words.resize((2 * counts[row] + 255) / 256 * 256);
      chacha_words(at, 2 * counts[row], words.data());
      memcpy(place, words.data(), 8 * counts[row]);
      place += counts[row];
    }
  });
}

// The first `count` normals at some clients' address, row by row; in double precision where the cipher is a full one.
bool fedsim_normals(const uint32_t* key, uint32_t rounds, uint32_t round, uint32_t place, const int64_t* clients,
                    int64_t rows, int64_t count, int64_t threads, double* to) {
  int64_t room = (count + GROUP_NORMALS - 1) / GROUP_NORMALS * GROUP_NORMALS;
  return in_parts(rows * count < 100000 ? 1 : threads, rows, [=](int64_t from, int64_t until) {
    std::vector<float> single(room);
    std::vector<double> precise(room);
    for (int64_t row = from; row < until; row++) {
      Address at; memcpy(at.key, key, sizeof at.key);
      at.nonce[0] = place; at.nonce[1] = round; at.nonce[2] = (uint32_t)clients[row]; at.rounds = rounds;
      if (rounds == 20) normals(at, count, precise.data());
      else {
        normals(at, count, single.data());
        for (int64_t i = 0; i < count; i++) precise[i] = single[i];
      }
      memcpy(to + row * count, precise.data(), 8 * count);
    }
  });
}

// total += weights[r] * factor[r] * rows[r] where factor clips to `clip_norm`; NaN and infinite rows count as nothing.
// norms[r] is the row's norm before. The same sum in the same order whatever the number of threads.
bool fedsim_add_clipped(const float* rows, int64_t count, int64_t size, double clip_norm, int64_t threads,
                        const double* weights, double* total, double* norms) {
  std::vector<double> by;
  if (!in_threads(1, [&](int64_t) { by.resize(count); })) return false;
  auto norm = [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; r++) {
      norms[r] = std::sqrt(squares(rows + r * size, size));
      by[r] = std::isfinite(norms[r]) ? weights[r] * std::min(1.0, clip_norm / (norms[r] * (1 + 1e-6))) : 0;
    }
  };
  auto add = [&](int64_t from, int64_t to) {
    constexpr int64_t CHUNK = 2048;  // of the sum, in the cache while all rows are added
    for (int64_t at = from; at < to; at += CHUNK)
      for (int64_t r = 0; r < count; r++) {
        if (!std::isfinite(norms[r])) continue;
        const float* row = rows + r * size;
        for (int64_t i = at; i < std::min(to, at + CHUNK); i++) total[i] += by[r] * row[i];
      }
  };
  return in_parts(count * size < 1000000 ? 1 : threads, count, norm) && in_parts(count * size < 1000000 ? 1 : threads, size, add);
}
}
