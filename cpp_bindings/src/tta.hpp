// Test-time augmentation: several views of one photo, one answer.
//
// A mirrored view is answered with left and right exchanged, so its classes are swapped back by the
// domain's flip pairs before the views are averaged, in the photo's own pixels.  The family `sst`
// averages logits, others average probabilities formed on the network's grid; a paper's set averages what its
// authors did.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hp/domain.hpp"
#include "planes.hpp"
#include "windows.hpp"

namespace hp {

struct Tta {
    std::vector<double> scales = {1.0};  // Sizes of the photo, times its plain one; above 1 through windows.
    bool flip = false;                   // Ask each scale a second time, mirrored.
    bool averages_logits = true;

    int num_views() const { return static_cast<int>(scales.size()) * (flip ? 2 : 1); }
    bool gives_logits() const { return averages_logits || num_views() == 1; }
    // As a receipt names it.
    std::string text() const;
};

// "none" (or nothing), "flip", "ms", "ms+flip", and what the papers' authors did: "graphonomy" and "schnet",
// each also with "+flip".  Throws ConfigError.
Tta choose_tta(const std::string& name, const std::string& family);

// One network input of a photo, or a larger canvas of windows, in a row of others.
struct FittedView {
    Geometry geometry;
    bool mirrored = false;
    std::size_t offset = 0;  // Of its first byte.
};

// Append the network inputs to ask about one photo to `pixels`, the plain one first.
std::vector<FittedView> fit_views(const Rgb& image, const InputSpec& spec, const Tta& tta,
                                  std::vector<std::uint8_t>& pixels);

// The answers to `fitted`, one for each; `storage` holds those that are not used as they came.
std::vector<View> merge_views(const std::vector<FittedView>& fitted, const Scores* scores,
                              const Domain& domain, const Tta& tta, std::vector<std::vector<float>>& storage);

}  // namespace hp
