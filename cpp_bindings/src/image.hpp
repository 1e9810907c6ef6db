// Pictures inside the library: packed 8-bit RGB, and a window of one to write into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hp/image.hpp"

namespace hp {

inline constexpr int kChannels = 3;
inline constexpr std::int64_t kMaxPixels = std::int64_t{1} << 30;

// A picture (height, width, 3) that belongs to someone else; rows follow each other without gaps.
struct Rgb {
    const std::uint8_t* data = nullptr;
    Size size;

    const std::uint8_t* row(int y) const {
        return data + static_cast<std::size_t>(y) * static_cast<std::size_t>(size.width) * kChannels;
    }
};

// Part of a larger picture (rows `row_bytes` apart) to be written.
struct Canvas {
    std::uint8_t* data = nullptr;
    Size size;
    std::size_t row_bytes = 0;

    std::uint8_t* row(int y) const { return data + static_cast<std::size_t>(y) * row_bytes; }
};

// A picture with its memory, where the caller's cannot be used as it is.
struct OwnedRgb {
    std::vector<std::uint8_t> pixels;
    Size size;

    Rgb view() const { return {pixels.data(), size}; }
};

// Bytes of a pixel, and where red, green and blue lie in it.
struct Layout {
    int bytes;
    int red;
    int green;
    int blue;
};

// Throws InputError where there is no such format.
const Layout& layout_of(PixelFormat format);

// The same picture with its row_bytes stated.  Throws InputError where the view describes no picture.
ImageView checked(const ImageView& image);

// The caller's picture as packed RGB; `storage` is used only where it is something else.
// Throws InputError where the view describes no picture.
Rgb packed_rgb(const ImageView& image, OwnedRgb& storage);

// Left and right exchanged.
OwnedRgb mirrored(const Rgb& image);

}  // namespace hp
