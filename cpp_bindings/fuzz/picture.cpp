// Any bytes as a photo: refused with an InputError, or read and fitted into a network's input.
#include <array>

#include "hp/errors.hpp"
#include "pictures.hpp"
#include "preprocess.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const hp::Picture picture = hp::decode_picture({data, data + size}, "photo");
        std::array<std::uint8_t, 3 * 40 * 64> input{};
        const double content_scale = size % 2 == 0 ? 1.0 : 0.75;
        const hp::InputSpec spec{{40, 64}, size % 3 == 0 ? "stretch" : "letterbox", 114};
        hp::fit({picture.pixels.data(), picture.size}, spec, content_scale, input.data());
        return 0;
    } catch (const hp::InputError&) {
        return 1;
    }
}
