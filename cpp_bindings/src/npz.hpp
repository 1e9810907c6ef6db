// NumPy's archives of uint8 arrays, as golden samples are stored.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "files.hpp"

namespace hp {

struct Array {
    std::vector<int> shape;
    Bytes values;
};

// Arrays by name.  Throws CorruptArtifact where the content is damaged or holds something else.
std::map<std::string, Array> parse_npz(const Bytes& content, const std::string& name);

}  // namespace hp
