#include "hp/parser.hpp"

#include <algorithm>
#include <chrono>

#include "backends/backends.hpp"
#include "bundle.hpp"
#include "golden.hpp"
#include "models.hpp"
#include "postprocess.hpp"
#include "tta.hpp"

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

std::string head_name(const Bundle& bundle, const std::string& asked) {
    if (asked.empty()) {
        return bundle.find_head("cihp") != nullptr ? "cihp" : bundle.heads.front().first;
    }
    if (bundle.find_head(asked) == nullptr && bundle.find_head(canonical(asked)) != nullptr) {
        return canonical(asked);
    }
    bundle.head(asked);
    return asked;
}

void check_logits(const Outputs& outputs, const HeadSpec& head, int count) {
    const Tensor& logits = outputs.at(head.output);
    if (logits.classes != head.domain->num_classes() || logits.count != count) {
        throw SchemaMismatch("the network gives " + std::to_string(logits.classes) + " classes as '" +
                             head.output + "', but domain '" + head.domain->name + "' has " +
                             std::to_string(head.domain->num_classes()) + "; export the bundle again");
    }
}

}  // namespace

class Parser::Impl {
public:
    Impl(Bundle bundle, const Options& options, const std::string& head)
        : bundle_(std::move(bundle)),
          head_(head_name(bundle_, options.head.empty() ? head : options.head)),
          tta_(choose_tta(options.tta, bundle_.family)) {
        if (options.batch_size < 0) {
            throw ConfigError("batch_size is " + std::to_string(options.batch_size) +
                              "; allowed are 0 (automatic) and more");
        }
        backend_ = open_backend(bundle_, options);
        batch_size_ = options.batch_size > 0 ? options.batch_size : backend_->facts().batch_opt;
    }

    // Results (image, head) of as many photos as there are, in batches.
    std::vector<std::vector<Result>> parse(const std::vector<ImageView>& images,
                                           const std::vector<std::string>& heads,
                                           const Request& request) const {
        const Tta tta = request.tta ? choose_tta(*request.tta, bundle_.family) : tta_;
        const auto at_once = static_cast<size_t>(std::max(1, batch_size_ / tta.num_views()));
        std::vector<std::vector<Result>> results;
        for (size_t first = 0; first < images.size(); first += at_once) {
            const size_t last = std::min(first + at_once, images.size());
            Run run{{images.begin() + static_cast<std::ptrdiff_t>(first),
                     images.begin() + static_cast<std::ptrdiff_t>(last)},
                    heads,
                    tta,
                    request.confidence,
                    {},
                    {},
                    {}};
            fit_photos(run);
            Outputs outputs = run_network(run);
            for (size_t photo = 0; photo < run.images.size(); ++photo) {
                results.push_back(label_photo(run, outputs, photo));
            }
        }
        return results;
    }

    SelfTest selftest() const {
        const GoldenSample sample = read_golden(bundle_);
        const ImageView image{sample.image.pixels.data(), sample.image.size};
        Request request;
        request.tta = "none";
        SelfTest test{
            backend_->facts().name + " " + backend_->facts().version, backend_->facts().provider, {}};
        const auto heads = head_names();
        const auto results = parse({image}, heads, request)[0];
        for (size_t i = 0; i < heads.size(); ++i) {
            test.agreement[heads[i]] = agreement(results[i].labels, sample.labels.at(heads[i]));
        }
        judge(test);
        return test;
    }

    std::vector<std::string> head_names() const {
        std::vector<std::string> names;
        for (const auto& head : bundle_.heads) {
            names.push_back(head.first);
        }
        return names;
    }

    std::string own_name(const std::string& head) const { return head_name(bundle_, head); }
    const std::string& head() const { return head_; }
    const Bundle& bundle() const { return bundle_; }

private:
    // The photos of one run of the network, and what becomes of them.
    struct Run {
        std::vector<ImageView> images;
        std::vector<std::string> heads;
        Tta tta;
        bool confidence;
        std::vector<std::uint8_t> pixels;  // (photos x views, h, w, 3)
        std::vector<std::vector<FittedView>> views;
        std::vector<Timing> timing;
    };

    // Steps one and two: each photo as the network takes it, once per view.
    void fit_photos(Run& run) const {
        const Size size = bundle_.input.size;
        if (size != backend_->facts().input) {
            throw InputError("the manifest fits photos to " + std::to_string(size.height) + " x " +
                             std::to_string(size.width) +
                             " pixels, which the network does not take; "
                             "export the bundle again");
        }
        const auto views = static_cast<size_t>(run.tta.num_views());
        const size_t bytes =
            static_cast<size_t>(size.height) * static_cast<size_t>(size.width) * kChannels * views;
        run.pixels.resize(bytes * run.images.size());
        for (size_t i = 0; i < run.images.size(); ++i) {
            Watch watch;
            OwnedRgb storage;
            const Rgb photo = named_photo(run, i, storage);
            run.views.push_back(fit_views(photo, bundle_.input, run.tta, run.pixels.data() + i * bytes));
            run.timing.push_back({watch.lap_ms(), 0, 0});
        }
    }

    static Rgb named_photo(const Run& run, size_t i, OwnedRgb& storage) {
        try {
            return packed_rgb(run.images[i], storage);
        } catch (const InputError& error) {
            if (run.images.size() == 1) {
                throw;
            }
            throw InputError("photo " + std::to_string(i + 1) + " of the batch: " + error.what());
        }
    }

    // Step three.
    Outputs run_network(Run& run) const {
        Watch watch;
        const int count = static_cast<int>(run.images.size()) * run.tta.num_views();
        std::vector<std::string> names;
        for (const std::string& head : run.heads) {
            names.push_back(bundle_.head(head).output);
        }
        Outputs outputs = run_in_chunks(*backend_, {run.pixels.data(), count, bundle_.input.size}, names);
        for (const std::string& head : run.heads) {
            check_logits(outputs, bundle_.head(head), count);
        }
        const double share_ms = watch.lap_ms() / static_cast<double>(run.images.size());
        for (Timing& timing : run.timing) {
            timing.network_ms = share_ms;
        }
        return outputs;
    }

    // Steps four and five: the views of one photo merged and labelled in its own pixels.
    std::vector<Result> label_photo(const Run& run, const Outputs& outputs, size_t photo) const {
        std::vector<Result> results;
        for (const std::string& name : run.heads) {
            Watch watch;
            const HeadSpec& head = bundle_.head(name);
            std::vector<float> storage;
            const int first = static_cast<int>(photo) * run.tta.num_views();
            const auto views =
                merge_views(run.views[photo], outputs.at(head.output), first, *head.domain, run.tta, storage);
            Labels answer = run.confidence ? merged_labels_and_confidence(views, run.tta.gives_logits())
                                           : merged_labels(views);
            Result result{run.images[photo].size,       std::move(answer.labels),
                          std::move(answer.confidence), head.domain,
                          receipt(name, run.tta),       run.timing[photo]};
            result.timing.labels_ms = watch.lap_ms();
            results.push_back(std::move(result));
        }
        return results;
    }

    Receipt receipt(const std::string& head, const Tta& tta) const {
        const Facts& facts = backend_->facts();
        return {bundle_.name + " " + bundle_.version,
                head,
                facts.name + " " + facts.version,
                facts.provider,
                facts.artifact,
                facts.precision,
                tta.text(),
                facts.notes};
    }

    void judge(const SelfTest& test) const {
        for (const auto& [head, part] : test.agreement) {
            if (part < bundle_.golden->tolerance) {
                throw VerificationFailed(test.backend + " (" + test.provider +
                                         ") gives other labels than the golden ones of bundle '" +
                                         bundle_.name + "': " + head + " agrees on " +
                                         std::to_string(100 * part) + " %, required " +
                                         std::to_string(100 * bundle_.golden->tolerance) +
                                         " %; try another device or export again");
            }
        }
    }

    Bundle bundle_;
    std::string head_;
    Tta tta_;
    std::unique_ptr<Backend> backend_;
    int batch_size_ = 1;
};

Parser::Parser(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Parser::Parser(Parser&& other) noexcept = default;
Parser& Parser::operator=(Parser&& other) noexcept = default;
Parser::~Parser() = default;

Parser Parser::load(const std::string& model, const Options& options) {
    const FoundModel found = find_bundle(model, options.bundles);
    return Parser(std::make_unique<Impl>(read_bundle(found.folder), options, found.head));
}

Result Parser::parse(const ImageView& image, const Request& request) const {
    return std::move(impl_->parse({image}, {impl_->head()}, request)[0][0]);
}

std::vector<Result> Parser::parse(const std::vector<ImageView>& images, const Request& request) const {
    std::vector<Result> results;
    for (auto& answer : impl_->parse(images, {impl_->head()}, request)) {
        results.push_back(std::move(answer[0]));
    }
    return results;
}

std::map<std::string, Result> Parser::parse_heads(const ImageView& image,
                                                  const std::vector<std::string>& heads,
                                                  const Request& request) const {
    std::vector<std::string> names;
    for (const std::string& head : heads) {
        names.push_back(impl_->own_name(head));
    }
    if (names.empty()) {
        throw ConfigError("no head is named; give a list such as {\"cihp\", \"atr\"}");
    }
    auto results = std::move(impl_->parse({image}, names, request)[0]);
    std::map<std::string, Result> by_head;
    for (size_t i = 0; i < names.size(); ++i) {
        by_head.insert_or_assign(names[i], std::move(results[i]));
    }
    return by_head;
}

SelfTest Parser::selftest() const {
    return impl_->selftest();
}
const std::string& Parser::head() const {
    return impl_->head();
}
std::vector<std::string> Parser::heads() const {
    return impl_->head_names();
}
const Domain& Parser::domain() const {
    return domain(head());
}
const Domain& Parser::domain(const std::string& head) const {
    return *impl_->bundle().head(impl_->own_name(head)).domain;
}

}  // namespace hp
