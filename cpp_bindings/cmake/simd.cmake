# HP_SIMD_DEFINITIONS: HP_CLONES where compiler and system can choose a function's version at load (src/simd.hpp).
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("
  __attribute__((target_clones(\"avx2\", \"default\"))) int next(int x) { return x + 1; }
  int main() { return next(-1); }" HP_HAS_CLONES)
set(HP_SIMD_DEFINITIONS "")
if(HP_HAS_CLONES AND NOT HP_SANITIZE)
  set(HP_SIMD_DEFINITIONS HP_CLONES)
endif()
