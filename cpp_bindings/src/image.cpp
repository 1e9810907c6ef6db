#include "image.hpp"

#include <algorithm>
#include <string>

#include "hp/errors.hpp"

namespace hp {
namespace {

constexpr Layout kLayouts[] = {{3, 0, 1, 2}, {3, 2, 1, 0}, {4, 0, 1, 2}, {4, 2, 1, 0}, {1, 0, 0, 0}};

void check(const ImageView& image, std::int64_t row_bytes) {
    const Size size = image.size;
    const std::string given =
        "the image is " + std::to_string(size.height) + " x " + std::to_string(size.width);
    if (image.data == nullptr || size.height < 1 || size.width < 1) {
        throw InputError(given + " and holds no pixel; give height, width and the pixels");
    }
    if (std::int64_t{size.height} * size.width > kMaxPixels) {
        throw InputError(given + " pixels; allowed are " + std::to_string(kMaxPixels));
    }
    if (image.row_bytes < row_bytes) {
        throw InputError(given + " with " + std::to_string(image.row_bytes) + " bytes per row; a row has " +
                         std::to_string(row_bytes) + ", and 0 stands for rows without gaps");
    }
}

void copy_row(const std::uint8_t* from, const Layout& layout, int width, std::uint8_t* to) {
    for (int x = 0; x < width; ++x, from += layout.bytes, to += kChannels) {
        to[0] = from[layout.red];
        to[1] = from[layout.green];
        to[2] = from[layout.blue];
    }
}

std::size_t bytes_of(Size size) {
    return static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width) * kChannels;
}

}  // namespace

const Layout& layout_of(PixelFormat format) {
    const auto index = static_cast<std::size_t>(format);
    if (index >= std::size(kLayouts)) {
        throw InputError("the image's format is " + std::to_string(index) +
                         "; allowed are rgb, bgr, rgba, bgra and grey");
    }
    return kLayouts[index];
}

ImageView checked(const ImageView& image) {
    const std::ptrdiff_t packed = std::ptrdiff_t{image.size.width} * layout_of(image.format).bytes;
    ImageView view = image;
    view.row_bytes = image.row_bytes == 0 ? packed : image.row_bytes;
    check(view, packed);
    return view;
}

Rgb packed_rgb(const ImageView& image, OwnedRgb& storage) {
    const ImageView view = checked(image);
    const Layout& layout = layout_of(image.format);
    if (image.format == PixelFormat::rgb && view.row_bytes == std::ptrdiff_t{image.size.width} * kChannels) {
        return {image.data, image.size};
    }
    storage.size = image.size;
    storage.pixels.resize(bytes_of(image.size));
    const Canvas target{storage.pixels.data(), image.size,
                        static_cast<std::size_t>(image.size.width) * kChannels};
    for (int y = 0; y < image.size.height; ++y) {
        copy_row(image.data + y * view.row_bytes, layout, image.size.width, target.row(y));
    }
    return storage.view();
}

OwnedRgb mirrored(const Rgb& image) {
    OwnedRgb flipped{std::vector<std::uint8_t>(bytes_of(image.size)), image.size};
    std::uint8_t* to = flipped.pixels.data();
    for (int y = 0; y < image.size.height; ++y) {
        for (int x = image.size.width - 1; x >= 0; --x, to += kChannels) {
            std::copy_n(image.row(y) + static_cast<std::size_t>(x) * kChannels, kChannels, to);
        }
    }
    return flipped;
}

}  // namespace hp
