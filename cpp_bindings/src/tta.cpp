#include "tta.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "hp/errors.hpp"

namespace hp {
namespace {

using std::size_t;

struct Name {
    const char* name;
    bool multi_scale;
    bool flip;
};

constexpr Name kNames[] = {
    {"none", false, false}, {"flip", false, true}, {"ms", true, false}, {"ms+flip", true, true}};
const std::vector<double> kScales = {1.0, 0.75};

// Probabilities over the classes of (classes, cells), in place.
void softmax(float* scores, int classes, size_t cells) {
    for (size_t i = 0; i < cells; ++i) {
        float largest = scores[i];
        for (int k = 1; k < classes; ++k) {
            largest = std::max(largest, scores[static_cast<size_t>(k) * cells + i]);
        }
        float sum = 0.0F;
        for (int k = 0; k < classes; ++k) {
            float& score = scores[static_cast<size_t>(k) * cells + i];
            score = std::exp(score - largest);
            sum += score;
        }
        for (int k = 0; k < classes; ++k) {
            scores[static_cast<size_t>(k) * cells + i] /= sum;
        }
    }
}

// Scores (classes, cells) of a view as they are averaged.
void merge_view(const float* given, bool mirrored, bool wants_probabilities, const Domain& domain,
                size_t cells, float* out) {
    const std::vector<int> perm = domain.flip_perm();
    for (size_t k = 0; k < perm.size(); ++k) {
        const size_t from = mirrored ? static_cast<size_t>(perm[k]) : k;
        std::copy_n(given + from * cells, cells, out + k * cells);
    }
    if (wants_probabilities) {
        softmax(out, domain.num_classes(), cells);
    }
}

}  // namespace

std::string Tta::text() const {
    if (num_views() == 1 && scales[0] == 1.0) {
        return "none";
    }
    std::ostringstream text;
    text << "scales ";
    for (size_t i = 0; i < scales.size(); ++i) {
        text << (i ? "," : "") << scales[i];
    }
    text << (flip ? " + flip" : "") << ", mean " << (averages_logits ? "logits" : "probs");
    return text.str();
}

Tta choose_tta(const std::string& name, const std::string& family) {
    for (const Name& known : kNames) {
        if (name == known.name || (name.empty() && known.name == kNames[0].name)) {
            return {known.multi_scale ? kScales : std::vector<double>{1.0}, known.flip, family == "sst"};
        }
    }
    throw ConfigError("no tta '" + name + "'; there are none, flip, ms, ms+flip");
}

std::vector<FittedView> fit_views(const Rgb& image, const InputSpec& spec, const Tta& tta,
                                  std::uint8_t* target) {
    const size_t bytes =
        static_cast<size_t>(spec.size.height) * static_cast<size_t>(spec.size.width) * kChannels;
    const OwnedRgb flipped = tta.flip ? mirrored(image) : OwnedRgb{};
    std::vector<FittedView> views;
    for (const double scale : tta.scales) {
        views.push_back({fit(image, spec, scale, target + views.size() * bytes), false});
        if (tta.flip) {
            views.push_back({fit(flipped.view(), spec, scale, target + views.size() * bytes), true});
        }
    }
    return views;
}

std::vector<View> merge_views(const std::vector<FittedView>& fitted, const Tensor& logits, int first,
                              const Domain& domain, const Tta& tta, std::vector<float>& storage) {
    const size_t cells = static_cast<size_t>(logits.cells.height) * static_cast<size_t>(logits.cells.width);
    const size_t count = static_cast<size_t>(logits.classes) * cells;
    const float* given = logits.values.data() + static_cast<size_t>(first) * count;
    const bool as_it_came = fitted.size() == 1 && !fitted[0].mirrored;
    storage.resize(as_it_came ? 0 : fitted.size() * count);
    std::vector<View> views;
    for (size_t v = 0; v < fitted.size(); ++v) {
        float* own = storage.data() + v * count;
        if (!as_it_came) {
            merge_view(given + v * count, fitted[v].mirrored, !tta.averages_logits, domain, cells, own);
        }
        views.push_back(
            {as_it_came ? given : own, logits.classes, logits.cells, fitted[v].geometry, fitted[v].mirrored});
    }
    return views;
}

}  // namespace hp
