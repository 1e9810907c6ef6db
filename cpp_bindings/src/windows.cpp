#include "windows.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace hp {
namespace {

using std::size_t;

constexpr int kStep = 32;

int stride_of(int side, int step) {
    return std::max(step, static_cast<int>(2LL * side / 3) / step * step);
}

std::vector<int> starts(int canvas, int side, int stride) {
    const int last = canvas - side;
    std::vector<int> list;
    for (int at = 0; at < last; at += stride) {
        list.push_back(at);
    }
    list.push_back(last);
    return list;
}

}  // namespace

Size step_of(const InputSpec& spec) {
    return {std::gcd(kStep, spec.size.height), std::gcd(kStep, spec.size.width)};
}

Size window_stride(const InputSpec& spec) {
    const Size step = step_of(spec);
    return spec.stride.value_or(
        Size{stride_of(spec.size.height, step.height), stride_of(spec.size.width, step.width)});
}

double canvas_side(double content, int side, int step) {
    return side + std::max(0.0, std::ceil((content - side) / step) * step);
}

std::vector<Corner> corners(Size canvas, const InputSpec& spec) {
    const Size stride = window_stride(spec);
    std::vector<Corner> list;
    for (const int top : starts(canvas.height, spec.size.height, stride.height)) {
        for (const int left : starts(canvas.width, spec.size.width, stride.width)) {
            list.push_back({top, left});
        }
    }
    return list;
}

void copy_window(const Rgb& canvas, Corner corner, Size window, std::uint8_t* target) {
    const auto bytes = static_cast<size_t>(window.width) * kChannels;
    for (int y = 0; y < window.height; ++y) {
        const std::uint8_t* from = canvas.row(corner.top + y) + static_cast<size_t>(corner.left) * kChannels;
        std::copy_n(from, bytes, target + static_cast<size_t>(y) * bytes);
    }
}

void Mosaic::add(Corner corner, const Scores& scores) {
    if (canvas_ == window_) {
        only_ = scores;
        return;
    }
    if (total_.empty()) {
        stride_ = {window_.height / scores.cells.height, window_.width / scores.cells.width};
        begin(scores.classes);
    }
    const auto columns = static_cast<size_t>(scores.cells.width);
    const float* from = scores.values.get();
    for (int k = 0; k < classes_; ++k) {
        for (int y = 0; y < scores.cells.height; ++y, from += columns) {
            float* to = total_.data() + static_cast<size_t>(k) * count_.size() + cell_of(corner, y);
            std::transform(from, from + columns, to, to, std::plus<>());
        }
    }
    for (int y = 0; y < scores.cells.height; ++y) {
        float* count = count_.data() + cell_of(corner, y);
        std::for_each(count, count + columns, [](float& windows) { ++windows; });
    }
}

size_t Mosaic::cell_of(Corner corner, int row) const {
    const int y = corner.top / stride_.height + row;
    return static_cast<size_t>(y) * static_cast<size_t>(cells_.width) +
           static_cast<size_t>(corner.left / stride_.width);
}

void Mosaic::begin(int classes) {
    classes_ = classes;
    cells_ = {canvas_.height / stride_.height, canvas_.width / stride_.width};
    count_.resize(static_cast<size_t>(cells_.height) * static_cast<size_t>(cells_.width));
    total_.resize(count_.size() * static_cast<size_t>(classes));
}

Scores Mosaic::mean() {
    if (canvas_ == window_) {
        return std::move(only_);
    }
    for (size_t i = 0; i < total_.size(); ++i) {
        total_[i] /= count_[i % count_.size()];
    }
    const auto owned = std::make_shared<const std::vector<float>>(std::move(total_));
    return {{owned, owned->data()}, classes_, cells_};
}

}  // namespace hp
