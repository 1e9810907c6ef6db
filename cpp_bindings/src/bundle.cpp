#include "bundle.hpp"

#include <algorithm>
#include <cctype>

#include "domain_file.hpp"
#include "manifest.hpp"
#include "windows.hpp"

namespace hp {
namespace {

namespace fs = std::filesystem;

const std::string kMajor = "1";
const std::string kLfsPointer = "version https://git-lfs.github.com/spec";
const std::vector<std::string> kWebPages = {"<!doctype html", "<html"};

bool starts_with(const std::string& text, const std::string& start) {
    return text.compare(0, start.size(), start) == 0;
}

// Name the two things that downloads leave in place of a file.
void refuse_stand_in(const Bytes& content, const fs::path& path) {
    std::string start(content.begin(), content.begin() + static_cast<std::ptrdiff_t>(
                                                             std::min(content.size(), kLfsPointer.size())));
    start.erase(0, std::min(start.find_first_not_of(" \t\r\n\v\f"), start.size()));
    if (start == kLfsPointer) {
        throw CorruptArtifact(quoted(path) + " is a Git LFS pointer; run `git lfs pull`");
    }
    std::transform(start.begin(), start.end(), start.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const std::string& page : kWebPages) {
        if (starts_with(start, page)) {
            throw CorruptArtifact(quoted(path) + " is a web page; download the file itself");
        }
    }
}

void check_schema(const std::string& schema, const fs::path& path) {
    if (schema.substr(0, schema.find('.')) != kMajor) {
        throw SchemaMismatch(quoted(path) + " has schema " + schema + "; this release reads " + kMajor +
                             ".x; install the release of hp-sdk that fits the bundle, or export it again");
    }
}

// A relative path that stays inside the bundle.
std::string inside(const Section& section, const std::string& key) {
    const std::string file = section.text(key);
    const fs::path path(file);
    const bool leaves = path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end() ||
                        file.find('\\') != std::string::npos || file.find(':') != std::string::npos ||
                        file.find('\0') != std::string::npos;
    if (leaves) {
        throw section.error(key, file, "a relative path that stays inside the bundle");
    }
    return file;
}

Size to_size(std::pair<int, int> hw) {
    return {hw.first, hw.second};
}

bool is_legal(int stride, int step, int side) {
    return stride % step == 0 && stride <= side;
}

InputSpec input_of(const Section& section) {
    const int pad = section.integer("pad_value", 0);
    if (pad > 255) {
        throw section.error("pad_value", pad, "0 to 255");
    }
    section.choice("interpolation", {"linear"});
    section.choice("pixel_centre", {"half"});
    section.choice("color", {"RGB"});
    section.choice("layout", {"NHWC"});
    section.choice("dtype", {"uint8"});
    InputSpec spec;
    spec.size = to_size(section.size("size_hw"));
    spec.resize = section.choice("resize", {"letterbox", "stretch", "shortest-side"});
    spec.pad_value = static_cast<std::uint8_t>(pad);
    if (section.has("stride_hw")) {
        spec.stride = to_size(section.size("stride_hw"));
    }
    if (section.has("longest_px")) {
        spec.longest_px = section.integer("longest_px");
    }
    const Size step = step_of(spec);
    const Size stride = window_stride(spec);
    if (!is_legal(stride.height, step.height, spec.size.height) ||
        !is_legal(stride.width, step.width, spec.size.width)) {
        throw section.error("stride_hw", section.data().at("stride_hw"),
                            "multiples of [" + std::to_string(step.height) + ", " +
                                std::to_string(step.width) + "] up to size_hw");
    }
    return spec;
}

HeadSpec head_of(const std::string& name, const Section& section) {
    section.integer("stride");
    return {std::make_shared<const Domain>(parse_domain(section, name)), section.text("output")};
}

void check_heads(const Section& section, const std::vector<std::string>& served, const Bundle& bundle) {
    for (const std::string& name : served) {
        if (bundle.find_head(name) == nullptr) {
            throw section.error("heads", name, "the name of a head of this bundle");
        }
    }
}

Artifact artifact_of(const Section& section, const Bundle& bundle) {
    Artifact artifact;
    artifact.runtime = section.text("runtime");
    artifact.file = inside(section, "file");
    artifact.sha256 = section.text("sha256");
    artifact.size_bytes = section.integer("size_bytes", 0);
    artifact.heads = section.texts("heads");
    section.text("precision_asked");
    artifact.precision_found = section.text("precision_found");
    artifact.batch_min = section.integer("batch_min");
    artifact.batch_opt = section.integer("batch_opt");
    artifact.batch_max = section.integer("batch_max");
    artifact.size = to_size(section.size("size_hw"));
    section.texts("outputs");
    if (section.has("opset")) {
        section.integer("opset");
    }
    check_heads(section, artifact.heads, bundle);
    return artifact;
}

std::optional<Golden> golden_of(const Section& top) {
    if (!top.has("golden") || top.data().at("golden") == Json::object()) {
        return std::nullopt;
    }
    const Section section = top.section("golden");
    const char* key = "tolerance_label_agreement";
    const Json tolerance = section.data().contains(key) ? section.data().at(key) : Json(1.0);
    if (!tolerance.is_number()) {
        throw section.error(key, tolerance, "a number from 0 to 1");
    }
    return Golden{inside(section, "file"), section.text("sha256"), tolerance.get<double>()};
}

Bytes bytes_of(const Bundle& bundle, const std::string& file) {
    const fs::path path = bundle.root / file;
    if (!fs::is_regular_file(path)) {
        throw CorruptArtifact("bundle '" + bundle.name + "' lacks its file '" + file + "'; fetch it again");
    }
    Bytes content = read_bytes(path);
    refuse_stand_in(content, path);
    return content;
}

void check_sha256(const Bytes& content, const std::string& sha256, const fs::path& path) {
    if (sha256_of(content) != sha256) {
        throw ChecksumMismatch(quoted(path) + " is damaged: its sha256 is not " + sha256.substr(0, 12) +
                               "... as the manifest says; fetch the bundle again");
    }
}

}  // namespace

const HeadSpec* Bundle::find_head(const std::string& head) const {
    for (const auto& entry : heads) {
        if (entry.first == head) {
            return &entry.second;
        }
    }
    return nullptr;
}

const HeadSpec& Bundle::head(const std::string& head) const {
    if (const HeadSpec* spec = find_head(head)) {
        return *spec;
    }
    std::string allowed;
    for (const auto& entry : heads) {
        allowed += (allowed.empty() ? "" : ", ") + entry.first;
    }
    throw UnknownHead("bundle '" + name + "' has no head '" + head + "'; it has " + allowed);
}

Bundle read_bundle(const fs::path& root) {
    const fs::path path = root / kManifest;
    if (!fs::is_regular_file(path)) {
        throw ModelNotFound(quoted(root) + " is no bundle: it holds no " + kManifest);
    }
    return parse_bundle(read_bytes(path), path);
}

Bundle parse_bundle(const Bytes& content, const fs::path& path) {
    refuse_stand_in(content, path);
    const Json data = parse_object(content, path.string());
    const Section top(data, path.string());
    check_schema(top.text("schema"), path);
    Bundle bundle;
    bundle.root = path.parent_path();
    bundle.name = top.text("name");
    bundle.family = top.text("family");
    bundle.version = top.text("version");
    top.text("license");
    top.section("card");
    bundle.input = input_of(top.section("input"));
    for (const auto& [head, section] : top.sections("heads")) {
        bundle.heads.emplace_back(head, head_of(head, section));
    }
    for (const Section& section : top.list_of("artifacts")) {
        bundle.artifacts.push_back(artifact_of(section, bundle));
    }
    bundle.golden = golden_of(top);
    return bundle;
}

fs::path verify_artifact(const Bundle& bundle, const Artifact& artifact) {
    const Bytes content = bytes_of(bundle, artifact.file);
    fs::path path = bundle.root / artifact.file;
    const auto wanted = static_cast<std::size_t>(artifact.size_bytes);
    if (content.size() != wanted) {
        throw ChecksumMismatch(quoted(path) + " is " +
                               (content.size() < wanted ? "truncated" : "not the file described") + ": " +
                               std::to_string(content.size()) + " bytes, the manifest says " +
                               std::to_string(wanted) + "; fetch the bundle again");
    }
    check_sha256(content, artifact.sha256, path);
    return path;
}

Bytes verified_bytes(const Bundle& bundle, const std::string& file, const std::string& sha256) {
    Bytes content = bytes_of(bundle, file);
    check_sha256(content, sha256, bundle.root / file);
    return content;
}

}  // namespace hp
