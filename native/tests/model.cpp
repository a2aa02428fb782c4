#include "model.hpp"

#include <cmath>
#include <cstring>

#include "runtime/cpu.hpp"

namespace forerun::test {
namespace {

int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

uint16_t half_bits(Random& random) {
  return static_cast<uint16_t>((random.below(2) << 15) | (6 << 10) | random.below(1024));
}

uint16_t bfloat_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return static_cast<uint16_t>(bits >> 16);
}

template <class T>
void put(uint8_t* at, const std::vector<T>& values) {
  std::memcpy(at, values.data(), values.size() * sizeof(T));
}

// One block with random values and scales of a sensible size; the layout inside plays no part.
void fill_block(Random& random, Format format, uint8_t* at) {
  if (!is_integer(format)) {
    for (int i = 0; i < 1024; ++i) {
      const float x = random.uniform(-0.2f, 0.2f);
      const uint16_t b = bfloat_bits(x);
      if (format == Format::Float32) {
        std::memcpy(at + 4 * i, &x, 4);
      } else {
        std::memcpy(at + 2 * i, &b, 2);
      }
    }
    return;
  }
  const size_t floats = float_offset(format);
  for (size_t i = 0; i < floats; ++i) at[i] = static_cast<uint8_t>(random.next() >> 32);
  std::vector<uint16_t> scales((block_bytes(format) - floats) / 2);
  for (uint16_t& x : scales) x = half_bits(random);
  if (!scales.empty()) put(at + floats, scales);
}

}  // namespace

Model::Model(const Shape& s, Format format, uint64_t seed) : shape_(s), format_(format) {
  Random random(seed);
  const int qkv = (s.heads + 2 * s.kv_heads) * s.head_dim;
  matrix(random, format, s.vocab, s.hidden);
  for (int l = 0; l < s.layers; ++l) {
    matrix(random, format, qkv, s.hidden);
    matrix(random, format, s.hidden, s.heads * s.head_dim);
    matrix(random, format, 2 * s.ffn, s.hidden);
    matrix(random, format, s.hidden, s.ffn);
  }
  matrix(random, format, s.vocab, s.hidden);
  for (int l = 0; l < 2 * s.layers + 1; ++l) vector(random, s.hidden);
  for (int l = 0; l < s.layers; ++l)
    if (s.qk_norm) {
      vector(random, s.head_dim), vector(random, s.head_dim);
    } else {
      vector(random, qkv), vector(random, s.hidden);
    }
}

int Model::matrix(Random& random, Format format, int n, int k) {
  Matrix m{format, n, k, {}, {}};
  const size_t bytes = block_bytes(format),
               count = static_cast<size_t>(up(n, kPanel) / kPanel) * (up(k, block_span(format)) / block_span(format));
  m.data.resize(bytes * count);
  for (size_t b = 0; b < count; ++b) fill_block(random, format, m.data.data() + b * bytes);
  if (format == Format::Int8Channel)
    for (int i = 0; i < up(n, kPanel); ++i) m.scales.push_back(random.uniform(0.0005f, 0.003f));
  matrices_.push_back(std::move(m));
  return static_cast<int>(matrices_.size()) - 1;
}

const float* Model::vector(Random& random, int n) {
  vectors_.emplace_back(up(n, kBlock), 0.0f);
  for (int i = 0; i < n; ++i) vectors_.back()[i] = random.uniform(0.5f, 1.5f);
  return vectors_.back().data();
}

std::unique_ptr<Executor> Model::start(const std::string& isa, ThreadTeam& team, bool kv_int8, int chunk_rows,
                                       const Place& place) const {
  const Shape& s = shape_;
  ExecutorLimits l;
  l.chunk_rows = chunk_rows, l.kv_int8 = kv_int8;
  l.max_rows = kMaxRows, l.max_seqs = kMaxSeqs, l.max_sample_rows = kMaxSampled, l.max_model_len = kMaxLen;
  l.num_blocks = kBlocks, l.block_size = kBlockSize;
  l.layers = s.layers, l.kv_heads = s.kv_heads, l.head_dim = s.head_dim, l.vocab = s.vocab;
  l.kv_splits = place.kv_splits, l.strips = place.strips, l.strip_rows = 10;
  auto made = std::make_unique<Executor>(kernels_for(isa), l, team, place.ranks, place.exchange);
  Executor& e = *made;
  std::vector<float> frequencies(s.head_dim / 2);
  for (int i = 0; i < s.head_dim / 2; ++i)
    frequencies[i] = static_cast<float>(std::pow(10000.0, -2.0 * i / s.head_dim));
  e.set_rope(frequencies.data(), s.head_dim / 2, 1.0f);
  std::vector<int> weights;
  for (const Matrix& m : matrices_)
    weights.push_back(e.add_weight(m.format, m.n, m.k, std::vector<Executor::StoredShard>{{0, m.data, m.scales}}));
  const bool integer = is_integer(format_);
  const BufferType rows = integer ? BufferType::Q15 : BufferType::F32;
  const int qkv_width = up((s.heads + 2 * s.kv_heads) * s.head_dim, kPanel);
  const int x = e.add_buffer(BufferType::F32, s.hidden, false), h = e.add_buffer(rows, s.hidden, false),
            qkv = e.add_buffer(BufferType::F32, qkv_width, false),
            q = e.add_buffer(BufferType::F32, s.heads * up(s.head_dim, 16), false),
            o = e.add_buffer(BufferType::F32, s.heads * s.head_dim, false),
            oq = e.add_buffer(rows, s.heads * s.head_dim, false), g = e.add_buffer(BufferType::F32, s.ffn, false),
            gq = e.add_buffer(rows, s.ffn, false), xs = e.add_buffer(BufferType::F32, s.hidden, true),
            hs = e.add_buffer(rows, s.hidden, true), logits = e.add_buffer(BufferType::F32, s.vocab, true);

  const auto instruction = [](Op op, const char* label, int input, int output) {
    Instruction i;
    i.op = op, i.label = label, i.input = input, i.output = output;
    return i;
  };
  const auto norm = [&](int from, int to, std::span<const float> weight, float fine_above) {
    Instruction i = instruction(integer ? Op::NormQuant : Op::Norm, "norm", from, to);
    i.vector = weight, i.eps = 1e-5f, i.width = s.hidden, i.fine_above = fine_above;
    e.add(i);
  };
  const auto linear = [&](int from, int to, int weight, Epilogue epilogue, std::span<const float> bias, int splits,
                          int heads = 0) {
    Instruction i = instruction(Op::Linear, "linear", from, to);
    i.heads = heads, i.weight = weight, i.epilogue = epilogue, i.vector = bias, i.splits = splits;
    e.add(i);
  };
  const auto quantize = [&](int from, int to) {
    if (!integer) return from;
    Instruction i = instruction(Op::Quantize, "quantize", from, to);
    i.fine_above = 2.0f;
    e.add(i);
    return to;
  };
  Instruction i = instruction(Op::Embed, "embed", -1, x);
  i.weight = weights[0], i.width = s.hidden;
  e.add(i);
  for (int l = 0; l < s.layers; ++l) {
    const std::span<const float> first = vectors_[2 * s.layers + 1 + 2 * l],
                                 second = vectors_[2 * s.layers + 2 + 2 * l], none;
    const int* w = &weights[1 + 4 * l];
    norm(x, h, vectors_[2 * l], 2.0f);
    linear(h, qkv, w[0], Epilogue::Store, s.qk_norm ? none : first, 1, s.head_dim % kPanel == 0 ? s.heads : 0);
    i = instruction(Op::RopeKv, "rope_kv", qkv, q);
    i.layer = l, i.heads = s.heads, i.scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim)), i.eps = 1e-6f;
    if (s.qk_norm) i.vector = first, i.vector2 = second;
    e.add(i);
    i = instruction(Op::Attention, "attention", q, o);
    i.layer = l, i.heads = s.heads, i.window = l + 1 == s.layers ? s.window : 0;
    e.add(i);
    linear(quantize(o, oq), x, w[1], Epilogue::Add, s.qk_norm ? none : second, 1);
    norm(x, h, vectors_[2 * l + 1], 2.0f);
    linear(h, g, w[2], Epilogue::SiluMul, {}, 1);
    linear(quantize(g, gq), x, w[3], Epilogue::Add, {}, s.ffn >= 128 ? 2 : 1);
  }
  e.add(instruction(Op::SelectRows, "select_rows", x, xs));
  norm(xs, hs, vectors_[2 * s.layers], 0.0f);
  linear(hs, logits, weights.back(), Epilogue::Store, {}, 1);
  e.add(instruction(Op::Sample, "sample", logits, -1));
  return made;
}

Step& Step::add(Random& random, const Shape& shape, int first, int count, int first_block) {
  for (int r = 0; r < count; ++r) {
    token_ids.push_back(random.below(shape.vocab));
    positions.push_back(first + r);
  }
  query_starts.push_back(static_cast<int32_t>(token_ids.size()));
  for (int b = 0; b < table_width; ++b) block_tables.push_back((first_block + b) % Model::kBlocks);
  sample_greedy(static_cast<int>(token_ids.size()) - 1);
  return *this;
}

void Step::sample_greedy(int row) {
  sample_rows.push_back(row);
  temperature.push_back(0.0f), top_p.push_back(1.0f), min_p.push_back(0.0f);
  top_k.push_back(0), num_logprobs.push_back(-1), seed.push_back(0);
  adjust_starts.push_back(adjust_starts.back()), allow_starts.push_back(allow_starts.back());
}

void Step::sample_randomly(Random& random, int vocab) {
  adjust_ids.clear(), adjust_add.clear(), adjust_rep.clear(), allow_ids.clear();
  mask_rows.clear(), masks.clear();
  const float temperatures[] = {0.0f, 0.3f, 1.0f, 4.0f}, shares[] = {1.0f, 0.9f, 0.2f, 1e-6f}, least[] = {0.0f, 0.1f};
  const int tops[] = {0, 1, 5, 1 << 30};
  for (size_t r = 0; r < sample_rows.size(); ++r) {
    temperature[r] = temperatures[random.below(4)], top_p[r] = shares[random.below(4)],
    min_p[r] = least[random.below(2)];
    top_k[r] = tops[random.below(4)], num_logprobs[r] = random.below(7) - 1, seed[r] = random.next();
    for (int n = random.below(6); n > 0; --n) {
      adjust_ids.push_back(random.below(vocab)), adjust_rep.push_back(random.uniform(0.5f, 2.0f));
      adjust_add.push_back(n == 1 ? -INFINITY : random.uniform(-3.0f, 3.0f));
    }
    for (int n = random.below(3) * 3; n > 0; --n) allow_ids.push_back(random.below(vocab));
    adjust_starts[r + 1] = static_cast<int32_t>(adjust_ids.size());
    allow_starts[r + 1] = static_cast<int32_t>(allow_ids.size());
    if (random.below(3)) continue;
    mask_rows.push_back(static_cast<int32_t>(r));
    for (int w = 0; w < (vocab + 31) / 32; ++w) masks.push_back(static_cast<uint32_t>(random.next()));
  }
}

StepArrays Step::arrays(int vocab, int top_width) {
  const size_t rows = sample_rows.size();
  tokens.assign(rows, -7), logprobs.assign(rows, -7.0f), logits.assign(rows * vocab, -7.0f);
  top_ids.assign(rows * top_width, -7), top_logprobs.assign(rows * top_width, -7.0f);
  StepArrays s;
  s.rows = static_cast<int>(token_ids.size()), s.seqs = static_cast<int>(query_starts.size()) - 1;
  s.table_width = table_width, s.sampled = static_cast<int>(rows);
  s.token_ids = token_ids.data(), s.positions = positions.data(), s.query_starts = query_starts.data();
  s.block_tables = block_tables.data(), s.sample_rows = sample_rows.data();
  s.temperature = temperature.data(), s.top_p = top_p.data(), s.min_p = min_p.data();
  s.top_k = top_k.data(), s.num_logprobs = num_logprobs.data(), s.seed = seed.data();
  s.adjust_starts = adjust_starts.data(), s.adjust_ids = adjust_ids.data();
  s.adjust_add = adjust_add.data(), s.adjust_rep = adjust_rep.data();
  s.allow_starts = allow_starts.data(), s.allow_ids = allow_ids.data();
  s.adjust_count = static_cast<int>(adjust_ids.size()), s.allow_count = static_cast<int>(allow_ids.size());
  s.mask_rows = mask_rows.data(), s.masks = masks.data();
  s.mask_count = static_cast<int>(mask_rows.size()), s.mask_words = (vocab + 31) / 32;
  s.tokens = tokens.data(), s.logprobs = logprobs.data(), s.top_width = top_width;
  s.top_ids = top_ids.data(), s.top_logprobs = top_logprobs.data(), s.logits = logits.data();
  return s;
}

void Step::append_results(std::vector<uint32_t>& out) const {
  for (const auto* values : {&tokens, &top_ids})
    for (int32_t x : *values) out.push_back(static_cast<uint32_t>(x));
  for (const auto* values : {&logprobs, &top_logprobs, &logits})
    for (float x : *values) {
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      out.push_back(std::isnan(x) ? 0x7fc00000u : bits);
    }
}

}  // namespace forerun::test
