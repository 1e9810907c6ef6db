#include "postprocess.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "simd.hpp"
#include "workers.hpp"

namespace hp {
namespace {

using std::size_t;

constexpr int kTileWidth = 128;
constexpr float kNegligible = 15.0F;  // So far behind the winner, a class adds 3e-7 to a sum of at least 1.

// Added to a small float, it leaves the nearest whole number (ties to even) in the lowest bits.
constexpr float kRounder = 12582912.0F;

std::int32_t bits_of(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// e^x of -80 <= x <= 0 to four digits, without a branch, so that a loop of it becomes vector code:
// e^x = 2^n * e^r with |r| <= ln(2) / 2, whose series ends at r^4.
float exp_of_negative(float x) {
    const float n = (x * 1.44269504F + kRounder) - kRounder;
    const float r = x - n * 0.69314718F;
    const float series = 1.0F + r * (1.0F + r * (0.5F + r * (1.0F / 6 + r * (1.0F / 24))));
    const std::int32_t bits = bits_of(series) + static_cast<std::int32_t>(n) * (1 << 23);
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

// Where class k is larger than the best so far.
HP_SIMD void take_over(int k, const float* scores, size_t count, float* best, std::int32_t* winner) {
    for (size_t i = 0; i < count; ++i) {
        const bool wins = scores[i] > best[i];
        best[i] = wins ? scores[i] : best[i];
        winner[i] = wins ? k : winner[i];
    }
}

// `scores` become how far they are behind the best.
HP_SIMD void add_exp(float* scores, const float* best, size_t count, float* total) {
    for (size_t i = 0; i < count; ++i) {
        scores[i] = std::max(-80.0F, scores[i] - best[i]);
    }
    for (size_t i = 0; i < count; ++i) {
        total[i] += exp_of_negative(scores[i]);
    }
}

HP_SIMD void write_ids(const std::int32_t* winner, size_t count, std::uint8_t* labels) {
    for (size_t i = 0; i < count; ++i) {
        labels[i] = static_cast<std::uint8_t>(winner[i]);
    }
}

HP_SIMD void write_probabilities(const float* probability, size_t count, std::uint8_t* confidence) {
    for (size_t i = 0; i < count; ++i) {
        confidence[i] = static_cast<std::uint8_t>(bits_of(probability[i] * 255.0F + kRounder));
    }
}

HP_SIMD void invert(size_t count, float* values) {
    for (size_t i = 0; i < count; ++i) {
        values[i] = 1.0F / values[i];
    }
}

// Who wins each gap of one band, or which classes could, or matter for the confidence.
class Contenders {
public:
    Contenders(const Planes& planes, float margin) : planes_(planes), margin_(margin) {}

    void find(const Span& band) {
        band_ = band;
        planes_.decide(band, margin_, winners_);
    }

    // Nobody contends with this class; -1 where somebody might.
    int winner(int gap) const { return winners_[static_cast<size_t>(gap)]; }

    // Of all gaps in a span, ascending.
    void of(const Span& gaps, std::vector<int>& classes) {
        const size_t count = gaps.count();
        at_least_.assign(count, -std::numeric_limits<float>::infinity());
        high_.resize(std::max(high_.size(), static_cast<size_t>(planes_.classes()) * count));
        for (int k = 0; k < planes_.classes(); ++k) {
            planes_.bound(k, band_, gaps, bounds_);
            std::copy(bounds_.high.begin(), bounds_.high.end(),
                      high_.data() + static_cast<size_t>(k) * count);
            for (size_t i = 0; i < count; ++i) {
                at_least_[i] = std::max(at_least_[i], bounds_.low[i]);
            }
        }
        classes.clear();
        for (int k = 0; k < planes_.classes(); ++k) {
            const float* high = high_.data() + static_cast<size_t>(k) * count;
            for (size_t i = 0; i < count; ++i) {
                if (high[i] >= at_least_[i] - margin_) {
                    classes.push_back(k);
                    break;
                }
            }
        }
    }

private:
    const Planes& planes_;
    float margin_;
    Span band_{0, 0};
    std::vector<std::int32_t> winners_;
    std::vector<float> high_;  // (classes, gaps of a span)
    std::vector<float> at_least_;
    Bounds bounds_;
};

struct Target {
    bool are_logits;
    std::uint8_t* labels;
    std::uint8_t* confidence;

    bool wants_softmax() const { return confidence != nullptr && are_logits; }
    // A probability must be computed, even that of the only contender.
    bool wants_scores() const { return confidence != nullptr && !are_logits; }
};

// Labels one band after another, in memory that it keeps.
class Labeller {
public:
    Labeller(const Planes& planes, const Target& target)
        : planes_(planes),
          target_(target),
          contenders_(planes, target.wants_softmax() ? kNegligible : 0.0F) {}

    void label(const Span& band) {
        contenders_.find(band);
        const auto gaps = static_cast<int>(planes_.gaps().size());
        for (int first = 0; first < gaps;) {
            const Span tile{first, tile_end(first)};
            if (is_decided(first)) {
                fill(band, columns_of(tile), contenders_.winner(first));
            } else {
                compete(band, tile);
            }
            first = tile.last;
        }
    }

private:
    bool is_decided(int gap) const { return !target_.wants_scores() && contenders_.winner(gap) >= 0; }

    Span columns_of(const Span& gaps) const {
        return {planes_.gaps()[static_cast<size_t>(gaps.first)].first,
                planes_.gaps()[static_cast<size_t>(gaps.last) - 1].last};
    }

    // Neighbours with the same single winner are one tile, contested ones up to a width.
    int tile_end(int first) const {
        const auto gaps = static_cast<int>(planes_.gaps().size());
        const int winner = contenders_.winner(first);
        const bool decided = is_decided(first);
        int last = first + 1;
        while (last < gaps && is_decided(last) == decided &&
               (decided ? contenders_.winner(last) == winner
                        : columns_of({first, last + 1}).count() <= kTileWidth)) {
            ++last;
        }
        return last;
    }

    size_t offset(int y, const Span& columns) const {
        return static_cast<size_t>(y) * static_cast<size_t>(planes_.size().width) +
               static_cast<size_t>(columns.first);
    }

    void fill(const Span& band, const Span& columns, int winner) const {
        for (int y = band.first; y < band.last; ++y) {
            std::fill_n(target_.labels + offset(y, columns), columns.count(),
                        static_cast<std::uint8_t>(winner));
            if (target_.confidence != nullptr) {
                std::fill_n(target_.confidence + offset(y, columns), columns.count(), std::uint8_t{255});
            }
        }
    }

    void compete(const Span& band, const Span& tile) {
        const Span columns = columns_of(tile);
        contenders_.of(tile, classes_);
        reserve(columns.count());
        const size_t step = planes_.lines_size(columns.count());
        for (size_t c = 0; c < classes_.size(); ++c) {
            planes_.across(classes_[c], band, tile, lines_.data() + c * step);
        }
        for (int y = band.first; y < band.last; ++y) {
            find_winners(y, columns.count());
            write_ids(winner_.data(), columns.count(), target_.labels + offset(y, columns));
            if (target_.confidence != nullptr) {
                write_confidence(columns.count(), target_.confidence + offset(y, columns));
            }
        }
    }

    void reserve(size_t count) {
        lines_.resize(std::max(lines_.size(), classes_.size() * planes_.lines_size(count)));
        scores_.resize(std::max(scores_.size(), classes_.size() * count));
        best_.resize(std::max(best_.size(), count));
        total_.resize(best_.size());
        winner_.resize(best_.size());
    }

    // Scores of class number c of the tile in the current row; kept only for the softmax.
    float* scores_of(size_t c, size_t count) {
        return scores_.data() + (target_.wants_softmax() ? c * count : 0);
    }

    void find_winners(int y, size_t count) {
        std::fill_n(best_.begin(), count, -std::numeric_limits<float>::infinity());
        std::fill_n(winner_.begin(), count, 0);
        for (size_t c = 0; c < classes_.size(); ++c) {
            planes_.down(lines_.data() + c * planes_.lines_size(count), y, count, scores_of(c, count));
            take_over(classes_[c], scores_of(c, count), count, best_.data(), winner_.data());
        }
    }

    void write_confidence(size_t count, std::uint8_t* confidence) {
        if (!target_.are_logits) {
            write_probabilities(best_.data(), count, confidence);
            return;
        }
        std::fill_n(total_.begin(), count, 0.0F);
        for (size_t c = 0; c < classes_.size(); ++c) {
            add_exp(scores_of(c, count), best_.data(), count, total_.data());
        }
        invert(count, total_.data());
        write_probabilities(total_.data(), count, confidence);
    }

    const Planes& planes_;
    Target target_;
    Contenders contenders_;
    std::vector<int> classes_;  // Of the current tile.
    std::vector<float> lines_;
    std::vector<float> scores_;
    std::vector<float> best_;
    std::vector<float> total_;
    std::vector<std::int32_t> winner_;
};

size_t pixels_of(Size size) {
    return static_cast<size_t>(size.height) * static_cast<size_t>(size.width);
}

}  // namespace

void write_labels(const std::vector<View>& views, bool are_logits, int threads, std::uint8_t* labels,
                  std::uint8_t* confidence) {
    const Planes planes(views);
    const Target target{are_logits, labels, confidence};
    const std::vector<Span>& bands = planes.bands();
    share(bands.size(), pixels_of(planes.size()) < kPixelsWorthThreads ? 1 : threads, [&] {
        return [&, labeller = Labeller(planes, target)](size_t i) mutable { labeller.label(bands[i]); };
    });
}

Labels merged_labels(const std::vector<View>& views) {
    Labels answer{std::vector<std::uint8_t>(pixels_of(views[0].geometry.source)), {}};
    write_labels(views, true, 1, answer.labels.data(), nullptr);
    return answer;
}

Labels merged_labels_and_confidence(const std::vector<View>& views, bool are_logits) {
    const size_t pixels = pixels_of(views[0].geometry.source);
    Labels answer{std::vector<std::uint8_t>(pixels), std::vector<std::uint8_t>(pixels)};
    write_labels(views, are_logits, 1, answer.labels.data(), answer.confidence.data());
    return answer;
}

}  // namespace hp
