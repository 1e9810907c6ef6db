// A photo is fitted into the network's input, and the way back is remembered.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "image.hpp"

namespace hp {

// How a photo becomes the network's input; normalisation itself lies inside the graph.
struct InputSpec {
    Size size;
    std::string resize = "letterbox";
    std::uint8_t pad_value = 114;
    std::optional<Size> stride;     // From window to window, in pixels; see windows.hpp.
    std::optional<int> longest_px;  // Longest side of a "shortest-side" photo; else four times the input's.
};

// Where the photo lies in the network's input: rows 0..content.height, columns 0..content.width.  Where the
// photo is larger than the input, `network` is the size of a canvas that windows of the input's size cover.
struct Geometry {
    Size source;
    Size network;
    Size content;
};

// Where a photo of this size will lie.  Sides are rounded half to even, as in Python; `content_scale` is the
// size of the photo, times what the policy says.  Throws InputError where the canvas would be enormous.
Geometry plan(Size source, const InputSpec& spec, double content_scale);

// Write the network's input, or a canvas of windows, (h, w, 3) to `target`, which has the size that plan()
// says: "letterbox" keeps the aspect ratio and pads right and below, "stretch" fills the input,
// "shortest-side" keeps the aspect ratio and covers it.
Geometry fit(const Rgb& image, const InputSpec& spec, double content_scale, std::uint8_t* target);

}  // namespace hp
