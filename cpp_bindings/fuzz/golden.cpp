// Any bytes as a golden sample: refused with a CorruptArtifact, or read.
#include "hp/errors.hpp"
#include "npz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        hp::parse_npz({data, data + size}, "golden.npz");
        return 0;
    } catch (const hp::CorruptArtifact&) {
        return 1;
    }
}
