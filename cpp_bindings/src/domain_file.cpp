#include "domain_file.hpp"

#include <algorithm>
#include <cctype>
#include <set>

namespace hp {
namespace {

constexpr int kIgnore = 255;
const std::string kBackground = "background";

// What Python takes for nothing given: null, false, 0, "", [] and {}.
bool is_nothing(const Json& value) {
    return value.is_null() || value == Json(false) || value == Json(0) || value == Json("") ||
           ((value.is_array() || value.is_object()) && value.empty());
}

bool is_byte(const Json& value) {
    return value.is_number_integer() && value >= Json(0) && value <= Json(255);
}

bool is_reference(const Json& value) {
    return value.is_string() || value.is_number_integer();
}

bool is_colour(const Json& value) {
    return value.is_array() && value.size() == 3 && std::all_of(value.begin(), value.end(), is_byte);
}

bool is_space(char c) {
    return std::isspace(static_cast<unsigned char>(c)) != 0;
}

// `Upper clothes` becomes `upper-clothes`.
std::string kebab(const std::string& name) {
    const auto first = std::find_if_not(name.begin(), name.end(), is_space);
    const auto last = std::find_if_not(name.rbegin(), name.rend(), is_space).base();
    std::string word;
    for (auto it = first; it < last; ++it) {
        const bool is_gap = is_space(*it) || *it == '_';
        if (is_gap && !word.empty() && it != first && (is_space(it[-1]) || it[-1] == '_')) {
            continue;
        }
        word += is_gap ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(*it)));
    }
    return word;
}

// The PASCAL VOC colours: the bits of the id, dealt to R, G, B from the top bit down.
Colour voc_colour(std::size_t id) {
    Colour colour{};
    for (std::size_t channel = 0; channel < colour.size(); ++channel) {
        for (std::size_t bit = 0; bit < 3; ++bit) {
            const std::size_t set = (id >> (3 * bit + channel)) & 1;
            colour[channel] = static_cast<std::uint8_t>(colour[channel] | set << (7 - bit));
        }
    }
    return colour;
}

class Reader {
public:
    Reader(const Section& head, std::string title) : head_(head), title_(std::move(title)) { read_names(); }

    Domain domain() const {
        Domain domain;
        domain.name = title_;
        domain.names = names_;
        domain.flip_pairs = flip_pairs();
        domain.palette = palette();
        domain.groups = groups();
        domain.aliases = aliases();
        domain.ignore_index = ignore_index();
        return domain;
    }

private:
    void read_names() {
        const Json given = value("names");
        const bool fits = given.is_array() && std::all_of(given.begin(), given.end(), [](const Json& n) {
                              return n.is_string() && !key_of(n.get<std::string>()).empty();
                          });
        if (!fits) {
            throw error("names must be a list of part names, not " + shown(given));
        }
        if (given.size() < 2 || given.size() > kIgnore) {
            throw error("names has " + std::to_string(given.size()) + " parts; allowed are 2 to 255");
        }
        for (const Json& name : given) {
            add_name(kebab(name.get<std::string>()));
        }
        if (names_[0] != kBackground) {
            throw error("names[0] is '" + names_[0] + "'; it must be 'background'");
        }
    }

    void add_name(const std::string& name) {
        if (std::find(keys_.begin(), keys_.end(), key_of(name)) != keys_.end()) {
            throw error("names repeats '" + name + "'; keep each name once");
        }
        keys_.push_back(key_of(name));
        names_.push_back(name);
    }

    std::vector<std::pair<int, int>> flip_pairs() const {
        const Json given = value("flip_pairs");
        std::vector<std::pair<int, int>> pairs;
        std::set<int> seen = {0};  // The background swaps with none.
        for (const Json& pair : is_nothing(given) ? Json::array() : given) {
            if (!given.is_array() || !pair.is_array() || pair.size() != 2 ||
                !std::all_of(pair.begin(), pair.end(), is_reference)) {
                throw error("flip_pairs must be a list of pairs of parts");
            }
            const int a = reference(pair[0], "flip_pairs");
            const int b = reference(pair[1], "flip_pairs");
            if (!seen.insert(a).second || !seen.insert(b).second) {
                throw error("flip_pairs: a part swaps with one other part only, background with none");
            }
            pairs.emplace_back(a, b);
        }
        return pairs;
    }

    std::vector<Colour> palette() const {
        const Json given = value("palette");
        std::vector<Colour> colours;
        if (is_nothing(given)) {
            for (std::size_t id = 0; id < names_.size(); ++id) {
                colours.push_back(voc_colour(id));
            }
            return colours;
        }
        if (!given.is_array() || given.size() != names_.size() ||
            !std::all_of(given.begin(), given.end(), is_colour)) {
            throw error("palette must hold " + std::to_string(names_.size()) +
                        " colours [r, g, b] of 0..255, one per name");
        }
        for (const Json& colour : given) {
            colours.push_back(colour.get<Colour>());
        }
        return colours;
    }

    std::vector<std::pair<std::string, std::vector<int>>> groups() const {
        const Json table = table_of("groups");
        std::vector<std::pair<std::string, std::vector<int>>> groups;
        for (const auto& entry : table.items()) {
            const std::string where = "groups." + entry.key();
            if (std::find(keys_.begin(), keys_.end(), key_of(entry.key())) != keys_.end()) {
                throw error(where + ": this is a part already; choose another name");
            }
            if (!entry.value().is_array()) {
                throw error(where + " must be a list of parts, not " + shown(entry.value()));
            }
            std::set<int> ids;
            for (const Json& part : entry.value()) {
                ids.insert(reference(part, where));
            }
            groups.emplace_back(kebab(entry.key()), std::vector<int>(ids.begin(), ids.end()));
        }
        return groups;
    }

    std::vector<std::pair<std::string, int>> aliases() const {
        const Json table = table_of("aliases");
        std::vector<std::pair<std::string, int>> aliases;
        for (const auto& entry : table.items()) {
            aliases.emplace_back(entry.key(), reference(entry.value(), "aliases." + entry.key()));
        }
        return aliases;
    }

    int ignore_index() const {
        const Json given = head_.data().contains("ignore_index") ? value("ignore_index") : Json(kIgnore);
        if (!is_byte(given) || given.get<std::size_t>() < names_.size()) {
            throw error("ignore_index is " + shown(given) + "; allowed are " + std::to_string(names_.size()) +
                        " to 255");
        }
        return given.get<int>();
    }

    Json value(const std::string& key) const { return head_.has(key) ? head_.data().at(key) : Json(); }

    Json table_of(const std::string& key) const {
        Json given = value(key);
        if (is_nothing(given)) {
            return Json::object();
        }
        if (!given.is_object()) {
            throw error(key + " must be a table, not " + shown(given));
        }
        return given;
    }

    int reference(const Json& part, const std::string& where) const {
        if (part.is_string()) {
            const auto found = std::find(keys_.begin(), keys_.end(), key_of(part.get<std::string>()));
            if (found != keys_.end()) {
                return static_cast<int>(found - keys_.begin());
            }
        } else if (is_byte(part) && part.get<std::size_t>() < names_.size()) {
            return part.get<int>();
        }
        throw error(where + ": no part " + shown(part) + "; give a name of the list, or an id of 0 to " +
                    std::to_string(names_.size() - 1));
    }

    SchemaMismatch error(const std::string& message) const {
        return head_.error("domain '" + title_ + "': " + message);
    }

    const Section& head_;
    std::string title_;
    std::vector<std::string> names_;
    std::vector<std::string> keys_;
};

}  // namespace

std::string key_of(const std::string& name) {
    std::string key;
    for (const char c : name) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x80 || std::isalnum(byte) != 0) {
            key += static_cast<char>(std::tolower(byte));
        }
    }
    return key;
}

Domain parse_domain(const Section& head, const std::string& name) {
    return Reader(head, name).domain();
}

}  // namespace hp
