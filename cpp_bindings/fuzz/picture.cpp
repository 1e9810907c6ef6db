// Any bytes as a photo: refused with an InputError, or read, fitted into a canvas and cut into windows.
#include <iterator>
#include <vector>

#include "hp/errors.hpp"
#include "pictures.hpp"
#include "windows.hpp"

namespace {

constexpr const char* kPolicies[] = {"letterbox", "stretch", "shortest-side"};

// As the network is asked, which answers every cell with 1.
void read_windows(const hp::Rgb& canvas, const hp::InputSpec& spec) {
    const hp::Size cells{spec.size.height / 4, spec.size.width / 4};
    const auto ones = std::make_shared<const std::vector<float>>(
        static_cast<std::size_t>(cells.height * cells.width), 1.0F);
    std::vector<std::uint8_t> window(3 * static_cast<std::size_t>(spec.size.height) *
                                     static_cast<std::size_t>(spec.size.width));
    hp::Mosaic mosaic(canvas.size, spec.size);
    for (const hp::Corner corner : hp::corners(canvas.size, spec)) {
        hp::copy_window(canvas, corner, spec.size, window.data());
        mosaic.add(corner, {{ones, ones->data()}, 1, cells});
    }
    mosaic.mean();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const hp::Picture picture = hp::decode_picture({data, data + size}, "photo");
        const double content_scale = size % 2 == 0 ? 1.0 : 0.75;
        const hp::InputSpec spec{{40, 64}, kPolicies[size % std::size(kPolicies)], 114, {}, {}};
        const hp::Size canvas = hp::plan(picture.size, spec, content_scale).network;
        std::vector<std::uint8_t> input(3 * static_cast<std::size_t>(canvas.height) *
                                        static_cast<std::size_t>(canvas.width));
        hp::fit({picture.pixels.data(), picture.size}, spec, content_scale, input.data());
        read_windows({input.data(), canvas}, spec);
        return 0;
    } catch (const hp::InputError&) {
        return 1;
    }
}
