#include "hp_c.h"

#include <algorithm>
#include <exception>

#include "hp/parser.hpp"

struct hp_parser {
    hp::Parser parser;
};

struct hp_result {
    hp::Result result;
};

namespace {

struct LastError {
    std::string kind;
    std::string message;
};

LastError& last_error() {
    thread_local LastError error;
    return error;
}

hp_status fail(const char* kind, const std::string& message, int code) {
    last_error() = {kind, message};
    return static_cast<hp_status>(code);
}

// Whatever `work` throws becomes a status: nothing may be thrown through C.
template <class Work>
hp_status guarded(Work work) {
    try {
        work();
        return HP_OK;
    } catch (const hp::HpError& error) {
        return fail(error.kind(), error.what(), error.exit_code());
    } catch (const std::exception& error) {
        return fail("HpError", error.what(), HP_UNEXPECTED);
    } catch (...) {
        return fail("HpError", "an unknown failure", HP_UNEXPECTED);
    }
}

void require(const void* given, const char* name) {
    if (given == nullptr) {
        throw hp::InputError(std::string(name) + " is NULL; it must be given");
    }
}

void take(const char* given, std::string& value) {
    if (given != nullptr) {
        value = given;
    }
}

hp::Options options_of(const hp_options& given) {
    hp::Options options;
    take(given.backend, options.backend);
    take(given.device, options.device);
    take(given.precision, options.precision);
    take(given.head, options.head);
    take(given.tta, options.tta);
    take(given.onnxruntime, options.onnxruntime);
    take(given.bundles, options.bundles);
    options.batch_size = given.batch_size;
    options.num_threads = given.num_threads;
    options.allow_fallback = given.allow_fallback != 0;
    return options;
}

hp::ImageView view_of(const hp_image& image) {
    return {
        image.data, {image.height, image.width}, static_cast<hp::PixelFormat>(image.format), image.row_bytes};
}

hp::Request request_of(const char* tta, int wants_confidence) {
    hp::Request request;
    if (tta != nullptr) {
        request.tta = tta;
    }
    request.confidence = wants_confidence != 0;
    return request;
}

// All or nothing: the caller frees what was handed over.
void hand_over(std::vector<hp::Result> answers, hp_result** results) {
    std::vector<std::unique_ptr<hp_result>> owned;
    for (hp::Result& answer : answers) {
        owned.push_back(std::make_unique<hp_result>(hp_result{std::move(answer)}));
    }
    std::transform(owned.begin(), owned.end(), results, [](auto& each) { return each.release(); });
}

}  // namespace

const char* hp_last_error(void) {
    return last_error().message.c_str();
}
const char* hp_last_error_kind(void) {
    return last_error().kind.c_str();
}
const char* hp_version(void) {
    return HP_VERSION;
}

hp_status hp_parser_load(const char* model, const hp_options* options, hp_parser** parser) {
    return guarded([&] {
        require(parser, "parser");
        *parser = nullptr;
        require(model, "model");
        *parser =
            new hp_parser{hp::Parser::load(model, options == nullptr ? hp::Options{} : options_of(*options))};
    });
}

void hp_parser_free(hp_parser* parser) {
    delete parser;
}

hp_status hp_parser_parse(const hp_parser* parser, const hp_image* image, const char* tta,
                          int wants_confidence, hp_result** result) {
    return hp_parser_parse_batch(parser, image, 1, tta, wants_confidence, result);
}

hp_status hp_parser_parse_batch(const hp_parser* parser, const hp_image* images, size_t count,
                                const char* tta, int wants_confidence, hp_result** results) {
    return guarded([&] {
        require(results, "results");
        std::fill_n(results, count, nullptr);
        require(parser, "parser");
        require(images, "images");
        std::vector<hp::ImageView> views;
        std::transform(images, images + count, std::back_inserter(views), view_of);
        auto answers = parser->parser.parse(views, request_of(tta, wants_confidence));
        hand_over(std::move(answers), results);
    });
}

hp_status hp_parser_parse_heads(const hp_parser* parser, const hp_image* image, const char* const* heads,
                                size_t count, const char* tta, int wants_confidence, hp_result** results) {
    return guarded([&] {
        require(results, "results");
        std::fill_n(results, count, nullptr);
        require(parser, "parser");
        require(image, "image");
        require(heads, "heads");
        std::for_each(heads, heads + count, [](const char* head) { require(head, "a head"); });
        const std::vector<std::string> names(heads, heads + count);
        const auto by_head =
            parser->parser.parse_heads(view_of(*image), names, request_of(tta, wants_confidence));
        std::vector<hp::Result> answers;
        for (const std::string& name : names) {
            answers.push_back(by_head.at(name));
        }
        hand_over(std::move(answers), results);
    });
}

hp_status hp_parser_selftest(const hp_parser* parser, double* worst) {
    return guarded([&] {
        require(parser, "parser");
        const hp::SelfTest test = parser->parser.selftest();
        for (const auto& [head, part] : test.agreement) {
            if (worst != nullptr) {
                *worst = head == test.agreement.begin()->first ? part : std::min(*worst, part);
            }
        }
    });
}

void hp_result_free(hp_result* result) {
    delete result;
}

int hp_result_num_classes(const hp_result* result) {
    return result->result.domain->num_classes();
}

const char* hp_result_class_name(const hp_result* result, int id) {
    const auto& names = result->result.domain->names;
    const auto index = static_cast<std::size_t>(id);
    return id < 0 || index >= names.size() ? nullptr : names[index].c_str();
}

const uint8_t* hp_result_class_colour(const hp_result* result, int id) {
    const auto& palette = result->result.domain->palette;
    const auto index = static_cast<std::size_t>(id);
    return id < 0 || index >= palette.size() ? nullptr : palette[index].data();
}

const char* hp_result_backend(const hp_result* result) {
    return result->result.receipt.backend.c_str();
}

int hp_result_height(const hp_result* result) {
    return result->result.size.height;
}
int hp_result_width(const hp_result* result) {
    return result->result.size.width;
}
const uint8_t* hp_result_labels(const hp_result* result) {
    return result->result.labels.data();
}

const uint8_t* hp_result_confidence(const hp_result* result) {
    const auto& confidence = result->result.confidence;
    return confidence.empty() ? nullptr : confidence.data();
}

int64_t hp_result_area(const hp_result* result, int id) {
    const auto& labels = result->result.labels;
    return std::count(labels.begin(), labels.end(), id);
}

hp_status hp_result_mask(const hp_result* result, const char* part_or_group, uint8_t* mask) {
    return guarded([&] {
        require(result, "result");
        require(part_or_group, "part_or_group");
        require(mask, "mask");
        const auto where = result->result.mask({part_or_group});
        std::copy(where.begin(), where.end(), mask);
    });
}
