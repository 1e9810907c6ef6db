#include "planes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "hp/errors.hpp"

namespace hp {
namespace {

using std::size_t;

int stride_of(int network, int grid) {
    if (grid < 1 || grid > network) {
        throw SchemaMismatch("the network answers with " + std::to_string(grid) + " cells for " +
                             std::to_string(network) + " pixels; export the bundle again");
    }
    return network / grid;
}

float corner_max(const float* line, const float* next, int x, int x_next) {
    return std::max(std::max(line[x], line[x_next]), std::max(next[x], next[x_next]));
}

float corner_min(const float* line, const float* next, int x, int x_next) {
    return std::min(std::min(line[x], line[x_next]), std::min(next[x], next[x_next]));
}

// Where class k is larger than the best so far, in pixels 0..count-1 between two cells.
void take_over(int k, float left, float right, const float* weight, size_t count, float* best, int* winner) {
    for (size_t i = 0; i < count; ++i) {
        const float score = left * (1.0F - weight[i]) + right * weight[i];
        const bool wins = score > best[i];
        best[i] = wins ? score : best[i];
        winner[i] = wins ? k : winner[i];
    }
}

}  // namespace

Axis::Axis(int pixels, int content, int network, int grid) {
    const int stride = stride_of(network, grid);
    cells_ = std::min((content + stride - 1) / stride, grid);
    const double step = static_cast<double>(content) / (static_cast<double>(pixels) * stride);
    cell_.resize(static_cast<size_t>(pixels));
    weight_.resize(static_cast<size_t>(pixels));
    for (int x = 0; x < pixels; ++x) {
        const double at = std::clamp((x + 0.5) * step - 0.5, 0.0, cells_ - 1.0);
        const int cell = std::min(static_cast<int>(at), std::max(cells_ - 2, 0));
        cell_[static_cast<size_t>(x)] = cell;
        weight_[static_cast<size_t>(x)] = static_cast<float>(at - cell);
        if (gaps_.empty() || gaps_.back().cell != cell) {
            gaps_.push_back({cell, x, x});
        }
        gaps_.back().last = x + 1;
    }
}

Planes::Planes(const View& view)
    : view_(view),
      y_(view.geometry.source.height, view.geometry.content.height, view.geometry.network.height,
         view.cells.height),
      x_(view.geometry.source.width, view.geometry.content.width, view.geometry.network.width,
         view.cells.width),
      lines_(static_cast<size_t>(view.classes) * static_cast<size_t>(x_.cells())),
      contenders_(x_.gaps().size()),
      best_(static_cast<size_t>(x_.pixels())),
      winner_(static_cast<size_t>(x_.pixels())) {}

// Line 0 of class k on the grid.
const float* Planes::line(int k) const {
    const auto cells = static_cast<size_t>(view_.cells.height) * static_cast<size_t>(view_.cells.width);
    return view_.scores + static_cast<size_t>(k) * cells;
}

void Planes::read_row(int y) {
    const int cell = y_.cell(y);
    const float weight = y_.weight(y);
    float* out = lines_.data();
    for (int k = 0; k < view_.classes; ++k, out += x_.cells()) {
        const float* upper = line(k) + static_cast<size_t>(cell) * static_cast<size_t>(view_.cells.width);
        const float* lower =
            line(k) + static_cast<size_t>(y_.next(cell)) * static_cast<size_t>(view_.cells.width);
        for (int x = 0; x < x_.cells(); ++x) {
            out[x] = upper[x] * (1.0F - weight) + lower[x] * weight;
        }
    }
    cell_y_ = cell;
}

void Planes::add_class(int k, float* row) const {
    const float* cells = lines_.data() + static_cast<size_t>(k) * static_cast<size_t>(x_.cells());
    const int last = x_.pixels() - 1;
    for (const Gap& gap : x_.gaps()) {
        const float left = cells[gap.cell];
        const float right = cells[x_.next(gap.cell)];
        for (int x = gap.first; x < gap.last; ++x) {
            const float weight = x_.weight(x);
            row[view_.mirrored ? last - x : x] += left * (1.0F - weight) + right * weight;
        }
    }
}

void Planes::winners(std::uint8_t* labels) {
    if (contested_y_ != cell_y_) {
        contested_y_ = cell_y_;
        find_contenders(cell_y_);
    }
    for (size_t number = 0; number < x_.gaps().size(); ++number) {
        win_gap(x_.gaps()[number], number, labels);
    }
    if (view_.mirrored) {
        std::reverse(labels, labels + x_.pixels());
    }
}

void Planes::find_contenders(int cell_y) {
    for (size_t number = 0; number < x_.gaps().size(); ++number) {
        const int cell = x_.gaps()[number].cell;
        contenders_[number].clear();
        const int width = view_.cells.width;
        const auto upper = static_cast<size_t>(cell_y) * static_cast<size_t>(width);
        const auto lower = static_cast<size_t>(y_.next(cell_y)) * static_cast<size_t>(width);
        float at_least = -std::numeric_limits<float>::infinity();
        for (int k = 0; k < view_.classes; ++k) {
            at_least = std::max(at_least, corner_min(line(k) + upper, line(k) + lower, cell, x_.next(cell)));
        }
        for (int k = 0; k < view_.classes; ++k) {
            if (corner_max(line(k) + upper, line(k) + lower, cell, x_.next(cell)) >= at_least) {
                contenders_[number].push_back(k);
            }
        }
    }
}

void Planes::win_gap(const Gap& gap, size_t number, std::uint8_t* labels) {
    const std::vector<int>& contenders = contenders_[number];
    const auto first = static_cast<size_t>(gap.first);
    const auto count = static_cast<size_t>(gap.last - gap.first);
    if (contenders.size() < 2) {
        const int winner = contenders.empty() ? 0 : contenders.front();
        std::fill_n(labels + first, count, static_cast<std::uint8_t>(winner));
        return;
    }
    std::fill_n(best_.data(), count, -std::numeric_limits<float>::infinity());
    std::fill_n(winner_.data(), count, 0);
    for (const int k : contenders) {
        const float* cells = lines_.data() + static_cast<size_t>(k) * static_cast<size_t>(x_.cells());
        take_over(k, cells[gap.cell], cells[x_.next(gap.cell)], x_.weights() + first, count, best_.data(),
                  winner_.data());
    }
    std::transform(winner_.data(), winner_.data() + count, labels + first,
                   [](int k) { return static_cast<std::uint8_t>(k); });
}

}  // namespace hp
