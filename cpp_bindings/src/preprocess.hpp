// A photo is fitted into the network's input, and the way back is remembered.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "image.hpp"

namespace hp {

// How a photo becomes the network's input; normalisation itself lies inside the graph.
struct InputSpec {
    Size size;
    std::string resize = "letterbox";
    std::uint8_t pad_value = 114;
};

// Where the photo lies in the network's input: rows 0..content.height, columns 0..content.width.
struct Geometry {
    Size source;
    Size network;
    Size content;
};

// Where a photo of this size will lie.  Sides are rounded half to even, as in Python.
Geometry plan(Size source, const InputSpec& spec, double content_scale);

// Write the network's input (h, w, 3) to `target`: "letterbox" keeps the aspect ratio and pads right
// and below, "stretch" fills the input.  `content_scale` in (0, 1] leaves a part of the input unused.
Geometry fit(const Rgb& image, const InputSpec& spec, double content_scale, std::uint8_t* target);

}  // namespace hp
