#include "preprocess.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "hp/errors.hpp"
#include "resize.hpp"
#include "windows.hpp"

namespace hp {
namespace {

// Network pixels per source pixel.
struct Scale {
    double y;
    double x;
};

Scale scale_of(Size source, const InputSpec& spec) {
    const Scale stretch{static_cast<double>(spec.size.height) / source.height,
                        static_cast<double>(spec.size.width) / source.width};
    if (spec.resize == "stretch") {
        return stretch;
    }
    double scale = std::min(stretch.y, stretch.x);
    if (spec.resize == "shortest-side") {
        const double longest = spec.longest_px.value_or(0);
        const double usual = 4.0 * std::max(spec.size.height, spec.size.width);
        scale = std::min(std::max(stretch.y, stretch.x),
                         (spec.longest_px ? longest : usual) / std::max(source.height, source.width));
    }
    return {scale, scale};
}

// Throws where the product is more than memory holds, or a side more than an int.
Size checked(double height, double width, Size source) {
    if (height * width > static_cast<double>(kMaxPixels)) {
        throw InputError("the image is " + std::to_string(source.height) + " x " +
                         std::to_string(source.width) +
                         " and would fill more windows of the network than memory holds; cut it into parts");
    }
    return {static_cast<int>(height), static_cast<int>(width)};
}

void pad(const Canvas& canvas, Size content, std::uint8_t value) {
    const auto used = static_cast<std::size_t>(content.width) * kChannels;
    for (int y = 0; y < canvas.size.height; ++y) {
        std::uint8_t* row = canvas.row(y);
        std::fill(row + (y < content.height ? used : 0), row + canvas.row_bytes, value);
    }
}

}  // namespace

Geometry plan(Size source, const InputSpec& spec, double content_scale) {
    const Scale scale = scale_of(source, spec);
    const double height = std::max(1.0, std::nearbyint(content_scale * source.height * scale.y));
    const double width = std::max(1.0, std::nearbyint(content_scale * source.width * scale.x));
    const Size step = step_of(spec);
    const Size canvas = checked(canvas_side(height, spec.size.height, step.height),
                                canvas_side(width, spec.size.width, step.width), source);
    return {source, canvas, {static_cast<int>(height), static_cast<int>(width)}};
}

Geometry fit(const Rgb& image, const InputSpec& spec, double content_scale, std::uint8_t* target) {
    const Geometry geometry = plan(image.size, spec, content_scale);
    const auto row_bytes = static_cast<std::size_t>(geometry.network.width) * kChannels;
    pad({target, geometry.network, row_bytes}, geometry.content, spec.pad_value);
    resize_into({target, geometry.content, row_bytes}, image);
    return geometry;
}

}  // namespace hp
