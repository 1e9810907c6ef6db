// The golden sample: a picture and the labels the network gave, replayed on any machine.
#pragma once

#include <map>
#include <string>

#include "bundle.hpp"
#include "npz.hpp"

namespace hp {

struct GoldenSample {
    OwnedRgb image;
    std::map<std::string, Array> labels;  // By head, (h, w) of the image.
};

// Throws CorruptArtifact (there is none that can be read) or ChecksumMismatch.
GoldenSample read_golden(const Bundle& bundle);

// Part of the pixels with the golden label.
double agreement(const std::vector<std::uint8_t>& labels, const Array& golden);

}  // namespace hp
