// An exchange between members of a rank group that is written in Python.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <numeric>
#include <utility>

#include "runtime/ranks.hpp"

namespace forerun {

namespace nb = nanobind;

// Members meet in Python: `all_gather(send, counts, receive)` with arrays of bytes that are its own during the call.
class PythonExchange final : public Exchange {
 public:
  PythonExchange(nb::object all_gather, int own) : all_gather_(std::move(all_gather)), own_(own) {}
  void all_gather(const uint8_t* send, std::span<const size_t> counts, uint8_t* receive) override;

 private:
  nb::object all_gather_;
  const int own_;  // this member
};

inline void PythonExchange::all_gather(const uint8_t* send, std::span<const size_t> counts, uint8_t* receive) {
  const size_t total = std::accumulate(counts.begin(), counts.end(), size_t{0});
  const nb::gil_scoped_acquire acquire;
  nb::list sizes;
  for (size_t count : counts) sizes.append(count);
  const auto bytes = [](const uint8_t* data, size_t count) {
    nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> view(const_cast<uint8_t*>(data), {count}, nb::handle());
    return view.cast(nb::rv_policy::reference);
  };
  all_gather_(bytes(send, counts[own_]), sizes, bytes(receive, total));
}

}  // namespace forerun
