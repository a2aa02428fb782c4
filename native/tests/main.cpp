// All native tests, or the one that is named.
#include <chrono>
#include <cstdio>
#include <string>

#include "check.hpp"

using namespace forerun::test;

int main(int count, char** words) {
  Results results;
  const auto run = [&](const char* name, void (*test)(Results&)) {
    if (count > 1 && std::string(name) != words[1]) return;
    const auto began = std::chrono::steady_clock::now();
    const int checks = results.checks, failures = results.failures;
    test(results);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began;
    std::printf("%-10s %6d checks, %d failed, %.1f s\n", name, results.checks - checks, results.failures - failures,
                seconds.count());
    std::fflush(stdout);
  };
  run("team", test_team);
  run("linear", test_linear);
  run("steps", test_steps);
  run("fused", test_fused);
  run("ranks", test_ranks);
  run("bad steps", test_bad_steps);
  run("programs", test_bad_programs);
  return results.failures ? 1 : 0;
}
