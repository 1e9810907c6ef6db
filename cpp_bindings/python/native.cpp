// The Python module hp_sdk._native; hp_sdk/native.py says when it is asked and what happens without it.
//
// Both functions release the interpreter's lock and keep nothing: any thread may call at any time.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "postprocess.hpp"
#include "resize.hpp"
#include "simd.hpp"

namespace nb = nanobind;

namespace {

constexpr int kMaxClasses = 256;

using Scores = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;  // (K, h, w)
using Plane = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;  // (H, W)
using Photo = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Input = nb::ndarray<std::uint8_t, nb::shape<-1, -1, 3>, nb::device::cpu>;
using SizeHw = std::tuple<int, int>;
// Scores, then source_hw, network_hw and content_hw of the geometry, then whether the view is mirrored.
using GivenView = std::tuple<Scores, SizeHw, SizeHw, SizeHw, bool>;

template <typename Array>
int side(const Array& array, size_t axis) {
    return static_cast<int>(array.shape(axis));
}

hp::Size size_of(SizeHw hw) {
    return {std::get<0>(hw), std::get<1>(hw)};
}

// A number that is not finite makes the sum NaN.
HP_SIMD bool are_finite(const float* values, std::size_t count) {
    std::int32_t found = 0;
    for (std::size_t i = 0; i < count; ++i) {
        found |= !(std::fabs(values[i]) <= 3.4028234e38F);
    }
    return found == 0;
}

hp::View view_of(const GivenView& given) {
    const auto& [scores, source, network, content, mirrored] = given;
    return {scores.data(),
            side(scores, 0),
            {side(scores, 1), side(scores, 2)},
            {size_of(source), size_of(network), size_of(content)},
            mirrored};
}

// What has no answer here, or another one than in Python, is left to Python.
bool can_label(const hp::View& view, const hp::View& first, const Plane& labels) {
    const hp::Geometry& at = view.geometry;
    const auto cells =
        static_cast<std::size_t>(view.cells.height) * static_cast<std::size_t>(view.cells.width);
    return view.classes == first.classes && at.source == first.geometry.source &&
           at.source == hp::Size{side(labels, 0), side(labels, 1)} && view.classes > 0 &&
           view.classes <= kMaxClasses && cells > 0 && view.cells.height <= at.network.height &&
           view.cells.width <= at.network.width && at.content.height > 0 && at.content.width > 0 &&
           are_finite(view.scores, cells * static_cast<std::size_t>(view.classes));
}

bool label(const std::vector<GivenView>& given, bool are_logits, int threads, const Plane& labels,
           const std::optional<Plane>& confidence) {
    const nb::gil_scoped_release released;
    std::vector<hp::View> views(given.size());
    std::transform(given.begin(), given.end(), views.begin(), view_of);
    if (views.empty() || labels.size() == 0 ||
        !std::all_of(views.begin(), views.end(),
                     [&](const auto& view) { return can_label(view, views[0], labels); })) {
        return false;
    }
    hp::write_labels(views, are_logits, threads, labels.data(), confidence ? confidence->data() : nullptr);
    return true;
}

bool shrink(const Input& target, const Photo& photo, int threads) {
    const hp::Canvas canvas{
        target.data(), {side(target, 0), side(target, 1)}, static_cast<std::size_t>(target.stride(0))};
    const hp::Rgb source{photo.data(), {side(photo, 0), side(photo, 1)}};
    const bool is_packed = target.stride(2) == 1 && target.stride(1) == hp::kChannels && target.stride(0) > 0;
    if (!is_packed || target.size() == 0 || !hp::is_fractional_area(source.size, canvas.size)) {
        return false;
    }
    const nb::gil_scoped_release released;
    hp::resize_into(canvas, source, threads);
    return true;
}

}  // namespace

NB_MODULE(_native, module) {
    module.attr("STAMP") = HP_NATIVE_STAMP;
    module.def("label", &label, nb::arg("views"), nb::arg("are_logits"), nb::arg("threads"),
               nb::arg("labels").noconvert(), nb::arg("confidence").noconvert().none(),
               "Write labels (H, W), and confidence if given; False where nothing was written.");
    module.def("shrink", &shrink, nb::arg("target").noconvert(), nb::arg("photo").noconvert(),
               nb::arg("threads"),
               "Write a photo (H, W, 3) to a smaller target (h, w, 3); False where nothing was written.");
}
