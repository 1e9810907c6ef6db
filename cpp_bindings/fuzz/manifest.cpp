// Any text as a manifest: refused with a ModelError, or read.
#include "bundle.hpp"
#include "hp/errors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        hp::parse_bundle({data, data + size}, "bundle/bundle.json");
        return 0;
    } catch (const hp::ModelError&) {
        return 1;
    }
}
