// Compiles hp_sdk/gpu/kernels.cu while the program runs, for the GPU that is there (NVRTC).
#pragma once

#include <array>
#include <vector>

namespace hp::gpu {

// Machine code of all kernels for one compute capability, such as {9, 0}.
// Throws BackendUnavailable where NVRTC is not there or does not know the capability.
std::vector<char> compile_kernels(std::array<int, 2> capability);

}  // namespace hp::gpu
