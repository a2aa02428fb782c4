// Compares the integer linear layers of two instruction sets on random weights and rows.
#pragma once
#include "kernels/table.hpp"

namespace forerun {

struct LinearCase {
  Format format;
  int rows, blocks = 5, splits = 1;
  int panel_begin = 0, panel_end = 6;
  Epilogue epilogue = Epilogue::Store;
  bool bias = false;
  unsigned fine_percent = 5;  // groups of activations with 15 bits
};

// Whether `tried` gives the bytes of `trusted`.
bool linear_agrees(const Kernels& tried, const Kernels& trusted, const LinearCase& what);

}  // namespace forerun
