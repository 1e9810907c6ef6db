#include "models.hpp"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "bundle.hpp"
#include "files.hpp"
#include "hp/errors.hpp"

namespace hp {
namespace {

namespace fs = std::filesystem;

const std::string kDefault = "universal";  // The bundle that answers to the names of its heads.

std::string variable(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

fs::path expanded(const std::string& path) {
    const bool is_home = path == "~" || path.compare(0, 2, "~/") == 0;
    return is_home ? fs::path(variable("HOME") + path.substr(1)) : fs::path(path);
}

// `HP_HOME`, or `hp-sdk` in the XDG cache.
fs::path home() {
    if (const std::string given = variable("HP_HOME"); !given.empty()) {
        return expanded(given);
    }
    const std::string cache = variable("XDG_CACHE_HOME");
    return expanded(cache.empty() ? "~/.cache" : cache) / "hp-sdk";
}

fs::path shipped_folder(const std::string& given) {
    const std::string named = given.empty() ? variable("HP_BUNDLES") : given;
    return named.empty() ? fs::path(HP_INSTALLED_BUNDLES) : expanded(named);
}

bool is_bundle(const fs::path& folder) {
    std::error_code ignored;
    return fs::is_regular_file(folder / kManifest, ignored);
}

std::vector<std::string> bundles_in(const fs::path& folder) {
    std::error_code ignored;
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
        const std::string name = entry.path().filename().string();
        if (is_bundle(entry.path()) && name[0] != '.') {
            names.push_back(name);
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

std::vector<std::string> heads_of(const fs::path& folder) {
    std::vector<std::string> names;
    try {
        for (const auto& head : read_bundle(folder).heads) {
            names.push_back(head.first);
        }
    } catch (const ModelError&) {
        names.clear();  // Opening it will say why.
    }
    return names;
}

bool has(const std::vector<std::string>& names, const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
}

fs::path folder_of(const std::string& model) {
    fs::path path = expanded(model);
    std::error_code ignored;
    if (path.filename() == kManifest && fs::is_regular_file(path, ignored)) {
        path = path.has_parent_path() ? path.parent_path() : fs::path(".");
    }
    if (is_bundle(path)) {
        return path;
    }
    const char* what = fs::is_directory(path, ignored) ? " holds no bundle.json"
                       : fs::exists(path, ignored)     ? " is a file"
                                                       : " does not exist";
    throw ModelNotFound(quoted(path) + what + "; give the folder of a bundle, as hp-export writes it");
}

[[noreturn]] void throw_unknown(const std::string& model, const fs::path& shipped) {
    std::vector<std::string> names = bundles_in(home() / "models");
    for (const auto& more : {bundles_in(shipped), heads_of(shipped / kDefault)}) {
        names.insert(names.end(), more.begin(), more.end());
    }
    std::string allowed;
    for (const std::string& name : names) {
        allowed += name + ", ";
    }
    throw ModelNotFound("no model '" + model + "'; use " + allowed + (allowed.empty() ? "" : "or ") +
                        "the folder of a bundle");
}

}  // namespace

std::string canonical(const std::string& name) {
    return name == "ppp" ? "pascal" : name;
}

FoundModel find_bundle(const std::string& model, const std::string& shipped) {
    if (model.find_first_of("/\\") != std::string::npos) {
        return {folder_of(model), ""};
    }
    const fs::path added = home() / "models";
    const fs::path ours = shipped_folder(shipped);
    for (const fs::path& place : {added, ours}) {
        if (has(bundles_in(place), model)) {
            return {place / model, ""};
        }
    }
    if (has(heads_of(ours / kDefault), canonical(model))) {
        return {ours / kDefault, canonical(model)};
    }
    if (!model.empty() && is_bundle(model)) {
        return {model, ""};
    }
    throw_unknown(model, ours);
}

}  // namespace hp
