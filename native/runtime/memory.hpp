// Owned, aligned memory that is reserved once.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace forerun {

// Throws std::bad_alloc when the product does not fit, as no memory could.
inline size_t checked_product(size_t a, size_t b) {
  size_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

// Zeroed pages, in huge pages where the system grants them. Throws std::bad_alloc.
class Pages {
 public:
  Pages() = default;
  explicit Pages(size_t bytes) : bytes_(bytes ? bytes : 1) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    if (bytes_ >= kHuge) madvise(p, bytes_, MADV_HUGEPAGE);
    data_ = static_cast<unsigned char*>(p);
  }
  Pages(Pages&& other) noexcept { swap(other); }
  Pages& operator=(Pages&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Pages() {
    if (data_) munmap(data_, bytes_);
  }
  // Makes the pages of a part real now; kernels that cannot do it leave that to the first touch.
  void populate(size_t begin, size_t bytes) const {
#ifdef MADV_POPULATE_WRITE
    if (begin < bytes_) madvise(data_ + begin, bytes < bytes_ - begin ? bytes : bytes_ - begin, MADV_POPULATE_WRITE);
#endif
  }
  unsigned char* data() const { return data_; }
  size_t size() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  static constexpr size_t kHuge = 4u << 20;
  void swap(Pages& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  unsigned char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace forerun
