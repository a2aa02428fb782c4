// Linear layers of every instruction set alone: around the row counts at which kernels and their blocking change.
#include "check.hpp"
#include "runtime/cpu.hpp"
#include "runtime/linear_check.hpp"

namespace forerun::test {
namespace {

constexpr Format kInteger[] = {Format::Int8Channel, Format::Int8F16,    Format::Int4F16, Format::Int4F16Min,
                               Format::Int5F16,     Format::Int5F16Min, Format::Q2K,     Format::Q3K,
                               Format::Q4K,         Format::Q5K,        Format::Q6K,     Format::Iq4Nl,
                               Format::Iq4Xs};

void compare(Results& results, const LinearCase& what) {
  for (const std::string& isa : testable_isas())
    if (isa != "portable")
      results.check(linear_agrees(kernels_for(isa), kernels_for("portable"), what),
                    isa + ": linear differs, format " + std::to_string(static_cast<int>(what.format)) + ", " +
                        std::to_string(what.rows) + " rows, " + std::to_string(what.blocks) + " blocks in " +
                        std::to_string(what.splits) + " segments, epilogue " +
                        std::to_string(static_cast<int>(what.epilogue)) + ", " + std::to_string(what.fine_percent) +
                        " % fine");
}

// A table whose results differ in one bit of one row.
void wrong_linear(const LinearArgs& a) {
  kernels_for("portable").linear(a);
  a.y[static_cast<size_t>(a.rows - 1) * a.ldy] *= 1.0000002f;
}

}  // namespace

void test_linear(Results& results) {
  for (Format format : kInteger) {
    for (int rows : {1, 2, 3, 4, 5, 8, 9, 12, 15, 16, 17, 24, 25, 31, 32, 33, 47, 48, 64, 65, 81}) {
      compare(results, {.format = format, .rows = rows, .panel_begin = rows % 2, .bias = rows % 3 == 0});
      compare(results, {.format = format, .rows = rows, .blocks = 8, .splits = 4, .epilogue = Epilogue::Add});
      compare(results, {.format = format, .rows = rows, .blocks = 2, .epilogue = Epilogue::SiluMul, .bias = true});
    }
    for (unsigned fine_percent : {0u, 1u, 50u, 100u})
      compare(results, {.format = format, .rows = 33, .fine_percent = fine_percent});
    compare(results, {.format = format, .rows = 20, .blocks = 19, .splits = 8, .panel_end = 3});
    compare(results, {.format = format, .rows = 300, .blocks = 3, .panel_end = 3});    // more rows than are packed
    compare(results, {.format = format, .rows = 140, .blocks = 140, .panel_end = 1});  // at once
  }
  Kernels wrong = kernels_for("portable");
  wrong.linear = wrong_linear;
  results.check(!linear_agrees(wrong, kernels_for("portable"), {.format = Format::Int8F16, .rows = 17}),
                "a wrong linear layer was not noticed");
}

}  // namespace forerun::test
