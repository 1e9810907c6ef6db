// Test-time augmentation: several views of one photo, one answer.
//
// A mirrored view is answered with left and right exchanged, so its classes are swapped back by the
// domain's flip pairs before the views are averaged, in the photo's own pixels.  The family `sst`
// averages logits, others average probabilities formed on the network's grid.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/base.hpp"
#include "hp/domain.hpp"
#include "planes.hpp"

namespace hp {

struct Tta {
    std::vector<double> scales = {1.0};  // Size of the photo inside the network's input, up to 1.
    bool flip = false;                   // Ask each scale a second time, mirrored.
    bool averages_logits = true;

    int num_views() const { return static_cast<int>(scales.size()) * (flip ? 2 : 1); }
    bool gives_logits() const { return averages_logits || num_views() == 1; }
    // As a receipt names it.
    std::string text() const;
};

// "none" (or nothing), "flip", "ms", "ms+flip".  Throws ConfigError.
Tta choose_tta(const std::string& name, const std::string& family);

// One network input of a photo.
struct FittedView {
    Geometry geometry;
    bool mirrored = false;
};

// Write the network inputs to ask about one photo, the plain one first, one after another.
std::vector<FittedView> fit_views(const Rgb& image, const InputSpec& spec, const Tta& tta,
                                  std::uint8_t* target);

// The answers to `fitted`, from input `first` of a run on; `storage` holds those that are not used
// as they came.
std::vector<View> merge_views(const std::vector<FittedView>& fitted, const Tensor& logits, int first,
                              const Domain& domain, const Tta& tta, std::vector<float>& storage);

}  // namespace hp
