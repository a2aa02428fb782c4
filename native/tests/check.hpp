// The smallest test framework that names what failed and goes on.
#pragma once
#include <cstdio>
#include <stdexcept>
#include <string>

namespace forerun::test {

struct Results {
  int checks = 0, failures = 0;

  void check(bool ok, const std::string& what) {
    ++checks;
    if (ok) return;
    ++failures;
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  }
  // `work` must throw std::invalid_argument.
  template <class Work>
  void refuses(const std::string& what, const Work& work) {
    try {
      work();
    } catch (const std::invalid_argument&) {
      return check(true, what);
    }
    check(false, what + " was accepted");
  }
};

// Each file's tests; main.cpp runs them in this order.
void test_team(Results& results);
void test_linear(Results& results);
void test_steps(Results& results);
void test_fused(Results& results);
void test_ranks(Results& results);
void test_bad_steps(Results& results);
void test_bad_programs(Results& results);

}  // namespace forerun::test
