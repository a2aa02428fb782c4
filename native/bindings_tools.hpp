// Bindings of single kernels and of measurements, apart from the executor.
#pragma once
#include <nanobind/nanobind.h>

void bind_tools(nanobind::module_& m);
