// What parsing one photo gives: a label map and what it takes to trust and to use it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "hp/domain.hpp"
#include "hp/export.hpp"
#include "hp/image.hpp"

namespace hp {

// What really ran, as opposed to what was asked for.
struct Receipt {
    std::string model;     // Name and version of the bundle.
    std::string head;      // Label domain that was answered.
    std::string backend;   // Runtime and version, such as "onnxruntime 1.24.0".
    std::string provider;  // Device in the runtime's own words.
    std::string artifact;  // File and the start of its sha256.
    std::string precision;
    std::string tta;
    std::vector<std::string> notes;  // Anything worth knowing, such as an accepted fallback.
};

// Milliseconds per step; photos of one batch share the network's time equally.
struct Timing {
    double fit_ms = 0;
    double network_ms = 0;
    double labels_ms = 0;
};

// Parts of one photo, pixel for pixel in the photo's own size, row by row without gaps.
struct HP_API Result {
    Size size;
    std::vector<std::uint8_t> labels;      // Ids of `domain`.
    std::vector<std::uint8_t> confidence;  // Winner's probability times 255; empty unless asked for.
    std::shared_ptr<const Domain> domain;
    Receipt receipt;
    Timing timing;

    // Pixels of each part found, the largest first; without the background.
    std::vector<std::pair<std::string, std::int64_t>> areas() const;

    // 1 where any of these parts or groups is, else 0: mask({"hair"}), mask({"arms", "face"}).
    // Throws InputError where no name is given, or one that the domain does not have.
    std::vector<std::uint8_t> mask(const std::vector<std::string>& names) const;
};

}  // namespace hp
