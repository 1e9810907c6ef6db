// Single steps of the library for tests that compare them with Python, through plain C functions.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <stdexcept>

#include "hp/export.hpp"
#include "inflate.hpp"
#include "postprocess.hpp"
#include "preprocess.hpp"
#include "windows.hpp"

namespace {

hp::InputSpec spec_of(const int* network_hw, const char* resize, int pad, const int* window) {
    hp::InputSpec spec;
    spec.size = {network_hw[0], network_hw[1]};
    spec.resize = resize;
    spec.pad_value = static_cast<std::uint8_t>(pad);
    if (window[0] > 0) {
        spec.stride = hp::Size{window[0], window[1]};
    }
    if (window[2] > 0) {
        spec.longest_px = window[2];
    }
    return spec;
}

}  // namespace

extern "C" {

// `sizes` becomes (h, w) of the canvas and of where the photo lies in it, and `target` the canvas; with NULL
// for `target` it is only planned.  `window` is (stride_h, stride_w, longest_px), 0 standing for none.
HP_API void probe_fit(const std::uint8_t* photo, const int* photo_hw, const int* network_hw,
                      const char* resize, int pad, const int* window, double scale, std::uint8_t* target,
                      int* sizes) {
    const hp::InputSpec spec = spec_of(network_hw, resize, pad, window);
    const hp::Size size{photo_hw[0], photo_hw[1]};
    const auto geometry =
        target == nullptr ? hp::plan(size, spec, scale) : hp::fit({photo, size}, spec, scale, target);
    const int found[] = {geometry.network.height, geometry.network.width, geometry.content.height,
                         geometry.content.width};
    std::copy(std::begin(found), std::end(found), sizes);
}

// Number of windows of a canvas, and (top, left) of each for up to `room` of them.
HP_API int probe_corners(const int* canvas_hw, const int* network_hw, const int* window, int room, int* at) {
    const auto list =
        hp::corners({canvas_hw[0], canvas_hw[1]}, spec_of(network_hw, "shortest-side", 0, window));
    for (std::size_t i = 0; i < list.size() && static_cast<int>(i) < room; ++i) {
        at[2 * i] = list[i].top;
        at[2 * i + 1] = list[i].left;
    }
    return static_cast<int>(list.size());
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
