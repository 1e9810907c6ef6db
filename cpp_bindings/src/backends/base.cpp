#include "backends/base.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "bundle.hpp"

namespace hp {
namespace {

using std::size_t;

constexpr std::array<const char*, 6> kNoMemory = {"allocate",  "out of memory", "bad allocation",
                                                  "bad_alloc", "bad_array_new", "cl_out_of"};
constexpr std::int64_t kMaxSide = 1 << 20;

std::string text_of(Size size) {
    return "(" + std::to_string(size.height) + ", " + std::to_string(size.width) + ")";
}

std::string text_of(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const std::int64_t side : shape) {
        text += (text.empty() ? "" : ", ") + (side < 0 ? std::string("N") : std::to_string(side));
    }
    return "(" + text + ")";
}

Facts facts_of(const Artifact& artifact) {
    Facts facts;
    facts.artifact = artifact.file + " sha256:" + artifact.sha256.substr(0, 12);
    facts.precision = artifact.precision_found;
    facts.batch_min = artifact.batch_min;
    facts.batch_opt = artifact.batch_opt;
    facts.batch_max = artifact.batch_max;
    return facts;
}

std::string missing_output(const Bundle& bundle, const Artifact& artifact, const Facts& facts) {
    for (const std::string& name : artifact.heads) {
        const std::string& output = bundle.head(name).output;
        if (std::find(facts.outputs.begin(), facts.outputs.end(), output) == facts.outputs.end()) {
            return output;
        }
    }
    return "";
}

// The chunk with copies of its last input behind it, (batch_min, h, w, 3).
std::vector<std::uint8_t> filled(const Batch& chunk, size_t input_bytes, int batch_min) {
    std::vector<std::uint8_t> pixels(chunk.data, chunk.data + static_cast<size_t>(chunk.count) * input_bytes);
    pixels.resize(static_cast<size_t>(batch_min) * input_bytes);
    const auto last =
        pixels.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(chunk.count - 1) * input_bytes);
    const auto stop = last + static_cast<std::ptrdiff_t>(input_bytes);
    for (auto at = stop; at != pixels.end(); at += static_cast<std::ptrdiff_t>(input_bytes)) {
        std::copy(last, stop, at);
    }
    return pixels;
}

void append(Outputs& all, Outputs chunk, int count) {
    for (auto& [name, tensor] : chunk) {
        const size_t each = tensor.values.size() / static_cast<size_t>(tensor.count);
        tensor.values.resize(each * static_cast<size_t>(count));
        tensor.count = count;
        const auto [place, is_new] = all.try_emplace(name, std::move(tensor));
        if (!is_new) {
            place->second.values.insert(place->second.values.end(), tensor.values.begin(),
                                        tensor.values.end());
            place->second.count += count;
        }
    }
}

}  // namespace

std::unique_ptr<Backend> open_verified(const OpenFile& open_file, const Bundle& bundle,
                                       const Artifact& artifact, const BackendOptions& options) {
    const std::filesystem::path path = verify_artifact(bundle, artifact);
    std::unique_ptr<Backend> backend = open_file(path, options, facts_of(artifact));
    const std::string missing = missing_output(bundle, artifact, backend->facts());
    if (!missing.empty() || backend->facts().input != artifact.size) {
        throw SchemaMismatch("'" + path.string() + "' takes " + text_of(backend->facts().input) +
                             "; its manifest says " + text_of(artifact.size) +
                             (missing.empty() ? "" : " and an output " + missing) + "; export again");
    }
    return backend;
}

Outputs run_in_chunks(const Backend& backend, const Batch& batch, const std::vector<std::string>& outputs) {
    const Facts& facts = backend.facts();
    const size_t bytes = static_cast<size_t>(batch.size.height) * static_cast<size_t>(batch.size.width) * 3;
    Outputs all;
    for (int first = 0; first < batch.count; first += facts.batch_max) {
        const int count = std::min(facts.batch_max, batch.count - first);
        Batch chunk{batch.data + static_cast<size_t>(first) * bytes, count, batch.size};
        std::vector<std::uint8_t> storage;
        if (count < facts.batch_min) {
            storage = filled(chunk, bytes, facts.batch_min);
            chunk = {storage.data(), facts.batch_min, batch.size};
        }
        append(all, backend.run(chunk, outputs), count);
    }
    return all;
}

void set_input(Facts& facts, const std::filesystem::path& path, bool is_uint8,
               const std::vector<std::int64_t>& shape, size_t inputs) {
    const bool fits = inputs == 1 && is_uint8 && shape.size() == 4 && shape[3] == 3 && shape[1] > 0 &&
                      shape[2] > 0 && shape[1] < kMaxSide && shape[2] < kMaxSide;
    if (!fits) {
        throw SchemaMismatch("'" + path.string() + "' takes " + std::to_string(inputs) + " inputs, " +
                             text_of(shape) + (is_uint8 ? "" : " of another type") +
                             "; expected is one uint8 input (N, h, w, 3); export it with hp-export");
    }
    facts.input = {static_cast<int>(shape[1]), static_cast<int>(shape[2])};
    if (shape[0] > 0) {
        facts.batch_min = facts.batch_opt = facts.batch_max = static_cast<int>(std::min(shape[0], kMaxSide));
    }
}

Tensor tensor_of(const std::vector<std::int64_t>& shape, const std::string& name) {
    const bool fits = shape.size() == 4 && std::all_of(shape.begin(), shape.end(),
                                                       [](auto side) { return side > 0 && side < kMaxSide; });
    if (!fits) {
        throw SchemaMismatch("the network gives shape " + text_of(shape) + " as '" + name +
                             "'; expected is (N, K, h, w); export the bundle again");
    }
    Tensor tensor{static_cast<int>(shape[0]),
                  static_cast<int>(shape[1]),
                  {static_cast<int>(shape[2]), static_cast<int>(shape[3])},
                  {}};
    tensor.values.resize(static_cast<size_t>(shape[0]) * static_cast<size_t>(shape[1]) *
                         static_cast<size_t>(shape[2]) * static_cast<size_t>(shape[3]));
    return tensor;
}

float from_half(std::uint16_t bits) {
    const int exponent = (bits >> 10) & 0x1F;
    const auto fraction = static_cast<float>(bits & 0x3FF);
    const float sign = (bits & 0x8000) ? -1.0F : 1.0F;
    if (exponent == 0x1F) {
        return fraction == 0.0F ? sign * std::numeric_limits<float>::infinity()
                                : std::numeric_limits<float>::quiet_NaN();
    }
    return exponent == 0 ? sign * std::ldexp(fraction, -24)
                         : sign * std::ldexp(fraction + 1024.0F, exponent - 25);
}

bool is_out_of_memory(const std::string& message) {
    std::string lower = message;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return std::any_of(kNoMemory.begin(), kNoMemory.end(),
                       [&lower](const char* sign) { return lower.find(sign) != std::string::npos; });
}

}  // namespace hp
