// Wrong steps: refused with std::invalid_argument before anything changes, never a crash.
#include <climits>
#include <cmath>
#include <functional>

#include "check.hpp"
#include "model.hpp"
#include "runtime/cpu.hpp"

namespace forerun::test {
namespace {

constexpr int kWitnessBlock = 35;
constexpr int kFuzzRounds = 1500;

// A step that touches blocks 0..7 only.
Step valid(Random& random, const Shape& shape) {
  Step step;
  step.table_width = 4;
  step.add(random, shape, 20, 3, 0).add(random, shape, 0, 12, 4).add(random, shape, 100, 1, 0);
  step.sample_randomly(random, shape.vocab);
  if (step.adjust_ids.empty()) step.adjust_ids.push_back(1), step.adjust_add.push_back(0), step.adjust_rep.push_back(1);
  if (step.allow_ids.empty()) step.allow_ids.push_back(1);
  step.mask_rows = {0, 2};
  step.masks.assign(2 * ((shape.vocab + 31) / 32), 0x5a5a5a5au);
  step.adjust_starts.back() = static_cast<int32_t>(step.adjust_ids.size());
  step.allow_starts.back() = static_cast<int32_t>(step.allow_ids.size());
  return step;
}

// Logits of one more token of a sequence that no other step writes to.
std::vector<uint32_t> witness(Executor& executor, const Shape& shape) {
  Random random(5);
  std::vector<uint32_t> bits;
  Step step;
  step.add(random, shape, 0, 21, kWitnessBlock);
  executor.step(step.arrays(shape.vocab));
  step.append_results(bits);
  return bits;
}

struct Fault {
  const char* name;
  std::function<void(Step&, StepArrays&)> make;
};

std::vector<Fault> faults() {
  const float nan = std::nanf(""), inf = INFINITY;
  std::vector<Fault> all = {
      {"no rows", [](Step&, StepArrays& s) { s.rows = 0; }},
      {"too many rows", [](Step&, StepArrays& s) { s.rows = Model::kMaxRows + 1; }},
      {"negative rows", [](Step&, StepArrays& s) { s.rows = INT_MIN; }},
      {"no sequences", [](Step&, StepArrays& s) { s.seqs = 0; }},
      {"too many sequences", [](Step&, StepArrays& s) { s.seqs = INT_MAX; }},
      {"negative sampled rows", [](Step&, StepArrays& s) { s.sampled = -1; }},
      {"too many sampled rows", [](Step&, StepArrays& s) { s.sampled = Model::kMaxSampled + 1; }},
      {"a narrow table", [](Step&, StepArrays& s) { s.table_width = 0; }},
      {"token at the end of the vocabulary", [](Step& s, StepArrays&) { s.token_ids[3] = 300; }},
      {"negative token", [](Step& s, StepArrays&) { s.token_ids[0] = -1; }},
      {"position behind the limit", [](Step& s, StepArrays&) { s.positions.back() = Model::kMaxLen; }},
      {"negative block", [](Step& s, StepArrays&) { s.block_tables[0] = -1; }},
      {"block that does not exist", [](Step& s, StepArrays&) { s.block_tables[4] = Model::kBlocks; }},
      {"query_starts that fall", [](Step& s, StepArrays&) { s.query_starts[1] = 16; }},
      {"an empty sequence", [](Step& s, StepArrays&) { s.query_starts[1] = 0; }},
      {"query_starts that begin late", [](Step& s, StepArrays&) { s.query_starts[0] = 1; }},
      {"sample_rows twice", [](Step& s, StepArrays&) { s.sample_rows[1] = s.sample_rows[0]; }},
      {"sample row behind the rows", [](Step& s, StepArrays&) { s.sample_rows.back() = 16; }},
      {"negative sample row", [](Step& s, StepArrays&) { s.sample_rows[0] = -1; }},
      {"negative top_k", [](Step& s, StepArrays&) { s.top_k[0] = -1; }},
      {"top_p 0", [](Step& s, StepArrays&) { s.top_p[1] = 0; }},
      {"too many log-probabilities", [](Step& s, StepArrays&) { s.num_logprobs[0] = 6; }},
      {"num_logprobs -2", [](Step& s, StepArrays&) { s.num_logprobs[0] = -2; }},
      {"adjust_starts behind the end", [](Step& s, StepArrays&) { s.adjust_starts.back() += 1; }},
      {"negative adjust_starts", [](Step& s, StepArrays&) { s.adjust_starts[0] = -1; }},
      {"allow_starts that fall", [](Step& s, StepArrays&) { s.allow_starts[1] = INT_MAX; }},
      {"adjusted token outside", [](Step& s, StepArrays&) { s.adjust_ids[0] = 300; }},
      {"allowed token outside", [](Step& s, StepArrays&) { s.allow_ids[0] = INT_MIN; }},
      {"mask of no row", [](Step& s, StepArrays&) { s.mask_rows[0] = -1; }},
      {"mask behind the rows", [](Step& s, StepArrays&) { s.mask_rows.back() = 3; }},
      {"two masks of a row", [](Step& s, StepArrays&) { s.mask_rows[1] = s.mask_rows[0]; }},
      {"narrow masks", [](Step&, StepArrays& s) { --s.mask_words; }},
      {"adjust_rep 0", [](Step& s, StepArrays&) { s.adjust_rep[0] = 0; }},
  };
  for (int far : {INT_MAX, INT_MAX - 1, INT_MAX - 10, INT_MIN, -1})
    all.push_back({"positions far outside", [far](Step& s, StepArrays&) {
                     for (int r = 0; r < 12; ++r)
                       s.positions[3 + r] = static_cast<int32_t>(static_cast<uint32_t>(far) + r);
                   }});
  for (float bad : {nan, inf, -inf, -1.0f}) {
    all.push_back({"temperature", [bad](Step& s, StepArrays&) { s.temperature[0] = bad; }});
    all.push_back({"top_p", [bad](Step& s, StepArrays&) { s.top_p[0] = bad; }});
    all.push_back({"min_p", [bad](Step& s, StepArrays&) { s.min_p[0] = bad; }});
    all.push_back({"adjust_rep", [bad](Step& s, StepArrays&) { s.adjust_rep[0] = bad; }});
  }
  for (float bad : {nan, inf}) all.push_back({"adjust_add", [bad](Step& s, StepArrays&) { s.adjust_add[0] = bad; }});
  return all;
}

void test_named_faults(Results& results, Executor& executor, const Shape& shape) {
  const auto expected = witness(executor, shape);
  for (const Fault& fault : faults()) {
    Random random(3);
    Step step = valid(random, shape);
    StepArrays arrays = step.arrays(shape.vocab);
    fault.make(step, arrays);
    results.refuses(fault.name, [&] { executor.step(arrays); });
    bool untouched = true;
    for (int32_t token : step.tokens) untouched = untouched && token == -7;
    results.check(untouched, std::string(fault.name) + ": results were written");
  }
  results.check(witness(executor, shape) == expected, "a refused step changed something");
}

// One to three entries replaced by edge values: refused, or run to the end with tokens inside the vocabulary.
void test_random_faults(Results& results, Executor& executor, const Shape& shape) {
  const int32_t edges[] = {0,   1,   -1,   2,    15,      16,          31,      32,
                           299, 300, 1099, 1100, INT_MAX, INT_MAX - 1, INT_MIN, INT_MIN + 1};
  const float reals[] = {0.0f, -0.0f, 1.0f, 1e-45f, 1e6f, 3e38f, -1.0f, INFINITY, -INFINITY, std::nanf("")};
  Random random(21);
  int refused = 0, bad = 0;
  for (int round = 0; round < kFuzzRounds; ++round) {
    Step step = valid(random, shape);
    const StepArrays arrays = step.arrays(shape.vocab);
    std::vector<int32_t>* ints[] = {&step.token_ids,   &step.positions,    &step.query_starts, &step.block_tables,
                                    &step.sample_rows, &step.top_k,        &step.num_logprobs, &step.adjust_starts,
                                    &step.adjust_ids,  &step.allow_starts, &step.allow_ids,    &step.mask_rows};
    std::vector<float>* floats[] = {&step.temperature, &step.top_p, &step.min_p, &step.adjust_add, &step.adjust_rep};
    for (int n = 1 + random.below(3); n > 0; --n) {
      if (random.below(3)) {
        auto& array = *ints[random.below(12)];
        array[random.below(static_cast<int>(array.size()))] = edges[random.below(16)];
      } else {
        auto& array = *floats[random.below(5)];
        array[random.below(static_cast<int>(array.size()))] = reals[random.below(10)];
      }
    }
    try {
      executor.step(arrays);
      for (int32_t token : step.tokens) bad += token < -1 || token >= shape.vocab;
    } catch (const std::invalid_argument&) {
      ++refused;
    }
  }
  results.check(bad == 0, "a token outside the vocabulary");
  results.check(refused > kFuzzRounds / 4 && refused < kFuzzRounds,
                "the random faults are all refused or all accepted");
}

void test_bad_limits(Results& results) {
  const Kernels& kernels = kernels_for("portable");
  const auto refuses = [&](const char* name, const std::function<void(ExecutorLimits&)>& change) {
    ExecutorLimits l;
    l.max_rows = 8, l.max_seqs = 2, l.max_sample_rows = 2, l.max_model_len = 64, l.num_blocks = 2, l.block_size = 16;
    l.layers = 1, l.kv_heads = 1, l.head_dim = 16, l.vocab = 10;
    change(l);
    ThreadTeam team(1, {});
    results.refuses(name, [&] { Executor executor(kernels, l, team); });
  };
  for (int threads : {0, -1, 1025, INT_MAX, INT_MIN})
    results.refuses("threads of a team", [threads] { ThreadTeam team(threads, {}); });
  refuses("limit: head_rows", [](ExecutorLimits& l) { l.head_rows = 0; });
  refuses("limit: max_rows", [](ExecutorLimits& l) { l.max_rows = 0; });
  refuses("limit: chunk_rows", [](ExecutorLimits& l) { l.chunk_rows = -1; });
  refuses("limit: block_size", [](ExecutorLimits& l) { l.block_size = 48; });
  refuses("limit: head_dim", [](ExecutorLimits& l) { l.head_dim = 15; });
  refuses("limit: vocab", [](ExecutorLimits& l) { l.vocab = (1 << 19) + 1; });
  results.refuses("an unknown instruction set", [] { kernels_for("sse9"); });
}

}  // namespace

void test_bad_steps(Results& results) {
  test_bad_limits(results);
  Shape shape;
  shape.layers = 1;
  const Model model(shape, Format::Int8F16, 4);
  for (bool kv_int8 : {false, true}) {
    ThreadTeam team(2, {});
    const auto executor = model.start(usable_isas().back(), team, kv_int8);
    test_named_faults(results, *executor, shape);
    test_random_faults(results, *executor, shape);
  }
}

}  // namespace forerun::test
