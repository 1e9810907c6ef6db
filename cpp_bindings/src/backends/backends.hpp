// Runtimes by name; each is wrapped by one file.  A runtime opens a file on one device or says why not;
// what is tried instead is decided in backends.cpp, once.
#pragma once

#include <memory>
#include <string>

#include "backends/base.hpp"
#include "hp/parser.hpp"

namespace hp {

// Open an artifact of the bundle.  "auto" takes the first runtime that is there and fits.  A device asked
// for by name works or throws; `allow_fallback` goes on to the CPU, and the facts' notes keep the reason.
//
// Throws ConfigError (no such backend, device or precision), BackendUnavailable or ProviderFallback (a
// runtime or device asked for is not there), EngineIncompatible (no engine is for this GPU), CorruptArtifact
// or ChecksumMismatch (the file is damaged).
std::unique_ptr<Backend> open_backend(const Bundle& bundle, const Options& options);

#ifdef HP_WITH_ONNXRUNTIME
std::unique_ptr<Backend> open_onnxruntime(const std::filesystem::path& path, const BackendOptions& options,
                                          Facts facts);
#endif
#ifdef HP_WITH_OPENVINO
std::unique_ptr<Backend> open_openvino(const std::filesystem::path& path, const BackendOptions& options,
                                       Facts facts);
#endif
#ifdef HP_WITH_TENSORRT
std::unique_ptr<Backend> open_tensorrt(const std::filesystem::path& path, const BackendOptions& options,
                                       Facts facts);
#endif

}  // namespace hp
