#include "tta.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

#include "hp/errors.hpp"

namespace hp {
namespace {

using std::size_t;

enum class Average { familys, logits, probabilities };

// Sizes of the photo by name, the plain one first: a cheap set, and those of the papers.
struct Set {
    const char* name;
    std::vector<double> scales;
    Average average;
};

const std::vector<Set>& sets() {
    static const std::vector<Set> all = {{"none", {1.0}, Average::familys},
                                         {"ms", {1.0, 0.75}, Average::familys},
                                         {"graphonomy", {1.0, 0.5, 0.75, 1.25, 1.5, 1.75}, Average::logits},
                                         {"schnet", {1.0, 0.75, 1.25, 1.5}, Average::probabilities}};
    return all;
}

// "none" and "flip", "ms" and "ms+flip", ...
std::string name_of(const Set& set, bool flip) {
    const bool is_first = &set == &sets().front();
    return !flip ? set.name : is_first ? "flip" : std::string(set.name) + "+flip";
}

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
    std::string there;
    for (const Set& set : sets()) {
        for (const bool flip : {false, true}) {
            const std::string own = name_of(set, flip);
            if (name == own || (name.empty() && there.empty())) {
                const bool averages_logits =
                    set.average == Average::familys ? family == "sst" : set.average == Average::logits;
                return {set.scales, flip, averages_logits};
            }
            there += (there.empty() ? "" : ", ") + own;
        }
    }
    throw ConfigError("no tta '" + name + "'; there are " + there);
}

std::vector<FittedView> fit_views(const Rgb& image, const InputSpec& spec, const Tta& tta,
                                  std::vector<std::uint8_t>& pixels) {
    const OwnedRgb flipped = tta.flip ? mirrored(image) : OwnedRgb{};
    std::vector<FittedView> views;
    const auto add = [&](const Rgb& photo, double scale, bool is_mirrored) {
        const Size canvas = plan(photo.size, spec, scale).network;
        const size_t offset = pixels.size();
        pixels.resize(offset +
                      static_cast<size_t>(canvas.height) * static_cast<size_t>(canvas.width) * kChannels);
        views.push_back({fit(photo, spec, scale, pixels.data() + offset), is_mirrored, offset});
    };
    for (const double scale : tta.scales) {
        add(image, scale, false);
        if (tta.flip) {
            add(flipped.view(), scale, true);
        }
    }
    return views;
}

std::vector<View> merge_views(const std::vector<FittedView>& fitted, const Scores* scores,
                              const Domain& domain, const Tta& tta,
                              std::vector<std::vector<float>>& storage) {
    const bool wants_probabilities = !tta.gives_logits();
    std::vector<View> views;
    for (size_t v = 0; v < fitted.size(); ++v) {
        const Size cells = scores[v].cells;
        const float* values = scores[v].values.get();
        if (fitted[v].mirrored || wants_probabilities) {
            const size_t plane = static_cast<size_t>(cells.height) * static_cast<size_t>(cells.width);
            storage.emplace_back(static_cast<size_t>(scores[v].classes) * plane);
            merge_view(values, fitted[v].mirrored, wants_probabilities, domain, plane, storage.back().data());
            values = storage.back().data();
        }
        views.push_back({values, scores[v].classes, cells, fitted[v].geometry, fitted[v].mirrored});
    }
    return views;
}

}  // namespace hp
