// From photos to results in five steps: take, fit, run, merge, label.
#pragma once

#include <string>
#include <vector>

#include "ask.hpp"
#include "backends/base.hpp"
#include "bundle.hpp"
#include "hp/result.hpp"
#include "windows.hpp"

namespace hp {

// The steps for one request; on the backend's own device where it can.  Bundle and backend belong to the
// caller.
class Recipe {
public:
    Recipe(const Bundle& bundle, const Backend& backend, const Ask& ask)
        : bundle_(bundle), backend_(backend), ask_(ask) {}

    // Results (image, head) of the photos of one batch; more runs where they have windows.
    std::vector<std::vector<Result>> parse(const std::vector<ImageView>& images) const;

private:
    // One network input of one view, cut out of its canvas.
    struct Window {
        std::size_t view;
        Corner corner;
    };

    // The photos of a batch, and what becomes of them.
    struct Batched {
        const std::vector<ImageView>& images;
        std::vector<std::uint8_t> pixels;  // Canvases of all views, one after another.
        std::vector<FittedView> views;     // tta.num_views() per photo.
        std::vector<Timing> timing;
    };

    std::vector<std::vector<Result>> parse_on_device(const Pipeline& pipeline,
                                                     const std::vector<ImageView>& images) const;
    void fit_photos(Batched& batch) const;
    // Per head, the scores of each view.
    std::vector<std::vector<Scores>> run_network(Batched& batch) const;
    std::vector<Window> windows_of(const Batched& batch) const;
    void run_windows(const Batched& batch, const Window* first, const Window* last,
                     std::vector<std::vector<Mosaic>>& mosaics) const;
    std::vector<Result> label_photo(const Batched& batch, const std::vector<std::vector<Scores>>& scores,
                                    std::size_t photo) const;
    Result result(const ImageView& image, const std::string& head, Labels labels, Timing timing) const;
    Receipt receipt(const std::string& head) const;

    const Bundle& bundle_;
    const Backend& backend_;
    const Ask& ask_;
};

}  // namespace hp
