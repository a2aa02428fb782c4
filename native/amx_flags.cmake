# Flags for tile registers, in amx_flags; empty where the compiler does not know them.
include(CheckCXXCompilerFlag)
check_cxx_compiler_flag("-mamx-tile -mamx-int8" FORERUN_HAS_AMX_FLAGS)
set(amx_flags)
if(FORERUN_HAS_AMX_FLAGS)
  set(amx_flags -mamx-tile -mamx-int8)
endif()
