// Class scores at source size, read row by row from the network's small grid.
//
// Half-pixel bilinear interpolation: source column x of W lies at (x + 0.5) * c / W - 0.5 on the grid,
// where c = content width / stride, clamped to the cells that hold some of the photo.  Rows likewise;
// rows are blended first, columns second, in single precision.
#pragma once

#include <cstddef>
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

// Pixels first..last-1 between cell `cell` and the next.
struct Gap {
    int cell;
    int first;
    int last;
};

// One axis of the way from grid cells to source pixels.
class Axis {
public:
    Axis(int pixels, int content, int network, int grid);

    int pixels() const { return static_cast<int>(cell_.size()); }
    // Cells that hold some of the photo.
    int cells() const { return cells_; }
    // Cell before pixel x, its neighbour, and the neighbour's weight.
    int cell(int x) const { return cell_[static_cast<std::size_t>(x)]; }
    int next(int cell) const { return cell + 1 < cells_ ? cell + 1 : cell; }
    float weight(int x) const { return weight_[static_cast<std::size_t>(x)]; }
    const float* weights() const { return weight_.data(); }
    // The pixels in runs of the same cell.
    const std::vector<Gap>& gaps() const { return gaps_; }

private:
    int cells_;
    std::vector<int> cell_;
    std::vector<float> weight_;
    std::vector<Gap> gaps_;
};

// Reads one view row by row.  `read_row` goes first, the others answer about that row.
class Planes {
public:
    explicit Planes(const View& view);

    int classes() const { return view_.classes; }
    int width() const { return x_.pixels(); }

    // Blend the two lines of the grid that source row y lies between, for every class.
    void read_row(int y);

    // Add class k of the current row to `row` (width), turned round for a mirrored view.
    void add_class(int k, float* row) const;

    // Class with the largest score for each pixel of the current row; ties go to the lower id.  Only
    // classes that can win between four cells are compared: an interpolated value lies between the
    // smallest and the largest of its corners.
    void winners(std::uint8_t* labels);

private:
    const float* line(int k) const;
    void find_contenders(int cell_y);
    void win_gap(const Gap& gap, std::size_t number, std::uint8_t* labels);

    View view_;
    Axis y_;
    Axis x_;
    std::vector<float> lines_;                  // (classes, cells)
    int cell_y_ = 0;                            // Of the current row.
    int contested_y_ = -1;                      // Whose contenders are known.
    std::vector<std::vector<int>> contenders_;  // Per gap of the row, ascending.
    std::vector<float> best_;
    std::vector<int> winner_;
};

}  // namespace hp
