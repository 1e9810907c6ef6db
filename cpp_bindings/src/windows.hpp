// A picture larger than the network's input is read through windows that overlap.
//
//     ┌──────────┬ ─ ─ ┐     windows of the input's size, a stride apart; the last one ends where the
//     │ window   │     │     picture does.  Where they overlap, the mean of their scores is taken.
//     └──────────┴ ─ ─ ┘
//
// Windows start at multiples of step_of(), so that the cells of their grids lie on each other.  A picture
// that fits one window is answered exactly as without windows.
//
// Source: mmsegmentation's slide inference (window, stride, mean of logits).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "preprocess.hpp"

namespace hp {

// First row and column of a window, in pixels of its canvas.
struct Corner {
    int top = 0;
    int left = 0;
};

// What the network said about one input, or about a canvas: (classes, h, w), kept alive by those who use it.
struct Scores {
    std::shared_ptr<const float> values;
    int classes = 0;
    Size cells;
};

// Windows start at multiples of this.
Size step_of(const InputSpec& spec);

// From window to window, in whole steps: what the bundle says, or two thirds of the input.
Size window_stride(const InputSpec& spec);

// Side of the smallest picture that holds the content and that windows of `side` cover exactly.
double canvas_side(double content, int side, int step);

// Where the windows of a canvas start, row by row; the one window of a small canvas at 0, 0.
std::vector<Corner> corners(Size canvas, const InputSpec& spec);

// Write the part of a canvas (H, W, 3) that the network is asked about to `target` (h, w, 3).
void copy_window(const Rgb& canvas, Corner corner, Size window, std::uint8_t* target);

// Mean scores of a canvas, out of those of its windows: one grid, whatever the number of windows.  The
// answer to an only window is passed on as it is.
class Mosaic {
public:
    Mosaic(Size canvas, Size window) : canvas_(canvas), window_(window) {}

    // The answer to one window; it has no more cells than the window has pixels.
    void add(Corner corner, const Scores& scores);

    // The mean over the windows; call it once, after all were added.
    Scores mean();

private:
    void begin(int classes);
    // Where line `row` of a window's answer begins in a plane of the canvas.
    std::size_t cell_of(Corner corner, int row) const;

    Size canvas_;
    Size window_;
    Size stride_;  // Pixels per cell.
    Scores only_;
    Size cells_;
    int classes_ = 0;
    std::vector<float> total_;  // (classes, H / stride, W / stride)
    std::vector<float> count_;  // (H / stride, W / stride)
};

}  // namespace hp
