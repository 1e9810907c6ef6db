// Where a TensorRT engine file may run, as the sidecar beside it tells (`model.engine.json`).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "hp/errors.hpp"

namespace hp::gpu {

// What built an engine; empty where nobody says.
struct Origin {
    std::string name;
    std::string version;
    std::vector<std::string> compute_capabilities;
    std::string system;
    std::string rebuild;  // The command that builds it again.

    // The error for an engine that does not run here, with what helps.
    EngineIncompatible refused(const std::string& why) const;
};

// What the sidecar says; the least possible if there is none.
// Throws CorruptArtifact (it is not JSON) or SchemaMismatch (a value is not what it should be).
Origin read_origin(const std::filesystem::path& engine, const std::filesystem::path& bundle);

// Compare with what is here.  Throws EngineIncompatible: another TensorRT, GPU or system.
void check_origin(const Origin& origin, const std::string& version, const std::string& capability);

}  // namespace hp::gpu
