#include "runtime/amx.hpp"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <initializer_list>

#include "runtime/linear_check.hpp"

namespace forerun {
namespace {

bool processor_has_tiles() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  return (d & kTile) && (d & kInt8);
}

// XCR0: configuration (17) and data (18) of the tiles are saved when threads change. Needs OSXSAVE, as avx512 does.
bool system_saves_tiles() {
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr unsigned kBoth = 3u << 17;
  return (low & kBoth) == kBoth;
}

bool process_is_permitted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// A processor or an emulator whose tiles give other bits is as good as one without.
bool results_are_right(const Kernels& tiles) {
  for (Format format : {Format::Int4F16Min, Format::Int8F16, Format::Q6K, Format::Q2K, Format::Int8Channel})
    for (int rows : {16, 37})
      if (!linear_agrees(tiles, avx512::kernels(), {.format = format, .rows = rows, .panel_begin = rows % 2}))
        return false;
  return true;
}

bool find_out() {
  const Kernels* tiles = amx::kernels();
  return tiles && processor_has_tiles() && system_saves_tiles() && process_is_permitted() && results_are_right(*tiles);
}

}  // namespace

bool amx_usable() {
  static const bool usable = find_out();
  return usable;
}

}  // namespace forerun
#else
namespace forerun {
bool amx_usable() { return false; }
}  // namespace forerun
#endif
