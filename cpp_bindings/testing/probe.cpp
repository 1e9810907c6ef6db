// Single steps of the library for tests that compare them with Python, through plain C functions.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "hp/export.hpp"
#include "inflate.hpp"
#include "postprocess.hpp"
#include "preprocess.hpp"

extern "C" {

// `content_hw` becomes where the photo lies in `target`.
HP_API void probe_fit(const std::uint8_t* photo, const int* photo_hw, const int* network_hw, int stretch,
                      int pad, double scale, std::uint8_t* target, int* content_hw) {
    const hp::InputSpec spec{
        {network_hw[0], network_hw[1]}, stretch ? "stretch" : "letterbox", static_cast<std::uint8_t>(pad)};
    const auto geometry = hp::fit({photo, {photo_hw[0], photo_hw[1]}}, spec, scale, target);
    content_hw[0] = geometry.content.height;
    content_hw[1] = geometry.content.width;
}

// Labels from `views` score grids (classes, h, w), one after another; every second one is mirrored where
// there are several.  `contents` has one (h, w) per view; `confidence` may be NULL.
HP_API void probe_labels(const float* scores, int views, int classes, const int* cells_hw,
                         const int* source_hw, const int* network_hw, const int* contents, int are_logits,
                         std::uint8_t* labels, std::uint8_t* confidence) {
    const hp::Size cells{cells_hw[0], cells_hw[1]};
    std::vector<hp::View> list;
    for (int v = 0; v < views; ++v) {
        const hp::Geometry geometry{{source_hw[0], source_hw[1]},
                                    {network_hw[0], network_hw[1]},
                                    {contents[2 * v], contents[2 * v + 1]}};
        const auto offset = static_cast<std::size_t>(v) * static_cast<std::size_t>(classes) *
                            static_cast<std::size_t>(cells.height * cells.width);
        list.push_back({scores + offset, classes, cells, geometry, v % 2 == 1});
    }
    const hp::Labels answer = confidence == nullptr ? hp::merged_labels(list)
                                                    : hp::merged_labels_and_confidence(list, are_logits != 0);
    std::copy(answer.labels.begin(), answer.labels.end(), labels);
    std::copy(answer.confidence.begin(), answer.confidence.end(), confidence);
}

// 64 hex digits and a zero.
HP_API void probe_sha256(const std::uint8_t* data, std::size_t size, char* hex) {
    std::strcpy(hex, hp::sha256_of({data, data + size}).c_str());
}

// 0, or 1 where the stream is refused.
HP_API int probe_inflate(const std::uint8_t* data, std::size_t data_size, std::uint8_t* out,
                         std::size_t size) {
    try {
        const hp::Bytes content = hp::inflate(data, data_size, size);
        std::copy(content.begin(), content.end(), out);
        return 0;
    } catch (const std::runtime_error&) {
        return 1;
    }
}

}  // extern "C"
