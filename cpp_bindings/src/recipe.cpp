#include "recipe.hpp"

#include <algorithm>
#include <chrono>

#include "hp/errors.hpp"
#include "postprocess.hpp"

namespace hp {
namespace {

using std::size_t;

// Milliseconds since the last look.
class Watch {
public:
    double lap_ms() {
        const auto last = start_;
        start_ = std::chrono::steady_clock::now();
        return std::chrono::duration<double, std::milli>(start_ - last).count();
    }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

size_t bytes_of(Size size) {
    return static_cast<size_t>(size.height) * static_cast<size_t>(size.width) * kChannels;
}

std::vector<ImageView> checked_photos(const std::vector<ImageView>& images) {
    std::vector<ImageView> views;
    for (std::size_t i = 0; i < images.size(); ++i) {
        try {
            views.push_back(checked(images[i]));
        } catch (const InputError& error) {
            if (images.size() == 1) {
                throw;
            }
            throw InputError("photo " + std::to_string(i + 1) + " of the batch: " + error.what());
        }
    }
    return views;
}

void check_logits(const Outputs& outputs, const HeadSpec& head, size_t count, Size input) {
    const Tensor& logits = outputs.at(head.output);
    if (logits.classes != head.domain->num_classes() || logits.count != static_cast<int>(count)) {
        throw SchemaMismatch("the network gives " + std::to_string(logits.classes) + " classes as '" +
                             head.output + "', but domain '" + head.domain->name + "' has " +
                             std::to_string(head.domain->num_classes()) + "; export the bundle again");
    }
    if (logits.cells.height > input.height || logits.cells.width > input.width) {
        throw SchemaMismatch("the network gives " + std::to_string(logits.cells.height) + " x " +
                             std::to_string(logits.cells.width) + " cells as '" + head.output +
                             "', more than pixels; export the bundle again");
    }
}

// The answer to input `i` of a run, which keeps the run's tensors alive.
Scores scores_of(const std::shared_ptr<const Outputs>& outputs, const std::string& name, size_t i) {
    const Tensor& logits = outputs->at(name);
    const size_t each = logits.values.size() / static_cast<size_t>(logits.count);
    return {{outputs, logits.values.data() + i * each}, logits.classes, logits.cells};
}

}  // namespace

std::vector<std::vector<Result>> Recipe::parse(const std::vector<ImageView>& given) const {
    const std::vector<ImageView> images = checked_photos(given);
    const Pipeline* pipeline = backend_.pipeline();
    if (pipeline != nullptr && pipeline->takes(bundle_, images, ask_)) {
        return parse_on_device(*pipeline, images);
    }
    Batched batch{images, {}, {}, {}};
    fit_photos(batch);
    const auto scores = run_network(batch);
    std::vector<std::vector<Result>> results;
    for (size_t photo = 0; photo < images.size(); ++photo) {
        results.push_back(label_photo(batch, scores, photo));
    }
    return results;
}

// All steps are one for the clock here.
std::vector<std::vector<Result>> Recipe::parse_on_device(const Pipeline& pipeline,
                                                         const std::vector<ImageView>& images) const {
    Watch watch;
    auto labels = pipeline.parse(bundle_, images, ask_);
    const double share_ms = watch.lap_ms() / static_cast<double>(images.size());
    std::vector<std::vector<Result>> results(images.size());
    for (size_t photo = 0; photo < images.size(); ++photo) {
        for (size_t head = 0; head < ask_.heads.size(); ++head) {
            results[photo].push_back(
                result(images[photo], ask_.heads[head], std::move(labels[photo][head]), {0, share_ms, 0}));
        }
    }
    return results;
}

// Steps one and two: each photo as the network takes it, once per view.
void Recipe::fit_photos(Batched& batch) const {
    const Size size = bundle_.input.size;
    if (size != backend_.facts().input) {
        throw InputError("the manifest fits photos to " + std::to_string(size.height) + " x " +
                         std::to_string(size.width) +
                         " pixels, which the network does not take; export the bundle again");
    }
    batch.pixels.reserve(bytes_of(size) * batch.images.size() * static_cast<size_t>(ask_.tta.num_views()));
    for (size_t i = 0; i < batch.images.size(); ++i) {
        Watch watch;
        OwnedRgb storage;
        const Rgb photo = packed_rgb(batch.images[i], storage);
        const auto views = fit_views(photo, bundle_.input, ask_.tta, batch.pixels);
        batch.views.insert(batch.views.end(), views.begin(), views.end());
        batch.timing.push_back({watch.lap_ms(), 0, 0});
    }
}

// Step three: all views at once, or as many windows.
std::vector<std::vector<Scores>> Recipe::run_network(Batched& batch) const {
    Watch watch;
    std::vector<Mosaic> canvases;
    for (const FittedView& view : batch.views) {
        canvases.emplace_back(view.geometry.network, bundle_.input.size);
    }
    std::vector<std::vector<Mosaic>> mosaics(ask_.heads.size(), canvases);
    const std::vector<Window> windows = windows_of(batch);
    const auto usual = static_cast<size_t>(backend_.facts().batch_opt);
    const size_t at_once = std::max(batch.views.size(), usual);
    for (size_t first = 0; first < windows.size(); first += at_once) {
        const size_t last = std::min(first + at_once, windows.size());
        run_windows(batch, windows.data() + first, windows.data() + last, mosaics);
    }
    std::vector<std::vector<Scores>> scores(mosaics.size());
    for (size_t head = 0; head < mosaics.size(); ++head) {
        std::transform(mosaics[head].begin(), mosaics[head].end(), std::back_inserter(scores[head]),
                       [](Mosaic& mosaic) { return mosaic.mean(); });
    }
    const double share_ms = watch.lap_ms() / static_cast<double>(batch.images.size());
    for (Timing& timing : batch.timing) {
        timing.network_ms = share_ms;
    }
    return scores;
}

std::vector<Recipe::Window> Recipe::windows_of(const Batched& batch) const {
    std::vector<Window> windows;
    for (size_t view = 0; view < batch.views.size(); ++view) {
        for (const Corner corner : corners(batch.views[view].geometry.network, bundle_.input)) {
            windows.push_back({view, corner});
        }
    }
    return windows;
}

void Recipe::run_windows(const Batched& batch, const Window* first, const Window* last,
                         std::vector<std::vector<Mosaic>>& mosaics) const {
    const Size size = bundle_.input.size;
    const auto count = static_cast<size_t>(last - first);
    const std::uint8_t* inputs = batch.pixels.data();
    std::vector<std::uint8_t> gathered;
    const bool each_is_one = batch.pixels.size() == batch.views.size() * bytes_of(size);
    if (!each_is_one) {  // Otherwise the canvases are the inputs.
        gathered.resize(count * bytes_of(size));
        inputs = gathered.data();
        for (size_t i = 0; i < count; ++i) {
            const FittedView& view = batch.views[first[i].view];
            copy_window({batch.pixels.data() + view.offset, view.geometry.network}, first[i].corner, size,
                        gathered.data() + i * bytes_of(size));
        }
    }
    std::vector<std::string> names;
    for (const std::string& head : ask_.heads) {
        names.push_back(bundle_.head(head).output);
    }
    const auto outputs = std::make_shared<const Outputs>(
        run_in_chunks(backend_, {inputs, static_cast<int>(count), size}, names));
    for (size_t head = 0; head < ask_.heads.size(); ++head) {
        check_logits(*outputs, bundle_.head(ask_.heads[head]), count, size);
        for (size_t i = 0; i < count; ++i) {
            mosaics[head][first[i].view].add(first[i].corner, scores_of(outputs, names[head], i));
        }
    }
}

// Steps four and five: the views of one photo merged and labelled in its own pixels.
std::vector<Result> Recipe::label_photo(const Batched& batch, const std::vector<std::vector<Scores>>& scores,
                                        size_t photo) const {
    const auto views = static_cast<std::ptrdiff_t>(ask_.tta.num_views());
    const auto first = static_cast<std::ptrdiff_t>(photo) * views;
    const std::vector<FittedView> fitted(batch.views.begin() + first, batch.views.begin() + first + views);
    std::vector<Result> results;
    for (size_t i = 0; i < ask_.heads.size(); ++i) {
        Watch watch;
        const HeadSpec& head = bundle_.head(ask_.heads[i]);
        std::vector<std::vector<float>> storage;
        const auto merged = merge_views(fitted, scores[i].data() + first, *head.domain, ask_.tta, storage);
        Labels answer = ask_.confidence ? merged_labels_and_confidence(merged, ask_.tta.gives_logits())
                                        : merged_labels(merged);
        Result result{batch.images[photo].size,     std::move(answer.labels),
                      std::move(answer.confidence), head.domain,
                      receipt(ask_.heads[i]),       batch.timing[photo]};
        result.timing.labels_ms = watch.lap_ms();
        results.push_back(std::move(result));
    }
    return results;
}

Result Recipe::result(const ImageView& image, const std::string& head, Labels labels, Timing timing) const {
    return {image.size,
            std::move(labels.labels),
            std::move(labels.confidence),
            bundle_.head(head).domain,
            receipt(head),
            timing};
}

Receipt Recipe::receipt(const std::string& head) const {
    const Facts& facts = backend_.facts();
    return {bundle_.name + " " + bundle_.version,
            head,
            facts.name + " " + facts.version,
            facts.provider,
            facts.artifact,
            facts.precision,
            ask_.tta.text(),
            facts.notes};
}

}  // namespace hp
