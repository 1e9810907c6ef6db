#include "manifest.hpp"

#include <algorithm>
#include <limits>

namespace hp {
namespace {

constexpr std::size_t kShown = 80;

bool is_text(const Json& value) {
    return value.is_string();
}

// A whole number as an int; what lies beyond counts as the nearest there is.
int clamped(const Json& value) {
    constexpr int largest = std::numeric_limits<int>::max();
    if (value.is_number_unsigned()) {
        return static_cast<int>(std::min<std::uint64_t>(value.get<std::uint64_t>(), largest));
    }
    return static_cast<int>(std::clamp<std::int64_t>(value.get<std::int64_t>(), -1, largest));
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) {
        text += (text.empty() ? "'" : " or '") + word + "'";
    }
    return text;
}

}  // namespace

std::string shown(const Json& value) {
    const auto replace = Json::error_handler_t::replace;
    const std::string text = value.dump(-1, ' ', false, replace);
    return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

Json parse_object(const Bytes& content, const std::string& name) {
    static const std::string mark = "\xEF\xBB\xBF";  // JSON has no byte order mark.
    const bool is_marked = content.size() >= mark.size() &&
                           std::equal(mark.begin(), mark.end(), content.begin(), [](char a, std::uint8_t b) {
                               return static_cast<std::uint8_t>(a) == b;
                           });
    Json data = Json::parse(content.begin(), content.end(), nullptr, false);
    if (is_marked || data.is_discarded()) {
        throw CorruptArtifact("cannot read '" + name + "' as JSON; fetch the bundle again");
    }
    if (!data.is_object()) {
        throw CorruptArtifact("'" + name + "' holds no JSON object; export the bundle again");
    }
    return data;
}

Section::Section(const Json& data, std::string where, std::string path)
    : data_(&data), where_(std::move(where)), path_(std::move(path)) {}

bool Section::has(const std::string& key) const {
    const auto found = data_->find(key);
    return found != data_->end() && !found->is_null();
}

std::string Section::text(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_string()) {
        throw error(key, value, "a string");
    }
    return value.get<std::string>();
}

std::vector<std::string> Section::texts(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_text)) {
        throw error(key, value, "a list of strings");
    }
    return value.get<std::vector<std::string>>();
}

int Section::integer(const std::string& key, int minimum) const {
    const Json& value = get(key);
    if (!value.is_number_integer() || clamped(value) < minimum) {
        throw error(key, value, "a whole number from " + std::to_string(minimum));
    }
    return clamped(value);
}

std::pair<int, int> Section::size(const std::string& key) const {
    const Json& value = get(key);
    const bool fits = value.is_array() && value.size() == 2 &&
                      std::all_of(value.begin(), value.end(), [](const Json& side) {
                          return side.is_number_integer() && clamped(side) > 0;
                      });
    if (!fits) {
        throw error(key, value, "[height, width] in pixels");
    }
    return {clamped(value[0]), clamped(value[1])};
}

std::string Section::choice(const std::string& key, const std::vector<std::string>& allowed) const {
    std::string value = text(key);
    if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
        throw error(key, value, joined(allowed) + " in this release");
    }
    return value;
}

Section Section::section(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_object()) {
        throw error(key, value, "an object");
    }
    return {value, where_, path_of(key)};
}

std::vector<std::pair<std::string, Section>> Section::sections(const std::string& key) const {
    const Section entries = section(key);
    if (entries.data().empty()) {
        throw error(key, entries.data(), "at least one entry");
    }
    std::vector<std::pair<std::string, Section>> list;
    for (const auto& entry : entries.data().items()) {
        list.emplace_back(entry.key(), entries.section(entry.key()));
    }
    return list;
}

std::vector<Section> Section::list_of(const std::string& key) const {
    const Json& value = get(key);
    if (!value.is_array()) {
        throw error(key, value, "a list of objects");
    }
    std::vector<Section> list;
    for (std::size_t k = 0; k < value.size(); ++k) {
        const std::string item = key + "[" + std::to_string(k) + "]";
        if (!value[k].is_object()) {
            throw error(item, value[k], "an object");
        }
        list.emplace_back(value[k], where_, path_of(item));
    }
    return list;
}

SchemaMismatch Section::error(const std::string& key, const Json& given, const std::string& allowed) const {
    return SchemaMismatch("'" + where_ + "': " + path_of(key) + " is " + shown(given) + "; allowed is " +
                          allowed);
}

SchemaMismatch Section::error(const std::string& message) const {
    return SchemaMismatch("'" + where_ + "': " + path_ + ": " + message);
}

const Json& Section::get(const std::string& key) const {
    const auto found = data_->find(key);
    if (found == data_->end()) {
        throw SchemaMismatch("'" + where_ + "': " + path_of(key) + " is missing; export the bundle again");
    }
    return *found;
}

std::string Section::path_of(const std::string& key) const {
    return path_.empty() ? key : path_ + "." + key;
}

}  // namespace hp
