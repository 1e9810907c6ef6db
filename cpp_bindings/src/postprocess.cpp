#include "postprocess.hpp"

#include <algorithm>
#include <cmath>

namespace hp {
namespace {

using std::size_t;

// Mean scores of every class in one row of the photo, (classes, width).
class MeanRow {
public:
    explicit MeanRow(const std::vector<View>& views) {
        for (const View& view : views) {
            planes_.emplace_back(view);
        }
        scores_.resize(static_cast<size_t>(planes_[0].classes()) * width());
    }

    size_t width() const { return static_cast<size_t>(planes_[0].width()); }
    int classes() const { return planes_[0].classes(); }
    const float* of_class(int k) const { return scores_.data() + static_cast<size_t>(k) * width(); }

    void read(int y) {
        std::fill(scores_.begin(), scores_.end(), 0.0F);
        for (Planes& planes : planes_) {
            planes.read_row(y);
            for (int k = 0; k < classes(); ++k) {
                planes.add_class(k, scores_.data() + static_cast<size_t>(k) * width());
            }
        }
        const float share = 1.0F / static_cast<float>(planes_.size());
        std::transform(scores_.begin(), scores_.end(), scores_.begin(),
                       [share](float sum) { return sum * share; });
    }

private:
    std::vector<Planes> planes_;
    std::vector<float> scores_;
};

void running_maximum(const MeanRow& row, std::vector<float>& best, std::uint8_t* labels) {
    std::copy_n(row.of_class(0), row.width(), best.begin());
    std::fill_n(labels, row.width(), std::uint8_t{0});
    for (int k = 1; k < row.classes(); ++k) {
        const float* scores = row.of_class(k);
        for (size_t x = 0; x < row.width(); ++x) {
            const bool wins = scores[x] > best[x];
            best[x] = wins ? scores[x] : best[x];
            labels[x] = wins ? static_cast<std::uint8_t>(k) : labels[x];
        }
    }
}

// `best` becomes the winner's probability.
void softmax_of_winner(const MeanRow& row, std::vector<float>& best) {
    std::vector<float> total(row.width());
    for (int k = 0; k < row.classes(); ++k) {
        const float* scores = row.of_class(k);
        for (size_t x = 0; x < row.width(); ++x) {
            total[x] += std::exp(scores[x] - best[x]);
        }
    }
    std::transform(total.begin(), total.end(), best.begin(), [](float sum) { return 1.0F / sum; });
}

std::uint8_t to_byte(float probability) {
    return static_cast<std::uint8_t>(std::clamp(std::lrintf(probability * 255.0F), 0L, 255L));
}

size_t pixels_of(Size size) {
    return static_cast<size_t>(size.height) * static_cast<size_t>(size.width);
}

Labels of_mean(const std::vector<View>& views, bool wants_confidence, bool are_logits) {
    const Size size = views[0].geometry.source;
    const size_t pixels = pixels_of(size);
    Labels answer{std::vector<std::uint8_t>(pixels),
                  std::vector<std::uint8_t>(wants_confidence ? pixels : 0)};
    MeanRow row(views);
    std::vector<float> best(row.width());
    for (int y = 0; y < size.height; ++y) {
        const size_t first = static_cast<size_t>(y) * row.width();
        row.read(y);
        running_maximum(row, best, answer.labels.data() + first);
        if (wants_confidence && are_logits) {
            softmax_of_winner(row, best);
        }
        if (wants_confidence) {
            std::transform(best.begin(), best.end(), answer.confidence.data() + first, to_byte);
        }
    }
    return answer;
}

}  // namespace

Labels merged_labels(const std::vector<View>& views) {
    if (views.size() > 1) {
        return of_mean(views, false, true);
    }
    const Size size = views[0].geometry.source;
    Labels answer{std::vector<std::uint8_t>(pixels_of(size)), {}};
    Planes planes(views[0]);
    for (int y = 0; y < size.height; ++y) {
        planes.read_row(y);
        planes.winners(answer.labels.data() + static_cast<size_t>(y) * static_cast<size_t>(size.width));
    }
    return answer;
}

Labels merged_labels_and_confidence(const std::vector<View>& views, bool are_logits) {
    return of_mean(views, true, are_logits);
}

}  // namespace hp
