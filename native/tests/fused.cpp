// A fused step against its parts run one after the other, with several threads, chunks and lengths.
#include "runtime/fused.hpp"

#include "check.hpp"
#include "model.hpp"
#include "runtime/cpu.hpp"

namespace forerun::test {
namespace {

constexpr int kSeqs = 3;
constexpr int kLengths[kSeqs] = {4, 1, 2};
constexpr int kKnown[kSeqs] = {40, 7, 66};

// Two executors whose caches know all but the last tokens of three sequences; the draft lacks one more of the first.
struct Pair {
  Pair(const Model& large, const Model& small, ThreadTeam& team)
      : target(large.start(usable_isas().back(), team, false, 16)),
        draft(small.start(usable_isas().back(), team, true, 16)) {
    for (Executor* executor : {target.get(), draft.get()}) {
      Random random(3);
      Step prompt;
      for (int s = 0; s < kSeqs; ++s) prompt.add(random, large.shape(), 0, kKnown[s], 3 * s);
      executor->step(prompt.arrays(large.shape().vocab));
    }
  }
  std::unique_ptr<Executor> target, draft;
};

Step first_run(const Shape& shape) {
  Random random(5);
  Step step;
  for (int s = 0; s < kSeqs; ++s) step.add(random, shape, kKnown[s] - (s == 0 ? 1 : 0), s == 0 ? 2 : 1, 3 * s);
  std::fill(step.num_logprobs.begin(), step.num_logprobs.end(), -1);
  for (int s = 0; s < kSeqs; ++s) step.temperature[s] = 0.5f * static_cast<float>(s), step.seed[s] = 9 + s;
  return step;
}

Step verification(const Shape& shape) {
  Random random(6);
  Step step;
  for (int s = 0; s < kSeqs; ++s) step.add(random, shape, kKnown[s], 1 + kLengths[s], 3 * s);
  return step;
}

// The same by single steps of both executors: drafted tokens go into `verify`.
void apart(Pair& pair, Step& first, Step& verify, int vocab, const int32_t* places) {
  StepArrays run = first.arrays(vocab, 0);
  run.logits = nullptr;
  pair.draft->step(run);
  for (int s = 0; s < kSeqs; ++s) {
    verify.token_ids[places[s]] = first.tokens[s];
    for (int depth = 1; depth < kLengths[s]; ++depth) {
      Random random(1);
      Step one;
      one.add(random, {.vocab = vocab}, kKnown[s] + depth, 1, 3 * s);
      one.token_ids[0] = verify.token_ids[places[s] + depth - 1];
      one.temperature[0] = first.temperature[s], one.seed[0] = first.seed[s];
      pair.draft->step(one.arrays(vocab));
      verify.token_ids[places[s] + depth] = one.tokens[0];
    }
  }
  pair.target->step(verify.arrays(vocab));
}

void compare(Results& results, int threads) {
  const Shape large{}, small{.layers = 1, .hidden = 64, .ffn = 64};
  const Model target(large, Format::Int8F16, 1), draft(small, Format::Float32, 2);
  ThreadTeam team(threads, {});
  std::vector<int32_t> lengths(kLengths, kLengths + kSeqs), places;
  for (int s = 0, row = 0; s < kSeqs; row += 1 + kLengths[s], ++s) places.push_back(row + 1);
  std::vector<uint32_t> bits[2];
  std::vector<int32_t> ids[2];
  for (int fused = 0; fused < 2; ++fused) {
    Pair pair(target, draft, team);
    Step first = first_run(large), verify = verification(large);
    if (fused) {
      FusedStep step(*pair.target, *pair.draft, team);
      StepArrays run = first.arrays(large.vocab, 0);
      run.logits = nullptr;
      const StepArrays all = verify.arrays(large.vocab);
      const DraftArrays drafts{kSeqs, all.rows, lengths.data(), places.data(), verify.token_ids.data()};
      step.step(all, run, drafts);
      DraftArrays wrong = drafts;
      wrong.rows = all.rows - 1;
      results.refuses("a wrong number of token ids", [&] { step.step(all, run, wrong); });
    } else {
      apart(pair, first, verify, large.vocab, places.data());
    }
    verify.append_results(bits[fused]);
    ids[fused] = verify.token_ids;
  }
  results.check(ids[0] == ids[1], "a fused step drafts other tokens");
  results.check(bits[0] == bits[1], "a fused step draws other tokens");
}

}  // namespace

void test_fused(Results& results) {
  for (int threads : {1, 2, 3}) compare(results, threads);
}

}  // namespace forerun::test
