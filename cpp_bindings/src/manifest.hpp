// JSON read with care: a wrong value is refused by its key path, given and allowed.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "files.hpp"
#include "hp/errors.hpp"

namespace hp {

using Json = nlohmann::ordered_json;  // Heads keep their order.

// The object in a JSON text.  Throws CorruptArtifact where it is none; `name` is the file's.
Json parse_object(const Bytes& content, const std::string& name);

// One object of the manifest and its key path; every member throws SchemaMismatch.  It refers to the
// JSON it was made from.
class Section {
public:
    Section(const Json& data, std::string where, std::string path = "");

    const Json& data() const { return *data_; }
    // Whether there is a value; null is none.
    bool has(const std::string& key) const;

    std::string text(const std::string& key) const;
    std::vector<std::string> texts(const std::string& key) const;
    // A whole number of at least `minimum`; very large ones count as the largest int.
    int integer(const std::string& key, int minimum = 1) const;
    // [height, width], both positive.
    std::pair<int, int> size(const std::string& key) const;
    std::string choice(const std::string& key, const std::vector<std::string>& allowed) const;
    Section section(const std::string& key) const;
    // Name and object of each entry; at least one.
    std::vector<std::pair<std::string, Section>> sections(const std::string& key) const;
    std::vector<Section> list_of(const std::string& key) const;

    const std::string& path() const { return path_; }
    SchemaMismatch error(const std::string& key, const Json& given, const std::string& allowed) const;
    SchemaMismatch error(const std::string& message) const;

private:
    const Json& get(const std::string& key) const;
    std::string path_of(const std::string& key) const;

    const Json* data_;
    std::string where_;
    std::string path_;
};

// A JSON value as messages show it.
std::string shown(const Json& value);

}  // namespace hp
