#include "resize.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace hp {
namespace {

using std::size_t;
using std::uint8_t;

constexpr int kOne = 2048;  // A weight of one.
constexpr double kSliver = 1e-3;

// One target pixel of an axis between two source pixels.
struct Tap {
    int first;
    int second;
    int weight_first;
    int weight_second;
};

// One source pixel's share in one target pixel.
struct Share {
    int target;
    int source;
    float weight;
};

// Written as OpenCV computes it; the plain quotient differs in the last bit.
double scale_of(int source, int target) {
    return 1.0 / (static_cast<double>(target) / source);
}

int fixed(float weight) {
    return static_cast<int>(std::lrintf(weight * kOne));
}

// At a border, columns give all weight to one pixel, rows blend the border row with itself.
Tap tap_at(int x, int source, double scale, bool is_column) {
    const auto at = static_cast<float>((x + 0.5) * scale - 0.5);
    int cell = static_cast<int>(std::floor(at));
    float fraction = at - static_cast<float>(cell);
    if (is_column && (cell < 0 || cell >= source - 1)) {
        cell = std::clamp(cell, 0, source - 1);
        fraction = 0.0F;
    }
    const int last = source - 1;
    return {std::clamp(cell, 0, last), std::clamp(cell + 1, 0, last), fixed(1.0F - fraction),
            fixed(fraction)};
}

std::vector<Tap> taps(int source, int target, bool is_column) {
    const double scale = scale_of(source, target);
    std::vector<Tap> list;
    list.reserve(static_cast<size_t>(target));
    for (int x = 0; x < target; ++x) {
        list.push_back(tap_at(x, source, scale, is_column));
    }
    return list;
}

void blend_columns(const uint8_t* row, const std::vector<Tap>& columns, int* out) {
    for (const Tap& tap : columns) {
        const uint8_t* a = row + static_cast<size_t>(tap.first) * kChannels;
        const uint8_t* b = row + static_cast<size_t>(tap.second) * kChannels;
        for (int c = 0; c < kChannels; ++c) {
            *out++ = a[c] * tap.weight_first + b[c] * tap.weight_second;
        }
    }
}

void blend_rows(const int* a, const int* b, const Tap& tap, size_t count, uint8_t* out) {
    for (size_t i = 0; i < count; ++i) {
        const int first = (tap.weight_first * (a[i] >> 4)) >> 16;
        const int second = (tap.weight_second * (b[i] >> 4)) >> 16;
        out[i] = static_cast<uint8_t>(std::clamp((first + second + 2) >> 2, 0, 255));
    }
}

// Rows of the source that are blended along the columns already; the last two are kept.
class BlendedRows {
public:
    BlendedRows(const Rgb& source, const std::vector<Tap>& columns) : source_(source), columns_(columns) {
        for (auto& slot : slots_) {
            slot.values.resize(columns.size() * kChannels);
        }
    }

    const int* row(int y) {
        Slot& slot = slots_[y & 1];  // Neighbouring rows never share a slot.
        if (slot.y != y) {
            blend_columns(source_.row(y), columns_, slot.values.data());
            slot.y = y;
        }
        return slot.values.data();
    }

private:
    struct Slot {
        int y = -1;
        std::vector<int> values;
    };
    const Rgb& source_;
    const std::vector<Tap>& columns_;
    Slot slots_[2];
};

void resize_linear(const Canvas& target, const Rgb& source) {
    const auto columns = taps(source.size.width, target.size.width, true);
    const auto rows = taps(source.size.height, target.size.height, false);
    const size_t count = columns.size() * kChannels;
    BlendedRows blended(source, columns);
    for (int y = 0; y < target.size.height; ++y) {
        const Tap& tap = rows[static_cast<size_t>(y)];
        const int* first = blended.row(tap.first);
        blend_rows(first, blended.row(tap.second), tap, count, target.row(y));
    }
}

uint8_t to_byte(float value) {
    return static_cast<uint8_t>(std::clamp(std::lrintf(value), 0L, 255L));
}

void shares_of(int x, int source, double scale, std::vector<Share>& list) {
    const double start = x * scale;
    const double stop = start + scale;
    const double width = std::min(scale, source - start);
    const int last = std::min(static_cast<int>(std::floor(stop)), source - 1);
    const int first = std::min(static_cast<int>(std::ceil(start)), last);
    if (first - start > kSliver) {
        list.push_back({x, first - 1, static_cast<float>((first - start) / width)});
    }
    for (int s = first; s < last; ++s) {
        list.push_back({x, s, static_cast<float>(1.0 / width)});
    }
    if (stop - last > kSliver) {
        const double part = std::min(std::min(stop - last, 1.0), width);
        list.push_back({x, last, static_cast<float>(part / width)});
    }
}

std::vector<Share> shares(int source, int target) {
    const double scale = scale_of(source, target);
    std::vector<Share> list;
    for (int x = 0; x < target; ++x) {
        shares_of(x, source, scale, list);
    }
    return list;
}

void sum_columns(const uint8_t* row, const std::vector<Share>& columns, std::vector<float>& sums) {
    std::fill(sums.begin(), sums.end(), 0.0F);
    for (const Share& share : columns) {
        const uint8_t* pixel = row + static_cast<size_t>(share.source) * kChannels;
        float* sum = sums.data() + static_cast<size_t>(share.target) * kChannels;
        for (int c = 0; c < kChannels; ++c) {
            sum[c] += static_cast<float>(pixel[c]) * share.weight;
        }
    }
}

void resize_area(const Canvas& target, const Rgb& source) {
    const auto columns = shares(source.size.width, target.size.width);
    const auto rows = shares(source.size.height, target.size.height);
    const size_t count = static_cast<size_t>(target.size.width) * kChannels;
    std::vector<float> row(count);
    std::vector<float> sum(count);
    for (size_t k = 0; k < rows.size(); ++k) {
        sum_columns(source.row(rows[k].source), columns, row);
        const float weight = rows[k].weight;
        for (size_t i = 0; i < count; ++i) {
            sum[i] += weight * row[i];
        }
        if (k + 1 == rows.size() || rows[k + 1].target != rows[k].target) {
            std::transform(sum.begin(), sum.end(), target.row(rows[k].target), to_byte);
            std::fill(sum.begin(), sum.end(), 0.0F);
        }
    }
}

// The whole factor by which a side shrinks, or 0.
int whole_factor(int source, int target) {
    const double scale = scale_of(source, target);
    const double whole = std::nearbyint(scale);
    return std::abs(scale - whole) < DBL_EPSILON ? static_cast<int>(whole) : 0;
}

int block_sum(const Rgb& source, int y, int x, Size block, int channel) {
    int sum = 0;
    for (int dy = 0; dy < block.height; ++dy) {
        const uint8_t* row = source.row(y * block.height + dy) +
                             static_cast<size_t>(x) * static_cast<size_t>(block.width) * kChannels;
        for (int dx = 0; dx < block.width; ++dx) {
            sum += row[dx * kChannels + channel];
        }
    }
    return sum;
}

void average_blocks(const Canvas& target, const Rgb& source, Size block) {
    const float share = 1.0F / static_cast<float>(block.height * block.width);
    const bool is_half = block == Size{2, 2};  // OpenCV rounds these up, and others to even.
    for (int y = 0; y < target.size.height; ++y) {
        uint8_t* out = target.row(y);
        for (int i = 0; i < target.size.width * kChannels; ++i) {
            const int sum = block_sum(source, y, i / kChannels, block, i % kChannels);
            out[i] =
                is_half ? static_cast<uint8_t>((sum + 2) >> 2) : to_byte(static_cast<float>(sum) * share);
        }
    }
}

void copy_rows(const Canvas& target, const Rgb& source) {
    for (int y = 0; y < target.size.height; ++y) {
        std::memcpy(target.row(y), source.row(y), static_cast<size_t>(target.size.width) * kChannels);
    }
}

}  // namespace

void resize_into(const Canvas& target, const Rgb& source) {
    if (target.size == source.size) {
        copy_rows(target, source);
        return;
    }
    if (target.size.height > source.size.height || target.size.width > source.size.width) {
        resize_linear(target, source);
        return;
    }
    const Size block{whole_factor(source.size.height, target.size.height),
                     whole_factor(source.size.width, target.size.width)};
    if (block.height > 0 && block.width > 0) {
        average_blocks(target, source, block);
    } else {
        resize_area(target, source);
    }
}

}  // namespace hp
