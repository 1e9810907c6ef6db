// A model on disk: a folder with `bundle.json`, its artifacts and a golden sample.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hp/domain.hpp"
#include "preprocess.hpp"

namespace hp {

inline constexpr const char* kManifest = "bundle.json";

// One label domain and the tensor that holds its logits.
struct HeadSpec {
    std::shared_ptr<const Domain> domain;
    std::string output;
};

// One file that a runtime can open.
struct Artifact {
    std::string runtime;
    std::string file;  // Path inside the bundle, with forward slashes.
    std::string sha256;
    int size_bytes = 0;
    std::vector<std::string> heads;
    std::string precision_found;
    int batch_min = 1;
    int batch_opt = 1;
    int batch_max = 1;
    Size size;
};

struct Golden {
    std::string file;
    std::string sha256;
    double tolerance = 1.0;  // Part of the pixels that must have the golden label.
};

// Everything `bundle.json` says that parsing needs, and where it lies.
struct Bundle {
    std::filesystem::path root;
    std::string name;
    std::string family;
    std::string version;
    InputSpec input;
    std::vector<std::pair<std::string, HeadSpec>> heads;
    std::vector<Artifact> artifacts;
    std::optional<Golden> golden;

    // nullptr where there is none of that name.
    const HeadSpec* find_head(const std::string& head) const;
    // Throws UnknownHead, with the names there are.
    const HeadSpec& head(const std::string& head) const;
};

// The bundle in folder `root`; reads the manifest only.
//
// Throws ModelNotFound (no bundle.json), SchemaMismatch (a newer schema, or a key that is missing or
// not allowed) or CorruptArtifact (no JSON).
Bundle read_bundle(const std::filesystem::path& root);

// The bundle in the text of a manifest; the same errors.
Bundle parse_bundle(const std::vector<std::uint8_t>& content, const std::filesystem::path& path);

// Compare one artifact with the manifest; its path.  Throws CorruptArtifact or ChecksumMismatch.
std::filesystem::path verify_artifact(const Bundle& bundle, const Artifact& artifact);

// The content of a file of the bundle that has this sha256.  The same errors.
std::vector<std::uint8_t> verified_bytes(const Bundle& bundle, const std::string& file,
                                         const std::string& sha256);

}  // namespace hp
