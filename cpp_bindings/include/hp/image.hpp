// A photo as the caller holds it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hp {

// Height and width in pixels.
struct Size {
    int height = 0;
    int width = 0;

    friend bool operator==(Size a, Size b) { return a.height == b.height && a.width == b.width; }
    friend bool operator!=(Size a, Size b) { return !(a == b); }
};

// Order of the channels, one byte each.  Alpha is ignored, grey is taken as equal red, green, blue.
enum class PixelFormat { rgb, bgr, rgba, bgra, grey };

// Pixels that belong to the caller, who keeps them until the call has returned.  The picture must be
// upright: a rotation noted beside the pixels (EXIF) has to be applied before.
struct ImageView {
    const std::uint8_t* data = nullptr;
    Size size;
    PixelFormat format = PixelFormat::rgb;
    std::ptrdiff_t row_bytes = 0;  // From one row to the next; 0 where rows follow without gaps.
};

}  // namespace hp
