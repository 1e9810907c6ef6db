#include "resize.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "simd.hpp"
#include "workers.hpp"

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

// Source pixels that one target pixel covers, side by side, and the share of each.
struct Cover {
    int source;
    std::vector<float> shares;
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

// Nearest whole number, ties to even, of a mean of bytes: the large float leaves it in the lowest bits.
uint8_t to_byte(float value) {
    const float shifted = value + 12582912.0F;
    std::int32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<uint8_t>(bits);
}

Cover cover_of(int x, int source, double scale) {
    const double start = x * scale;
    const double stop = start + scale;
    const double width = std::min(scale, source - start);
    const int last = std::min(static_cast<int>(std::floor(stop)), source - 1);
    const int first = std::min(static_cast<int>(std::ceil(start)), last);
    Cover cover{first, {}};
    if (first - start > kSliver) {
        cover.source = first - 1;
        cover.shares.push_back(static_cast<float>((first - start) / width));
    }
    cover.shares.insert(cover.shares.end(), static_cast<size_t>(last - first),
                        static_cast<float>(1.0 / width));
    if (stop - last > kSliver) {
        const double part = std::min(std::min(stop - last, 1.0), width);
        cover.shares.push_back(static_cast<float>(part / width));
    }
    return cover;
}

std::vector<Cover> covers(int source, int target) {
    const double scale = scale_of(source, target);
    std::vector<Cover> list;
    list.reserve(static_cast<size_t>(target));
    for (int x = 0; x < target; ++x) {
        list.push_back(cover_of(x, source, scale));
    }
    return list;
}

HP_SIMD void to_floats(const uint8_t* bytes, size_t count, float* out) {
    for (size_t i = 0; i < count; ++i) {
        out[i] = static_cast<float>(bytes[i]);
    }
}

// The covers of all columns in step: each has as many shares as the longest, the last ones 0.
struct Columns {
    explicit Columns(const std::vector<Cover>& covers) : sources(covers.size()) {
        for (const Cover& cover : covers) {
            taps = std::max(taps, cover.shares.size());
        }
        shares.assign(covers.size() * taps, 0.0F);
        for (size_t i = 0; i < covers.size(); ++i) {
            sources[i] = static_cast<size_t>(covers[i].source) * kChannels;
            std::copy(covers[i].shares.begin(), covers[i].shares.end(), shares.data() + i * taps);
        }
    }

    size_t taps = 0;
    std::vector<size_t> sources;
    std::vector<float> shares;
};

// Each pixel is read and written with the first colour of the next one; what is written too much is
// written again.
template <size_t kTaps>
void sum_columns(const float* row, const Columns& columns, size_t taps, float* out) {
    const size_t count = kTaps != 0 ? kTaps : taps;  // A constant, which unrolls the loop, or not.
    const float* shares = columns.shares.data();
    for (const size_t source : columns.sources) {
        const float* pixel = row + source;
        Lanes sum = {};
        for (size_t i = 0; i < count; ++i) {
            Lanes colours;
            std::memcpy(&colours, pixel + i * kChannels, sizeof colours);
            sum += colours * shares[i];
        }
        std::memcpy(out, &sum, sizeof sum);
        out += kChannels;
        shares += count;
    }
}

void sum_columns(const float* row, const Columns& columns, float* out) {
    switch (columns.taps) {
        case 2: return sum_columns<2>(row, columns, 2, out);
        case 3: return sum_columns<3>(row, columns, 3, out);
        case 4: return sum_columns<4>(row, columns, 4, out);
        default: return sum_columns<0>(row, columns, columns.taps, out);
    }
}

HP_SIMD void add_row(const float* row, float share, size_t count, float* sum) {
    for (size_t i = 0; i < count; ++i) {
        sum[i] += share * row[i];
    }
}

HP_SIMD void write_bytes(const float* values, size_t count, uint8_t* out) {
    for (size_t i = 0; i < count; ++i) {
        out[i] = to_byte(values[i]);
    }
}

// Writes row after row of the target, in memory that it keeps.
class AreaRows {
public:
    AreaRows(const Canvas& target, const Rgb& source, const Columns& columns)
        : target_(target),
          source_(source),
          columns_(columns),
          floats_((static_cast<size_t>(source.size.width) + columns.taps) * kChannels + kLanes),
          row_(count() + kLanes),
          sum_(count()) {}

    void write(int y, const Cover& cover) {
        std::fill(sum_.begin(), sum_.end(), 0.0F);
        for (size_t i = 0; i < cover.shares.size(); ++i) {
            read(cover.source + static_cast<int>(i));
            add_row(row_.data(), cover.shares[i], count(), sum_.data());
        }
        write_bytes(sum_.data(), count(), target_.row(y));
    }

private:
    size_t count() const { return static_cast<size_t>(target_.size.width) * kChannels; }

    // Neighbouring rows of the target can share a row of the source.
    void read(int y) {
        if (y != known_) {
            to_floats(source_.row(y), static_cast<size_t>(source_.size.width) * kChannels, floats_.data());
            sum_columns(floats_.data(), columns_, row_.data());
            known_ = y;
        }
    }

    const Canvas& target_;
    const Rgb& source_;
    const Columns& columns_;
    int known_ = -1;
    std::vector<float> floats_;
    std::vector<float> row_;  // Of the source, as wide as the target.
    std::vector<float> sum_;
};

void resize_area(const Canvas& target, const Rgb& source, int threads) {
    const Columns columns(covers(source.size.width, target.size.width));
    const auto rows = covers(source.size.height, target.size.height);
    const auto pixels = static_cast<size_t>(source.size.height) * static_cast<size_t>(source.size.width);
    share(rows.size(), pixels < kPixelsWorthThreads ? 1 : threads, [&] {
        return [&, area = AreaRows(target, source, columns)](size_t y) mutable {
            area.write(static_cast<int>(y), rows[y]);
        };
    });
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

Size whole_block(Size source, Size target) {
    return {whole_factor(source.height, target.height), whole_factor(source.width, target.width)};
}

}  // namespace

bool is_fractional_area(Size source, Size target) {
    if (target == source || target.height > source.height || target.width > source.width) {
        return false;
    }
    const Size block = whole_block(source, target);
    return block.height == 0 || block.width == 0;
}

void resize_into(const Canvas& target, const Rgb& source, int threads) {
    if (target.size == source.size) {
        copy_rows(target, source);
    } else if (target.size.height > source.size.height || target.size.width > source.size.width) {
        resize_linear(target, source);
    } else if (is_fractional_area(source.size, target.size)) {
        resize_area(target, source, threads);
    } else {
        average_blocks(target, source, whole_block(source.size, target.size));
    }
}

}  // namespace hp
