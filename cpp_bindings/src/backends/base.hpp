// What every runtime looks like from above: pixels in, logits out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hp/errors.hpp"
#include "hp/image.hpp"

namespace hp {

struct Artifact;
struct Bundle;
class Pipeline;

// Logits (count, classes, h, w) of a batch.
struct Tensor {
    int count = 0;
    int classes = 0;
    Size cells;
    std::vector<float> values;
};

using Outputs = std::map<std::string, Tensor>;

// Network inputs (count, h, w, 3) uint8 RGB.
struct Batch {
    const std::uint8_t* data = nullptr;
    int count = 0;
    Size size;
};

// What a backend can say about itself once it is open.
struct Facts {
    std::string name;  // Runtime, such as "onnxruntime".
    std::string version;
    std::string provider;  // Device as the runtime reports it after opening.
    std::string artifact;  // File and the start of its sha256.
    std::string precision;
    Size input;
    int batch_min = 1;
    int batch_opt = 1;
    int batch_max = 1;
    std::vector<std::string> outputs;  // Names in the graph.
    std::vector<std::string> notes;
};

// How to open an artifact: on this device, in this way, or not at all.
struct BackendOptions {
    std::string device = "cpu";
    std::string precision = "auto";
    int num_threads = 0;
    std::string onnxruntime;       // Path of libonnxruntime.
    std::filesystem::path bundle;  // Folder that the file belongs to.
};

// The runtime, the device or a fitting artifact is not there; nothing is broken.
class Absent : public BackendUnavailable {
public:
    using BackendUnavailable::BackendUnavailable;
};

// An open model.  `run` may be called from several threads at once.
class Backend {
public:
    virtual ~Backend() = default;

    // Outputs by name for batch_min to batch_max inputs.
    virtual Outputs run(const Batch& batch, const std::vector<std::string>& outputs) const = 0;

    // Its own way from photos to labels, where it has one.
    virtual const Pipeline* pipeline() const { return nullptr; }

    const Facts& facts() const { return facts_; }
    void note(const std::string& text) { facts_.notes.push_back(text); }

protected:
    Facts facts_;
};

using OpenFile =
    std::function<std::unique_ptr<Backend>(const std::filesystem::path&, const BackendOptions&, Facts)>;

// Open one file of a bundle after comparing it with the manifest, and compare what it takes.
//
// Throws CorruptArtifact (missing), ChecksumMismatch (another file) or SchemaMismatch (inputs or
// outputs are not those of the manifest).
std::unique_ptr<Backend> open_verified(const OpenFile& open_file, const Bundle& bundle,
                                       const Artifact& artifact, const BackendOptions& options);

// Run a batch of any size; a chunk that is too small is filled up with copies of its last input.
Outputs run_in_chunks(const Backend& backend, const Batch& batch, const std::vector<std::string>& outputs);

// What a graph takes must be one uint8 input (N, h, w, 3), -1 standing for any; its h and w.
// A fixed N overrules the manifest's batch limits.
void set_input(Facts& facts, const std::filesystem::path& path, bool is_uint8,
               const std::vector<std::int64_t>& shape, std::size_t inputs);

// An empty tensor of a graph's output shape; throws SchemaMismatch where it has not four sides.
Tensor tensor_of(const std::vector<std::int64_t>& shape, const std::string& name);

// IEEE half precision, as some graphs answer.
float from_half(std::uint16_t bits);

// Whether a runtime's message says that memory ran out.
bool is_out_of_memory(const std::string& message);

}  // namespace hp
