// Vector code for newer processors beside that for the oldest, chosen when the library is loaded.
//
// HP_SIMD before a function compiles it for each.  All give the same bits: nothing here may fuse a
// multiplication with an addition.  The build defines HP_CLONES where compiler and system can do this.
#pragma once

#include <cstddef>

namespace hp {

// What a vector register of every processor holds.
inline constexpr std::size_t kLanes = 4;
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float))));

}  // namespace hp

#ifdef HP_CLONES
#define HP_SIMD __attribute__((target_clones("avx2", "default")))
#else
#define HP_SIMD
#endif
