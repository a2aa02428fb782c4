// An exchange between members of a rank group that is written in Python.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <numeric>
#include <utility>

#include "runtime/ranks.hpp"

namespace forerun {

namespace nb = nanobind;

// Members meet in Python: `all_gather(send, counts)` gives a function that is called with where all of it goes; arrays
// of bytes are Python's own during the call that they are given to.
class PythonExchange final : public Exchange {
 public:
  PythonExchange(nb::object all_gather, int own) : all_gather_(std::move(all_gather)), own_(own) {}
  std::unique_ptr<Gather> start(const uint8_t* send, std::span<const size_t> counts) override;

 private:
  class PythonGather;
  static nb::object bytes(const uint8_t* data, size_t count) {
    nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> view(const_cast<uint8_t*>(data), {count}, nb::handle());
    return view.cast(nb::rv_policy::reference);
  }
  nb::object all_gather_;
  const int own_;  // this member
};

class PythonExchange::PythonGather final : public Gather {
 public:
  PythonGather(nb::object finish, size_t total) : finish_(std::move(finish)), total_(total) {}
  ~PythonGather() override {
    const nb::gil_scoped_acquire acquire;
    finish_.reset();
  }
  void finish(uint8_t* receive) override {
    const nb::gil_scoped_acquire acquire;
    finish_(bytes(receive, total_));
  }

 private:
  nb::object finish_;
  const size_t total_;  // bytes of all members
};

inline std::unique_ptr<Exchange::Gather> PythonExchange::start(const uint8_t* send, std::span<const size_t> counts) {
  const size_t total = std::accumulate(counts.begin(), counts.end(), size_t{0});
  const nb::gil_scoped_acquire acquire;
  nb::list sizes;
  for (size_t count : counts) sizes.append(count);
  return std::make_unique<PythonGather>(all_gather_(bytes(send, counts[own_]), sizes), total);
}

}  // namespace forerun
