#include "golden.hpp"

#include "files.hpp"
#include "hp/errors.hpp"

namespace hp {
namespace {

Array take(std::map<std::string, Array>& arrays, const std::string& name, const std::string& file) {
    const auto found = arrays.find(name);
    if (found == arrays.end()) {
        throw CorruptArtifact("the golden sample '" + file + "' lacks " + name + "; export again");
    }
    return std::move(found->second);
}

OwnedRgb picture(Array array, const std::string& file) {
    const bool fits = array.shape.size() == 3 && array.shape[2] == kChannels && !array.values.empty();
    if (!fits) {
        throw CorruptArtifact("the golden sample '" + file + "' holds no picture; export again");
    }
    return {std::move(array.values), {array.shape[0], array.shape[1]}};
}

}  // namespace

GoldenSample read_golden(const Bundle& bundle) {
    if (!bundle.golden) {
        throw CorruptArtifact("bundle '" + bundle.name + "' has no golden sample; export it again");
    }
    const std::string& file = bundle.golden->file;
    auto arrays = parse_npz(verified_bytes(bundle, file, bundle.golden->sha256), file);
    GoldenSample sample;
    sample.image = picture(take(arrays, "image", file), file);
    for (const auto& head : bundle.heads) {
        Array labels = take(arrays, "labels." + head.first, file);
        if (labels.shape != std::vector<int>{sample.image.size.height, sample.image.size.width}) {
            throw CorruptArtifact("the golden labels of " + head.first +
                                  " have another size than the picture; export again");
        }
        sample.labels[head.first] = std::move(labels);
    }
    return sample;
}

double agreement(const std::vector<std::uint8_t>& labels, const Array& golden) {
    std::size_t same = 0;
    for (std::size_t i = 0; i < labels.size(); ++i) {
        same += labels[i] == golden.values[i];
    }
    return static_cast<double>(same) / static_cast<double>(labels.size());
}

}  // namespace hp
