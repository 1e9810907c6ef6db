#include "backends/backends.hpp"

#include <algorithm>
#include <exception>
#include <vector>

#include "bundle.hpp"

namespace hp {
namespace {

using std::size_t;
using std::string;
using Words = std::vector<string>;

struct Entry {
    const char* name;
    const char* reads;  // Artifact::runtime that it opens.
    OpenFile open;      // Empty where this build does not have it.
    Words devices;      // Kinds, as kDevices names them.
    Words computes;     // Precisions in which it computes a float32 artifact if asked to.
};

struct Device {
    string kind;
    char separator;  // Before a number, or 0 where there is but one.
    const char* examples;
};

const Device kDevices[] = {{"cpu", 0, "cpu"},
                           {"cuda", ':', "cuda, cuda:0 (NVIDIA)"},
                           {"GPU", '.', "GPU, GPU.1 (Intel, through OpenVINO)"},
                           {"NPU", 0, "NPU (Intel, through OpenVINO)"}};
constexpr const char* kAutoDevices[] = {"cuda", "cpu"};  // Others are used when asked for by name.

// In the order in which "auto" tries them on a device.
const std::vector<Entry>& entries() {
    static const std::vector<Entry> all = {
#ifdef HP_WITH_TENSORRT
        {"tensorrt", "tensorrt", open_tensorrt, {"cuda"}, {}},
#else
        {"tensorrt", "tensorrt", nullptr, {"cuda"}, {}},
#endif
#ifdef HP_WITH_ONNXRUNTIME
        {"onnxruntime", "onnx", open_onnxruntime, {"cuda", "cpu"}, {}},
#else
        {"onnxruntime", "onnx", nullptr, {"cuda", "cpu"}, {}},
#endif
#ifdef HP_WITH_OPENVINO
        {"openvino", "onnx", open_openvino, {"cpu", "GPU", "NPU"}, {"bf16", "fp16"}},
#else
        {"openvino", "onnx", nullptr, {"cpu", "GPU", "NPU"}, {"bf16", "fp16"}},
#endif
    };
    return all;
}

bool has(const Words& words, const string& word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

// Why one attempt failed.
struct Refusal {
    enum Kind { absent, misused, broken };
    Kind kind;
    string message;
    std::exception_ptr error;
};

// Whether `text` is the kind itself, or with a number of up to three digits behind it.
bool is_of(const Device& device, const string& text) {
    const size_t size = device.kind.size();
    if (text.compare(0, size, device.kind) != 0 || text.size() == size) {
        return text == device.kind;
    }
    const bool are_digits = text.find_first_not_of("0123456789", size + 1) == string::npos;
    return device.separator != 0 && text[size] == device.separator && are_digits && text.size() >= size + 2 &&
           text.size() <= size + 4;
}

string device_kind(const string& text) {
    string examples;
    for (const Device& known : kDevices) {
        if (is_of(known, text)) {
            return known.kind;
        }
        examples += string(", ") + known.examples;
    }
    throw ConfigError("no device '" + text + "'; allowed are auto" + examples);
}

const Artifact& artifact_for(const Entry& entry, const Bundle& bundle, const string& precision) {
    string there;
    const Artifact* in_fp32 = nullptr;
    for (const Artifact& artifact : bundle.artifacts) {
        if (artifact.runtime != entry.reads) {
            continue;
        }
        if (precision == "auto" || artifact.precision_found == precision) {
            return artifact;
        }
        const bool is_fp32 = artifact.precision_found == "fp32" || artifact.precision_found == "fp16-weights";
        in_fp32 = is_fp32 && in_fp32 == nullptr ? &artifact : in_fp32;
        there += (there.empty() ? "" : ", ") + artifact.precision_found;
    }
    if (in_fp32 != nullptr && has(entry.computes, precision)) {
        return *in_fp32;
    }
    if (there.empty()) {
        throw Absent(string("backend '") + entry.name + "' needs an artifact of kind '" + entry.reads +
                     "'; bundle '" + bundle.name + "' has none; export it in that format");
    }
    throw ConfigError("bundle '" + bundle.name + "' has no " + precision + " artifact for " + entry.name +
                      "; it has " + there);
}

// Whether one may stand in for the other: engines of the same network for several GPUs.
bool are_alike(const Artifact& one, const Artifact& other) {
    return one.runtime == other.runtime && one.precision_found == other.precision_found &&
           one.heads == other.heads && one.size == other.size;
}

// The artifact asked for, or the first of its siblings that is for this machine.
std::unique_ptr<Backend> open_entry(const Entry& entry, const Bundle& bundle, const BackendOptions& options) {
    if (!entry.open) {
        throw Absent(string("this build of hp_sdk has no ") + entry.name +
                     "; configure it with that runtime's files at hand");
    }
    const Artifact& asked = artifact_for(entry, bundle, options.precision);
    try {
        return open_verified(entry.open, bundle, asked, options);
    } catch (const EngineIncompatible&) {
        for (const Artifact& sibling : bundle.artifacts) {
            if (&sibling != &asked && are_alike(sibling, asked)) {
                try {
                    return open_verified(entry.open, bundle, sibling, options);
                } catch (const EngineIncompatible&) {
                    continue;  // The first refusal is told.
                }
            }
        }
        throw;
    }
}

std::vector<Entry> chosen(const string& backend) {
    std::vector<Entry> list;
    string there;
    for (const Entry& entry : entries()) {
        there += string(", ") + entry.name;
        if (backend == "auto" || backend == entry.name) {
            list.push_back(entry);
        }
    }
    if (list.empty()) {
        throw ConfigError("no backend '" + backend + "'; there are auto" + there);
    }
    return list;
}

void check_device(const std::vector<Entry>& backends, const string& device) {
    const string kind = device_kind(device);
    for (const Entry& entry : backends) {
        if (has(entry.devices, kind)) {
            return;
        }
    }
    throw ConfigError(string("backend '") + backends[0].name + "' knows no device '" + device +
                      "'; take another of both");
}

// The devices to try, one after another.
Words stages(const std::vector<Entry>& backends, const Options& options) {
    if (options.device == "auto" || options.device.empty()) {
        return {std::begin(kAutoDevices), std::end(kAutoDevices)};
    }
    check_device(backends, options.device);
    Words list = {options.device};
    if (options.allow_fallback && options.device != "cpu") {
        list.emplace_back("cpu");
    }
    return list;
}

Refusal refusal_of(Refusal::Kind kind, const HpError& error) {
    return {kind, error.what(), std::current_exception()};
}

// What is broken, else what is misused, else everything that is not there; each once.
std::vector<Refusal> culprits(const std::vector<Refusal>& refusals) {
    for (const Refusal::Kind kind : {Refusal::broken, Refusal::misused, Refusal::absent}) {
        std::vector<Refusal> list;
        Words messages;
        for (const Refusal& refusal : refusals) {
            if (refusal.kind == kind && !has(messages, refusal.message)) {
                messages.push_back(refusal.message);
                list.push_back(refusal);
            }
        }
        if (!list.empty()) {
            return list;
        }
    }
    return {};
}

[[noreturn]] void throw_verdict(const std::vector<Refusal>& refusals) {
    const std::vector<Refusal> guilty = culprits(refusals);
    if (guilty.size() == 1) {
        std::rethrow_exception(guilty[0].error);
    }
    string reasons;
    for (const Refusal& refusal : guilty) {
        reasons += (reasons.empty() ? "" : "; ") + refusal.message;
    }
    if (!guilty.empty() && guilty[0].kind == Refusal::misused) {
        throw ConfigError("no backend works: " + reasons);
    }
    throw BackendUnavailable("no backend works: " + reasons);
}

void note_refusals(Backend& backend, const std::vector<Refusal>& refusals, bool insists) {
    for (const Refusal& refusal : culprits(refusals)) {
        if (insists || refusal.kind == Refusal::broken) {
            backend.note("fell back to the CPU: " + refusal.message);
        }
    }
}

}  // namespace

std::unique_ptr<Backend> open_backend(const Bundle& bundle, const Options& options) {
    if (options.num_threads < 0) {
        throw ConfigError("num_threads is " + std::to_string(options.num_threads) +
                          "; allowed are 0 (automatic) and more");
    }
    const std::vector<Entry> backends = chosen(options.backend);
    const bool insists = options.device != "auto" && !options.device.empty();
    std::vector<Refusal> refusals;
    for (const string& device : stages(backends, options)) {
        const std::vector<Refusal> earlier = refusals;
        for (const Entry& entry : backends) {
            if (!has(entry.devices, device_kind(device))) {
                continue;
            }
            try {
                auto opened = open_entry(
                    entry, bundle,
                    {device, options.precision, options.num_threads, options.onnxruntime, bundle.root});
                note_refusals(*opened, earlier, insists);
                return opened;
            } catch (const Absent& error) {
                refusals.push_back(refusal_of(Refusal::absent, error));
            } catch (const BackendError& error) {
                refusals.push_back(refusal_of(Refusal::broken, error));
            } catch (const ConfigError& error) {
                refusals.push_back(refusal_of(Refusal::misused, error));
            }
        }
    }
    throw_verdict(refusals);
}

}  // namespace hp
