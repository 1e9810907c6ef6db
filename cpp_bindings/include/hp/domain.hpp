// One list of part names and everything that depends on their order.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "hp/export.hpp"

namespace hp {

using Colour = std::array<std::uint8_t, 3>;

// Comes with the bundle.  "Left" and "right" are the person's own; id 0 is always the background.
struct HP_API Domain {
    std::string name;
    std::vector<std::string> names;               // The index is the id in the label map.
    std::vector<std::pair<int, int>> flip_pairs;  // Ids that swap when the picture is mirrored.
    std::vector<Colour> palette;                  // One RGB colour per id.
    std::vector<std::pair<std::string, std::vector<int>>> groups;
    std::vector<std::pair<std::string, int>> aliases;  // Spelling in the wild, id.
    int ignore_index = 255;

    int num_classes() const { return static_cast<int>(names.size()); }

    // Id of each part in the mirrored picture; its own inverse.
    std::vector<int> flip_perm() const;

    // Ids of several parts or groups, by any spelling of them, sorted, each once.
    // Throws InputError where a name is neither.
    std::vector<int> indices(const std::vector<std::string>& wanted) const;
};

}  // namespace hp
