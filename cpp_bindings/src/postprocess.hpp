// Scores on the network's grid become labels in the photo's own pixels.
//
// Scores are resized, labels never are: every class is interpolated straight to the source size, and the
// argmax comes last.  Ties go to the lower id.  A class is computed only in the tiles where it could win.
#pragma once

#include <cstdint>
#include <vector>

#include "planes.hpp"

namespace hp {

struct Labels {
    std::vector<std::uint8_t> labels;
    std::vector<std::uint8_t> confidence;  // Winner's probability times 255.
};

// Labels where the mean over all views of one photo is largest; no confidence.
Labels merged_labels(const std::vector<View>& views);

// Labels and confidence: the softmax of the mean logits, or the mean itself where the scores are
// probabilities already.
Labels merged_labels_and_confidence(const std::vector<View>& views, bool are_logits);

// The same into memory of the caller, (height, width) of the photo; `confidence` may be null.  Large
// photos are shared by up to `threads` threads.
void write_labels(const std::vector<View>& views, bool are_logits, int threads, std::uint8_t* labels,
                  std::uint8_t* confidence);

}  // namespace hp
