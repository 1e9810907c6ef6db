#include "planes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "hp/errors.hpp"
#include "simd.hpp"

namespace hp {
namespace {

using std::size_t;

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr float kRounding = 1e-5F;  // More than interpolation can lose of a score, as a share of it.

int stride_of(int network, int grid) {
    if (grid < 1 || grid > network) {
        throw SchemaMismatch("the network answers with " + std::to_string(grid) + " cells for " +
                             std::to_string(network) + " pixels; export the bundle again");
    }
    return network / grid;
}

// Pixels in runs that lie between the same cells on all axes.
std::vector<Span> runs(const std::vector<const Axis*>& axes) {
    std::vector<Span> list;
    for (int x = 0; x < axes[0]->pixels(); ++x) {
        const bool is_new = x == 0 || std::any_of(axes.begin(), axes.end(), [x](const Axis* axis) {
                                return axis->cell(x) != axis->cell(x - 1);
                            });
        if (is_new) {
            list.push_back({x, x});
        }
        list.back().last = x + 1;
    }
    return list;
}

HP_SIMD void blend_rows(const float* upper, const float* lower, float weight, size_t count, float* out) {
    for (size_t i = 0; i < count; ++i) {
        out[i] = upper[i] * (1.0F - weight) + lower[i] * weight;
    }
}

HP_SIMD void add_rows(const float* upper, const float* lower, float weight, size_t count, float* out) {
    for (size_t i = 0; i < count; ++i) {
        out[i] += upper[i] * (1.0F - weight) + lower[i] * weight;
    }
}

// Where class k is larger than the best so far; the second best follows.  A NaN is never larger.
HP_SIMD void rank(std::int32_t k, const float* scores, size_t count, float* best, float* second,
                  std::int32_t* winner) {
    for (size_t i = 0; i < count; ++i) {
        const float score = scores[i];
        const float former = best[i];
        const std::int32_t leader = winner[i];
        second[i] = std::max(second[i], std::min(score, former));
        best[i] = std::max(former, score);
        winner[i] = score > former ? k : leader;
    }
}

HP_SIMD void find_lead(const float* best, const float* second, size_t count, float* lead) {
    for (size_t i = 0; i < count; ++i) {
        lead[i] = best[i] - second[i] - kRounding * std::abs(best[i]);
    }
}

HP_SIMD void scale(float factor, size_t count, float* values) {
    for (size_t i = 0; i < count; ++i) {
        values[i] *= factor;
    }
}

}  // namespace

Axis::Axis(int pixels, int content, int network, int grid, bool mirrored) {
    const int stride = stride_of(network, grid);
    cells_ = std::min((content + stride - 1) / stride, grid);
    const double step = static_cast<double>(content) / (static_cast<double>(pixels) * stride);
    cell_.reserve(static_cast<size_t>(pixels));
    weight_.reserve(static_cast<size_t>(pixels));
    for (int x = 0; x < pixels; ++x) {
        const double at = std::clamp((x + 0.5) * step - 0.5, 0.0, cells_ - 1.0);
        const int cell = std::min(static_cast<int>(at), std::max(cells_ - 2, 0));
        cell_.push_back(cell);
        weight_.push_back(static_cast<float>(at - cell));
    }
    if (mirrored) {
        std::reverse(cell_.begin(), cell_.end());
        std::reverse(weight_.begin(), weight_.end());
    }
}

Planes::Planes(const std::vector<View>& views) : classes_(views[0].classes) {
    std::vector<const Axis*> rows;
    std::vector<const Axis*> columns;
    views_.reserve(views.size());
    for (const View& view : views) {
        const Geometry& at = view.geometry;
        views_.push_back(
            {view, Axis(at.source.height, at.content.height, at.network.height, view.cells.height, false),
             Axis(at.source.width, at.content.width, at.network.width, view.cells.width, view.mirrored)});
        rows.push_back(&views_.back().y);
        columns.push_back(&views_.back().x);
    }
    bands_ = runs(rows);
    gaps_ = runs(columns);
}

const float* Planes::Grid::line(int k, int cell_y) const {
    const auto width = static_cast<size_t>(view.cells.width);
    return view.scores +
           (static_cast<size_t>(k) * static_cast<size_t>(view.cells.height) + static_cast<size_t>(cell_y)) *
               width;
}

Leads Planes::Grid::leads(int cell_y) const {
    const auto count = static_cast<size_t>(x.cells());
    std::vector<float> best(count, kLowest);
    std::vector<float> second(count, kLowest);
    Leads found{std::vector<std::int32_t>(count, 0), std::vector<float>(count)};
    for (int k = 0; k < view.classes; ++k) {
        rank(k, line(k, cell_y), count, best.data(), second.data(), found.winner.data());
    }
    find_lead(best.data(), second.data(), count, found.lead.data());
    return found;
}

// For each column of cells the class that leads by more than `margin` on both lines, or -1.
std::vector<std::int32_t> Planes::Grid::leaders(int cell_y, float margin) const {
    Leads upper = leads(cell_y);
    const Leads lower = leads(y.next(cell_y));
    for (size_t i = 0; i < upper.winner.size(); ++i) {
        const bool agree = upper.winner[i] == lower.winner[i];
        const bool lead = upper.lead[i] > margin && lower.lead[i] > margin;
        upper.winner[i] = agree && lead ? upper.winner[i] : -1;
    }
    return upper.winner;
}

void Planes::decide(const Span& band, float margin, std::vector<std::int32_t>& winners) const {
    for (const Grid& grid : views_) {
        const auto leaders = grid.leaders(grid.y.cell(band.first), margin);
        const bool is_first = &grid == views_.data();
        winners.resize(gaps_.size());
        for (size_t i = 0; i < gaps_.size(); ++i) {
            const int cell = grid.x.cell(gaps_[i].first);
            const std::int32_t left = leaders[static_cast<size_t>(cell)];
            const std::int32_t right = leaders[static_cast<size_t>(grid.x.next(cell))];
            winners[i] = left == right && (is_first || left == winners[i]) ? left : -1;
        }
    }
}

void Planes::Grid::bound(int k, int cell_y, const Span* gaps, size_t count, bool is_first,
                         Bounds& bounds) const {
    const float* upper = line(k, cell_y);
    const float* lower = line(k, y.next(cell_y));
    for (size_t i = 0; i < count; ++i) {
        const int cell = x.cell(gaps[i].first);
        const int next = x.next(cell);
        const float low = std::min(std::min(upper[cell], upper[next]), std::min(lower[cell], lower[next]));
        const float high = std::max(std::max(upper[cell], upper[next]), std::max(lower[cell], lower[next]));
        bounds.low[i] = is_first ? low : bounds.low[i] + low;
        bounds.high[i] = is_first ? high : bounds.high[i] + high;
    }
}

void Planes::bound(int k, const Span& band, const Span& gaps, Bounds& bounds) const {
    const size_t count = gaps.count();
    bounds.low.resize(count);
    bounds.high.resize(count);
    for (const Grid& grid : views_) {
        grid.bound(k, grid.y.cell(band.first), gaps_.data() + gaps.first, count, &grid == views_.data(),
                   bounds);
    }
    if (views_.size() > 1) {
        const float share = 1.0F / static_cast<float>(views_.size());
        scale(share, count, bounds.low.data());
        scale(share, count, bounds.high.data());
    }
}

void Planes::Grid::blend(const float* cells, const Span* gaps, size_t count, float* out) const {
    for (size_t i = 0; i < count; ++i) {
        const int cell = x.cell(gaps[i].first);
        const float left = cells[cell];
        const float right = cells[x.next(cell)];
        for (int at = gaps[i].first; at < gaps[i].last; ++at) {
            const float weight = x.weight(at);
            *out++ = left * (1.0F - weight) + right * weight;
        }
    }
}

void Planes::across(int k, const Span& band, const Span& gaps, float* lines) const {
    const Span* first = gaps_.data() + gaps.first;
    const auto columns = static_cast<size_t>(gaps_[static_cast<size_t>(gaps.last) - 1].last - first->first);
    for (const Grid& grid : views_) {
        const int cell_y = grid.y.cell(band.first);
        grid.blend(grid.line(k, cell_y), first, gaps.count(), lines);
        grid.blend(grid.line(k, grid.y.next(cell_y)), first, gaps.count(), lines + columns);
        lines += 2 * columns;
    }
}

void Planes::down(const float* lines, int y, size_t columns, float* scores) const {
    blend_rows(lines, lines + columns, views_[0].y.weight(y), columns, scores);
    for (size_t v = 1; v < views_.size(); ++v) {
        lines += 2 * columns;
        add_rows(lines, lines + columns, views_[v].y.weight(y), columns, scores);
    }
    if (views_.size() > 1) {
        scale(1.0F / static_cast<float>(views_.size()), columns, scores);
    }
}

}  // namespace hp
