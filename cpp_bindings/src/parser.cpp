#include "hp/parser.hpp"

#include <algorithm>
#include <iterator>

#include "backends/backends.hpp"
#include "bundle.hpp"
#include "golden.hpp"
#include "models.hpp"
#include "recipe.hpp"

namespace hp {
namespace {

using std::size_t;

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
        const Ask ask{heads, request.tta ? choose_tta(*request.tta, bundle_.family) : tta_,
                      request.confidence};
        const Recipe recipe(bundle_, *backend_, ask);
        const auto at_once = static_cast<size_t>(std::max(1, batch_size_ / ask.tta.num_views()));
        std::vector<std::vector<Result>> results;
        for (size_t first = 0; first < images.size(); first += at_once) {
            const size_t last = std::min(first + at_once, images.size());
            auto answers = recipe.parse({images.begin() + static_cast<std::ptrdiff_t>(first),
                                         images.begin() + static_cast<std::ptrdiff_t>(last)});
            std::move(answers.begin(), answers.end(), std::back_inserter(results));
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
