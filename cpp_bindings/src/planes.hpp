// Class scores at source size, read tile by tile from the network's small grid.
//
// Half-pixel bilinear interpolation: source column x of W lies at (x + 0.5) * c / W - 0.5 on the grid,
// where c = content width / stride, clamped to the cells that hold some of the photo.  Rows likewise;
// columns are blended first, rows second, in single precision, and the views are summed in their order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "preprocess.hpp"

namespace hp {

// What the network said about one view of a photo: logits or probabilities (classes, h, w).
struct View {
    const float* scores = nullptr;
    int classes = 0;
    Size cells;
    Geometry geometry;
    bool mirrored = false;  // The photo was flipped; left and right classes are swapped back already.
};

// Rows or columns first..last-1.
struct Span {
    int first;
    int last;

    std::size_t count() const { return static_cast<std::size_t>(last - first); }
};

// One axis of the way from grid cells to source pixels.
class Axis {
public:
    // `mirrored`: pixel x is where the flipped photo has its own.
    Axis(int pixels, int content, int network, int grid, bool mirrored);

    int pixels() const { return static_cast<int>(cell_.size()); }
    // Cells that hold some of the photo.
    int cells() const { return cells_; }
    // Cell before pixel x, its neighbour, and the neighbour's weight.
    int cell(int x) const { return cell_[static_cast<std::size_t>(x)]; }
    int next(int cell) const { return cell + 1 < cells_ ? cell + 1 : cell; }
    float weight(int x) const { return weight_[static_cast<std::size_t>(x)]; }

private:
    int cells_;
    std::vector<int> cell_;
    std::vector<float> weight_;
};

// Smallest and largest score that a class can have in each gap of a band.
struct Bounds {
    std::vector<float> low;
    std::vector<float> high;
};

// The best class in each cell of one line of a grid, and how far ahead of the second it is.
struct Leads {
    std::vector<std::int32_t> winner;
    std::vector<float> lead;  // Less what interpolation may lose to rounding.
};

// The mean over all views of one photo.  Any thread may read it at any time.
class Planes {
public:
    // The scores must stay where they are.
    explicit Planes(const std::vector<View>& views);

    Size size() const { return {views_[0].y.pixels(), views_[0].x.pixels()}; }
    int classes() const { return classes_; }
    // Rows that lie between the same two lines of every view's grid.
    const std::vector<Span>& bands() const { return bands_; }
    // Columns likewise.
    const std::vector<Span>& gaps() const { return gaps_; }

    // For each gap the class that is more than `margin` ahead of all others in every pixel of the band,
    // or -1 where that is not plain: a class ahead at the four corners is ahead between them.
    void decide(const Span& band, float margin, std::vector<std::int32_t>& winners) const;
    // An interpolated value lies between the smallest and the largest of its four corners.
    void bound(int k, const Span& band, const Span& gaps, Bounds& bounds) const;

    // Floats that across() writes for so many columns.
    std::size_t lines_size(std::size_t columns) const { return 2 * columns * views_.size(); }
    // Class k blended along columns of gaps first..last-1 on both lines of a band, for each view.
    void across(int k, const Span& band, const Span& gaps, float* lines) const;
    // The mean score in row y of the band, from what across() wrote.
    void down(const float* lines, int y, std::size_t columns, float* scores) const;

private:
    struct Grid {
        View view;
        Axis y;
        Axis x;

        const float* line(int k, int cell_y) const;
        Leads leads(int cell_y) const;
        std::vector<std::int32_t> leaders(int cell_y, float margin) const;
        void bound(int k, int cell_y, const Span* gaps, std::size_t count, bool is_first,
                   Bounds& bounds) const;
        void blend(const float* cells, const Span* gaps, std::size_t count, float* out) const;
    };

    std::vector<Grid> views_;
    int classes_;
    std::vector<Span> bands_;
    std::vector<Span> gaps_;
};

}  // namespace hp
