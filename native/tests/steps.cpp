// The same bits from every instruction set, thread count and chunk size.
#include "check.hpp"
#include "model.hpp"
#include "runtime/cpu.hpp"

namespace forerun::test {
namespace {

using Bits = std::vector<uint32_t>;

void run(Executor& executor, Step& step, int vocab, Bits& out) {
  executor.step(step.arrays(vocab));
  step.append_results(out);
}

// Prefill over chunk bounds, decode, sequences of mixed lengths with every kind of sampling, more rows than the
// repeated ones, and sampled rows beyond one batch of logits.
Bits short_work(Executor& executor, const Shape& shape) {
  Random random(11);
  Bits out;
  Step prefill;
  prefill.add(random, shape, 0, 70, 0);
  run(executor, prefill, shape.vocab, out);
  for (int n = 0; n < 3; ++n) {
    Step decode;
    decode.add(random, shape, 70 + n, 1, 0);
    run(executor, decode, shape.vocab, out);
  }
  for (int round = 0; round < 2; ++round) {
    Step mixed;
    mixed.add(random, shape, 73 + 6 * round, 6, 0).add(random, shape, 23 * round, 23, 4);
    mixed.add(random, shape, round, 1, 6);
    mixed.sample_randomly(random, shape.vocab);
    run(executor, mixed, shape.vocab, out);
  }
  Step many;
  for (int n = 0; n < Model::kMaxSeqs; ++n) many.add(random, shape, 0, 1 + n % 2, 7 + n);
  many.sample_randomly(random, shape.vocab);
  run(executor, many, shape.vocab, out);
  Step all_rows;
  all_rows.add(random, shape, 85, Model::kMaxSampled, 0);
  all_rows.sample_rows.clear(), all_rows.sample_rows.push_back(0);
  for (int r = 1; r < Model::kMaxSampled; ++r) all_rows.sample_greedy(r);
  all_rows.sample_randomly(random, shape.vocab);
  run(executor, all_rows, shape.vocab, out);
  return out;
}

// Contexts of several tiles: with few rows and several threads attention is split and merged.
Bits long_work(Executor& executor, const Shape& shape) {
  Random random(12);
  Bits out;
  for (int first = 0; first < 530; first += 106) {
    Step prefill;
    prefill.add(random, shape, first, 106, 0);
    run(executor, prefill, shape.vocab, out);
  }
  int position = 530;
  for (int rows : {1, 8, 1, 9}) {
    Step step;
    step.add(random, shape, position, rows, 0);
    run(executor, step, shape.vocab, out);
    position += rows;
  }
  Step several;  // two sequences share what lies before; what they write is their own
  several.add(random, shape, position, 2, 0).add(random, shape, 12, 1, 30).add(random, shape, 300, 8, 20);
  for (int b = 0; b < 300 / Model::kBlockSize; ++b) several.block_tables[2 * several.table_width + b] = 3 + b;
  several.sample_randomly(random, shape.vocab);
  run(executor, several, shape.vocab, out);
  return out;
}

using Work = Bits (*)(Executor&, const Shape&);

void compare(Results& results, const std::string& name, const Model& model, bool kv_int8, Work work) {
  Bits expected;
  for (const std::string& isa : testable_isas())
    for (int threads : {1, 2, 3}) {
      ThreadTeam team(threads, {});
      const auto executor = model.start(isa, team, kv_int8, threads == 3 ? 17 : 64);
      if (threads == 2) executor->set_profile(true);
      const Bits bits = work(*executor, model.shape());
      if (expected.empty()) expected = bits;
      results.check(bits == expected, name + ": " + isa + " with " + std::to_string(threads) + " threads differs");
    }
  results.check(!expected.empty() && expected[0] < static_cast<uint32_t>(model.shape().vocab),
                name + ": the first token is not one");
}

}  // namespace

void test_steps(Results& results) {
  const struct {
    const char* name;
    Format format;
  } formats[] = {{"float32", Format::Float32},
                 {"bfloat16", Format::BFloat16},
                 {"int8_channel", Format::Int8Channel},
                 {"int8_f16", Format::Int8F16},
                 {"int4_f16", Format::Int4F16},
                 {"int4_f16_min", Format::Int4F16Min},
                 {"int5_f16", Format::Int5F16},
                 {"int5_f16_min", Format::Int5F16Min},
                 {"q2_k", Format::Q2K},
                 {"q3_k", Format::Q3K},
                 {"q4_k", Format::Q4K},
                 {"q5_k", Format::Q5K},
                 {"q6_k", Format::Q6K},
                 {"iq4_nl", Format::Iq4Nl},
                 {"iq4_xs", Format::Iq4Xs}};
  uint64_t seed = 1;
  for (const auto& f : formats) {
    Shape shape;
    shape.qk_norm = seed % 2 == 0;
    if (seed % 3 == 0) shape.hidden = 80, shape.heads = 4, shape.kv_heads = 1, shape.head_dim = 20, shape.window = 33;
    const Model model(shape, f.format, seed++);
    for (bool kv_int8 : {false, true})
      compare(results, std::string(f.name) + (kv_int8 ? ", int8 KV" : ", bfloat16 KV"), model, kv_int8, short_work);
  }
  for (bool kv_int8 : {false, true}) {
    Shape shape;
    shape.layers = 1, shape.window = kv_int8 ? 290 : 0;
    const Model model(shape, Format::Int4F16Min, 99);
    compare(results, kv_int8 ? "long context, int8 KV" : "long context, bfloat16 KV", model, kv_int8, long_work);
  }
}

}  // namespace forerun::test
