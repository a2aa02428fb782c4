// Programs whose sizes contradict each other: refused while they are built, so that no step can index outside.
#include <climits>
#include <cmath>
#include <functional>

#include "check.hpp"
#include "model.hpp"
#include "runtime/cpu.hpp"

namespace forerun::test {
namespace {

constexpr int kVocab = 100, kHidden = 64, kHeads = 4, kKvHeads = 2, kDim = 16, kLayers = 2;
constexpr int kQkv = (kHeads + 2 * kKvHeads) * kDim;

// An executor with buffers and weights of a tiny model, and no instruction yet.
struct Parts {
  ThreadTeam team{1, {}};
  Executor executor{kernels_for("portable"), limits(), team};
  std::vector<uint8_t> bytes = std::vector<uint8_t>(block_bytes(Format::Float32) * 16);
  std::vector<float> ones = std::vector<float>(512, 1.0f);
  int x = buffer(kHidden), other = buffer(kHidden), qkv = buffer(kQkv), q = buffer(kHeads * kDim), wide = buffer(4096),
      sampled = buffer(kHidden, true), logits = buffer(kVocab, true),
      quant = executor.add_buffer(BufferType::Q15, kHidden, false),
      wide_quant = executor.add_buffer(BufferType::Q15, 4096, false);
  int table = matrix(kVocab), short_table = matrix(kVocab - 1), tall = matrix(kQkv), gate = matrix(48);

  static ExecutorLimits limits() {
    ExecutorLimits l;
    l.max_rows = 64, l.max_seqs = 2, l.max_sample_rows = 8, l.max_model_len = 64, l.num_blocks = 4, l.block_size = 16;
    l.layers = kLayers, l.kv_heads = kKvHeads, l.head_dim = kDim, l.vocab = kVocab;
    return l;
  }
  int buffer(int width, bool of_sampled = false) { return executor.add_buffer(BufferType::F32, width, of_sampled); }
  int matrix(int n) {
    const size_t size = block_bytes(Format::Float32) * ((n + kPanel - 1) / kPanel);
    return whole_matrix(n, {bytes.data(), size});
  }
  int whole_matrix(int n, std::span<const uint8_t> packed) {
    return executor.add_weight(Format::Float32, n, kHidden, std::vector<Executor::StoredShard>{{0, packed, {}}});
  }
  std::span<const float> vector(size_t n) const { return {ones.data(), n}; }
  void rotate() { executor.set_rope(ones.data(), kDim / 2, 1.0f); }

  Instruction make(Op op, int input, int output, int weight = -1) const {
    Instruction i;
    i.op = op, i.label = "tried", i.input = input, i.output = output, i.weight = weight;
    i.width = kHidden, i.heads = op == Op::Linear ? 0 : kHeads;
    if (op == Op::Norm || op == Op::NormQuant) i.vector = vector(kHidden);
    return i;
  }
};

using Tried = std::function<Instruction(Parts&)>;

struct Case {
  const char* name;
  Tried good, bad;
};

Tried changed(const Tried& base, const std::function<void(Instruction&, const Parts&)>& change) {
  return [=](Parts& p) {
    Instruction i = base(p);
    change(i, p);
    return i;
  };
}

void add_linear_cases(std::vector<Case>& all) {
  const Tried linear = [](Parts& p) { return p.make(Op::Linear, p.x, p.qkv, p.tall); };
  const auto bad = [&](const char* name, const std::function<void(Instruction&, const Parts&)>& change) {
    all.push_back({name, linear, changed(linear, change)});
  };
  bad("outputs beyond the buffer", [](Instruction& i, const Parts& p) { i.output = p.q; });
  bad("inputs beyond the buffer", [](Instruction& i, const Parts& p) { i.input = p.wide_quant; });
  bad("a bias that ends early", [](Instruction& i, const Parts& p) { i.vector = p.vector(kQkv - 1); });
  bad("gate and up of unequal size",
      [](Instruction& i, const Parts& p) { i.weight = p.gate, i.epilogue = Epilogue::SiluMul; });
  bad("an epilogue of the executor's own", [](Instruction& i, const Parts&) { i.epilogue = Epilogue::Largest; });
  bad("sampled rows from all rows", [](Instruction& i, const Parts& p) { i.output = p.logits, i.weight = p.gate; });
  for (int splits : {0, 3, 2, INT_MAX, INT_MIN})
    bad("splits", [=](Instruction& i, const Parts&) { i.splits = splits; });
  const Tried by_heads = changed(linear, [](Instruction& i, const Parts&) { i.heads = kHeads; });
  for (int heads : {-2, 2, 3, 6, 1 << 28, INT_MAX - 1})
    all.push_back(
        {"heads that are cut", by_heads, changed(by_heads, [=](Instruction& i, const Parts&) { i.heads = heads; })});
  all.push_back({"heads that are added", by_heads,
                 changed(by_heads, [](Instruction& i, const Parts&) { i.epilogue = Epilogue::Add; })});
  for (int weight : {-1, 99, INT_MAX}) bad("a weight", [=](Instruction& i, const Parts&) { i.weight = weight; });
}

void add_attention_cases(std::vector<Case>& all) {
  const Tried rope = [](Parts& p) { return p.rotate(), p.make(Op::RopeKv, p.qkv, p.q); };
  const Tried attention = [](Parts& p) { return p.make(Op::Attention, p.q, p.x); };
  for (const Tried& base : {rope, attention}) {
    const auto bad = [&](const char* name, const std::function<void(Instruction&, const Parts&)>& change) {
      all.push_back({name, base, changed(base, change)});
    };
    for (int heads : {0, -2, 3, 8, 1 << 28, INT_MAX - 1})
      bad("heads", [=](Instruction& i, const Parts&) { i.heads = heads; });
    for (int layer : {-1, 1, kLayers, INT_MAX}) bad("layer", [=](Instruction& i, const Parts&) { i.layer = layer; });
    bad("a narrow input", [](Instruction& i, const Parts& p) { i.input = p.wide, i.heads = 512; });
    bad("sampled rows", [](Instruction& i, const Parts& p) { i.output = p.sampled; });
    bad("quantised heads", [](Instruction& i, const Parts& p) { i.input = p.wide_quant; });
  }
  all.push_back({"a window", attention, changed(attention, [](Instruction& i, const Parts&) { i.window = -1; })});
  all.push_back({"no rotary frequencies", rope, [](Parts& p) { return p.make(Op::RopeKv, p.qkv, p.q); }});
  all.push_back(
      {"one norm of two", rope, changed(rope, [](Instruction& i, const Parts& p) { i.vector = p.vector(kDim); })});
  all.push_back({"a norm that ends early", rope, changed(rope, [](Instruction& i, const Parts& p) {
                   i.vector = p.vector(kDim), i.vector2 = p.vector(kDim - 1);
                 })});
}

std::vector<Case> cases() {
  const Tried embed = [](Parts& p) { return p.make(Op::Embed, -1, p.x, p.table); };
  const Tried norm = [](Parts& p) { return p.make(Op::NormQuant, p.x, p.quant); };
  const Tried select = [](Parts& p) { return p.make(Op::SelectRows, p.x, p.sampled); };
  const Tried sample = [](Parts& p) { return p.make(Op::Sample, p.logits, -1); };
  std::vector<Case> all;
  const auto bad = [&](const char* name, const Tried& base,
                       const std::function<void(Instruction&, const Parts&)>& change) {
    all.push_back({name, base, changed(base, change)});
  };
  bad("a table shorter than the vocabulary", embed, [](Instruction& i, const Parts& p) { i.weight = p.short_table; });
  bad("embeddings of another width", embed, [](Instruction& i, const Parts& p) { i.output = p.wide; });
  bad("embeddings of sampled rows", embed, [](Instruction& i, const Parts& p) { i.output = p.sampled; });
  for (int width : {0, -1, kHidden + 1, INT_MAX}) {
    bad("width of an embedding", embed, [=](Instruction& i, const Parts&) { i.width = width; });
    bad("width of a norm", norm, [=](Instruction& i, const Parts&) { i.width = width; });
  }
  bad("a norm that ends early", norm, [](Instruction& i, const Parts& p) { i.vector = p.vector(kHidden - 1); });
  bad("a norm into another width", norm, [](Instruction& i, const Parts& p) { i.output = p.wide_quant; });
  bad("a norm into floats", norm, [](Instruction& i, const Parts& p) { i.output = p.other; });
  bad("a norm of sampled rows into all", norm, [](Instruction& i, const Parts& p) { i.input = p.sampled; });
  bad("a buffer that does not exist", norm, [](Instruction& i, const Parts&) { i.output = 99; });
  bad("no buffer", norm, [](Instruction& i, const Parts&) { i.input = -1; });
  bad("rows into rows", select, [](Instruction& i, const Parts& p) { i.output = p.other; });
  bad("selected again", select, [](Instruction& i, const Parts& p) { i.input = p.sampled; });
  bad("rows of another width", select, [](Instruction& i, const Parts& p) { i.input = p.wide; });
  bad("fewer logits than tokens", sample, [](Instruction& i, const Parts& p) { i.input = p.sampled; });
  bad("logits of all rows", sample, [](Instruction& i, const Parts& p) { i.input = p.wide; });
  all.push_back({"an instruction that writes its input", norm, [](Parts& p) { return p.make(Op::Norm, p.x, p.x); }});
  all.push_back({"rows that each thread has for itself", norm, [](Parts& p) {
                   p.executor.add(p.make(Op::Norm, p.x, p.other));
                   return p.make(Op::SelectRows, p.other, p.sampled);
                 }});
  add_linear_cases(all);
  add_attention_cases(all);
  return all;
}

void test_sizes(Results& results) {
  Parts p;
  for (int n : {0, -1, (1 << 24) + 1, INT_MAX}) {
    results.refuses("a buffer's width", [&] { p.buffer(n); });
    results.refuses("a weight's rows", [&] { p.whole_matrix(n, p.bytes); });
  }
  for (float bad : {INFINITY, -INFINITY, std::nanf(""), 2e6f}) {
    p.ones[3] = bad;
    results.refuses("a rotary frequency", [&] { p.rotate(); });
  }
}

}  // namespace

void test_bad_programs(Results& results) {
  for (const Case& c : cases()) {
    Parts right, wrong;
    bool accepted = true;
    try {
      right.executor.add(c.good(right));
    } catch (const std::invalid_argument&) {
      accepted = false;
    }
    results.check(accepted, std::string(c.name) + ": the sound instruction was refused");
    const Instruction bad = c.bad(wrong);
    results.refuses(c.name, [&] { wrong.executor.add(bad); });
  }
  test_sizes(results);
}

}  // namespace forerun::test
