// What to answer about photos, and a device's own way from photos to labels.
#pragma once

#include <string>
#include <vector>

#include "hp/image.hpp"
#include "postprocess.hpp"
#include "tta.hpp"

namespace hp {

struct Bundle;

// What to answer about each photo.
struct Ask {
    std::vector<std::string> heads;
    Tta tta;
    bool confidence = false;
};

// A backend that fits photos and makes labels where the network runs, so that only labels come back.
class Pipeline {
public:
    virtual ~Pipeline() = default;

    // Whether it can answer about photos of these sizes; windows and a few others it cannot.
    virtual bool takes(const Bundle& bundle, const std::vector<ImageView>& images, const Ask& ask) const = 0;

    // Labels (image, head) of photos that packed_rgb() takes and whose row_bytes are stated.
    virtual std::vector<std::vector<Labels>> parse(const Bundle& bundle, const std::vector<ImageView>& images,
                                                   const Ask& ask) const = 0;
};

}  // namespace hp
