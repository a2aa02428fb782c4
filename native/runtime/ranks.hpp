// Tensor parallelism: which part of the work is this executor's, and how the others' results arrive.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace forerun {

struct Share {
  int begin, end;
};

// The ranks of a model, shared out to members in order; a member is one executor, with memory of its own. Work is cut
// into units (panels of a matrix, heads): rank r of R has units [U r / R, U (r + 1) / R), so any number of ranks goes
// with any number of units.
struct Ranks {
  int own = 0;                    // this member
  std::vector<int> begins{0, 1};  // the first rank of each member, then the number of ranks

  int members() const { return static_cast<int>(begins.size()) - 1; }
  Share share(int64_t units, int member) const {
    return {static_cast<int>(units * begins[member] / begins.back()),
            static_cast<int>(units * begins[member + 1] / begins.back())};
  }
  Share share(int64_t units) const { return share(units, own); }
};

// How members meet. One thread of each calls, all in the same order.
class Exchange {
 public:
  // What members give each other, on its way; whoever does not want it any more lets it go.
  class Gather {
   public:
    virtual ~Gather() = default;
    // Waits for all of it: counts[m] bytes of member m, one after the other, own ones included.
    virtual void finish(uint8_t* receive) = 0;
  };

  virtual ~Exchange() = default;
  // Begins to give `send`, which is the caller's again at once, to all members and to get what they send. Several may
  // be under way; they are finished in the order of their beginning. It and Gather::finish throw when a member is gone
  // or too late; nothing can be exchanged any more then.
  virtual std::unique_ptr<Gather> start(const uint8_t* send, std::span<const size_t> counts) = 0;
  void all_gather(const uint8_t* send, std::span<const size_t> counts, uint8_t* receive) {
    start(send, counts)->finish(receive);
  }
};

}  // namespace forerun
