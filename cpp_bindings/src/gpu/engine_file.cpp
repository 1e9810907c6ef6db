#include "gpu/engine_file.hpp"

#include <sys/utsname.h>

#include <algorithm>

#include "files.hpp"
#include "manifest.hpp"

namespace hp::gpu {
namespace {

const std::string kRebuild = "python -m hp_export.tensorrt BUNDLE";
const std::string kPlace = "BUNDLE";

std::string placed(std::string command, const std::filesystem::path& bundle) {
    const auto at = command.find(kPlace);
    return at == std::string::npos ? command : command.replace(at, kPlace.size(), bundle.string());
}

// Such as "Linux x86_64".
std::string system_here() {
    utsname names{};
    uname(&names);
    return std::string(names.sysname) + " " + names.machine;
}

std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) {
        text += (text.empty() ? "" : ", ") + word;
    }
    return text;
}

}  // namespace

EngineIncompatible Origin::refused(const std::string& why) const {
    return EngineIncompatible("engine '" + name + "' does not run here: " + why +
                              "; build it again on this machine: " + rebuild);
}

Origin read_origin(const std::filesystem::path& engine, const std::filesystem::path& bundle) {
    Origin origin;
    origin.name = engine.filename().string();
    origin.rebuild = placed(kRebuild, bundle);
    const std::filesystem::path beside = engine.string() + ".json";
    if (!std::filesystem::is_regular_file(beside)) {
        return origin;
    }
    const Json data = parse_object(read_bytes(beside), beside.string());
    const Section told(data, beside.string());
    origin.version = told.text("version");
    origin.compute_capabilities = told.texts("compute_capabilities");
    origin.system = told.has("system") ? told.text("system") : "";
    origin.rebuild = placed(told.has("rebuild") ? told.text("rebuild") : kRebuild, bundle);
    return origin;
}

void check_origin(const Origin& origin, const std::string& version, const std::string& capability) {
    if (!origin.version.empty() && origin.version != version) {
        throw origin.refused("TensorRT " + origin.version + " wrote it, and " + version + " is installed");
    }
    if (!origin.system.empty() && origin.system != system_here()) {
        throw origin.refused("it is for " + origin.system + ", and this is " + system_here());
    }
    const auto& known = origin.compute_capabilities;
    if (!known.empty() && std::find(known.begin(), known.end(), capability) == known.end()) {
        throw origin.refused("it is for compute capability " + joined(known) + ", and this GPU has " +
                             capability);
    }
}

}  // namespace hp::gpu
