// Whether tile registers can be used: by the processor, the operating system and this process, and with right results.
#pragma once

namespace forerun {

// Found out once per process, which asks the system for permission to use the registers. Requires avx512.
bool amx_usable();

}  // namespace forerun
