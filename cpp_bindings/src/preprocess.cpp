#include "preprocess.hpp"

#include <algorithm>
#include <cmath>

#include "resize.hpp"

namespace hp {
namespace {

int fitted(int source, double scale, int network) {
    const double side = std::nearbyint(source * scale);
    return side >= network ? network : std::max(1, static_cast<int>(side));
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
    double scale_y = content_scale * spec.size.height / source.height;
    double scale_x = content_scale * spec.size.width / source.width;
    if (spec.resize == "letterbox") {
        scale_y = scale_x = std::min(scale_y, scale_x);
    }
    return {
        source,
        spec.size,
        {fitted(source.height, scale_y, spec.size.height), fitted(source.width, scale_x, spec.size.width)}};
}

Geometry fit(const Rgb& image, const InputSpec& spec, double content_scale, std::uint8_t* target) {
    const Geometry geometry = plan(image.size, spec, content_scale);
    const auto row_bytes = static_cast<std::size_t>(spec.size.width) * kChannels;
    pad({target, spec.size, row_bytes}, geometry.content, spec.pad_value);
    resize_into({target, geometry.content, row_bytes}, image);
    return geometry;
}

}  // namespace hp
