// OpenVINO: the only file that includes it.
#include <openvino/openvino.hpp>

#include <algorithm>
#include <mutex>

#include "backends/backends.hpp"
#include "bundle.hpp"
#include "files.hpp"

namespace hp {
namespace {

using std::string;

constexpr std::pair<const char*, const char*> kDevices[] = {{"cpu", "CPU"}, {"GPU", "GPU"}, {"NPU", "NPU"}};

// One for the program; it holds the loaded plugins.
ov::Core& core() {
    static ov::Core shared;
    return shared;
}

// The last line that is not about OpenVINO's own source files.
string reason_of(const std::exception& problem) {
    string telling = "no reason given";
    std::istringstream lines(problem.what());
    for (string line; std::getline(lines, line);) {
        const bool is_noise =
            line.empty() || line.rfind("Exception from ", 0) == 0 || line.rfind("Check '", 0) == 0;
        telling = is_noise ? telling : line;
    }
    return telling;
}

// OpenVINO's own name of a device that it lists; one GPU is listed as GPU, several as GPU.0, GPU.1.
string listed_device(const string& device) {
    string wanted = device;
    for (const auto& [ours, theirs] : kDevices) {
        if (device.rfind(ours, 0) == 0) {
            wanted = theirs + device.substr(string(ours).size());
        }
    }
    string there;
    for (const string& listed : core().get_available_devices()) {
        if (wanted == listed || wanted + ".0" == listed || wanted == listed + ".0") {
            return wanted;
        }
        there += (there.empty() ? "" : ", ") + listed;
    }
    throw Absent("OpenVINO lists no " + wanted + ", only " + there +
                 "; install the device's driver, or allow the fallback to the CPU");
}

ov::element::Type precision_hint(const string& asked) {
    return asked == "bf16" ? ov::element::bf16 : asked == "fp16" ? ov::element::f16 : ov::element::f32;
}

string name_of(ov::element::Type type) {
    return type == ov::element::f32 ? "fp32" : type == ov::element::f16 ? "fp16" : type.to_string();
}

std::vector<std::int64_t> shape_of(const ov::PartialShape& partial) {
    std::vector<std::int64_t> shape;
    if (partial.rank().is_static()) {
        for (const ov::Dimension& side : partial) {
            shape.push_back(side.is_static() ? side.get_length() : -1);
        }
    }
    return shape;
}

class OpenVinoBackend final : public Backend {
public:
    OpenVinoBackend(const std::filesystem::path& path, const BackendOptions& options, Facts facts) {
        facts_ = std::move(facts);
        facts_.name = "openvino";
        const string build = ov::get_openvino_version().buildNumber;
        facts_.version = build.substr(0, build.find('-'));
        const string device = listed_device(options.device);
        const std::shared_ptr<ov::Model> model = read(path);
        read_ports(*model, path);
        try {
            compile(model, device, options);
        } catch (const ov::Exception& problem) {
            throw BackendUnavailable("OpenVINO cannot open " + quoted(path) + " on " + device + ": " +
                                     reason_of(problem));
        }
    }

    Outputs run(const Batch& batch, const std::vector<string>& outputs) const override {
        try {
            return run_request(batch, outputs);
        } catch (const HpError&) {
            throw;
        } catch (const std::exception& problem) {
            if (is_out_of_memory(problem.what())) {
                throw DeviceOutOfMemory("not enough memory for " + std::to_string(batch.count) +
                                        " inputs at once; take a smaller batch_size (" + reason_of(problem) +
                                        ")");
            }
            throw BackendError("OpenVINO failed on " + std::to_string(batch.count) +
                               " inputs: " + reason_of(problem));
        }
    }

private:
    static std::shared_ptr<ov::Model> read(const std::filesystem::path& path) {
        try {
            auto model = core().read_model(path.string());
            if (!model->inputs().empty() || !model->outputs().empty()) {
                return model;
            }
        } catch (const std::exception& problem) {
            throw CorruptArtifact("OpenVINO cannot read " + quoted(path) + " (" + reason_of(problem) +
                                  "); fetch or export it again");
        }
        throw CorruptArtifact("OpenVINO finds no graph in " + quoted(path) + "; fetch or export it again");
    }

    void read_ports(const ov::Model& model, const std::filesystem::path& path) {
        const auto inputs = model.inputs();
        const bool is_uint8 = !inputs.empty() && inputs[0].get_element_type() == ov::element::u8;
        set_input(facts_, path, is_uint8,
                  inputs.empty() ? std::vector<std::int64_t>{} : shape_of(inputs[0].get_partial_shape()),
                  inputs.size());
        input_ = inputs[0].get_any_name();
        for (const auto& output : model.outputs()) {
            facts_.outputs.push_back(output.get_any_name());
        }
    }

    void compile(const std::shared_ptr<ov::Model>& model, const string& device,
                 const BackendOptions& options) {
        // Left alone, OpenVINO computes in bfloat16 wherever the processor can.
        ov::AnyMap settings = {ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                               ov::hint::inference_precision(precision_hint(options.precision))};
        if (options.num_threads > 0) {
            settings.emplace(ov::inference_num_threads(options.num_threads));
        }
        compiled_ = core().compile_model(model, device, settings);
        for (const string& each : compiled_.get_property(ov::execution_devices)) {
            facts_.provider += (facts_.provider.empty() ? "" : ", ") + each;
        }
        if (facts_.provider.rfind(device.substr(0, device.find('.')), 0) != 0) {
            throw ProviderFallback("OpenVINO compiled for " + facts_.provider + " instead of " + device +
                                   "; check the device's driver, or allow the fallback");
        }
        check_precision(device, options.precision);
    }

    // Asked for float16 on a processor without it, OpenVINO takes bfloat16 and says nothing.
    void check_precision(const string& device, const string& asked) {
        const ov::element::Type computed = compiled_.get_property(ov::hint::inference_precision);
        if (computed != precision_hint(asked) && (asked == "bf16" || asked == "fp16")) {
            throw BackendUnavailable(device + " does not compute in " + asked + ": OpenVINO took " +
                                     name_of(computed) +
                                     " instead; ask for that, or leave the precision at auto");
        }
        const bool is_stored_smaller = facts_.precision == "fp16" || facts_.precision == "bf16";
        if (computed != ov::element::f32) {
            facts_.precision = name_of(computed);
        } else if (is_stored_smaller) {
            facts_.precision += "-weights";
        }
    }

    Outputs run_request(const Batch& batch, const std::vector<string>& outputs) const {
        ov::InferRequest request = take_request();
        const ov::Shape shape = {static_cast<std::size_t>(batch.count),
                                 static_cast<std::size_t>(batch.size.height),
                                 static_cast<std::size_t>(batch.size.width), 3};
        // Lent to the request until it has run; it only reads.
        request.set_tensor(input_, ov::Tensor(ov::element::u8, shape, const_cast<std::uint8_t*>(batch.data)));
        request.infer();
        Outputs tensors;
        for (const string& name : outputs) {
            tensors.emplace(name, copied(request.get_tensor(name), name));
        }
        const std::lock_guard lock(guard_);
        idle_.push_back(std::move(request));
        return tensors;
    }

    // One request serves one thread at a time; as many are kept as threads have met here.
    ov::InferRequest take_request() const {
        const std::lock_guard lock(guard_);
        if (idle_.empty()) {
            return const_cast<ov::CompiledModel&>(compiled_).create_infer_request();
        }
        ov::InferRequest request = std::move(idle_.back());
        idle_.pop_back();
        return request;
    }

    static Tensor copied(const ov::Tensor& given, const string& name) {
        const ov::Shape sides = given.get_shape();
        Tensor tensor = tensor_of({sides.begin(), sides.end()}, name);
        if (given.get_element_type() == ov::element::f32) {
            const auto* values = given.data<float>();
            std::copy_n(values, tensor.values.size(), tensor.values.begin());
        } else if (given.get_element_type() == ov::element::f16) {
            const auto* values = given.data<ov::float16>();
            std::transform(values, values + tensor.values.size(), tensor.values.begin(),
                           [](ov::float16 value) { return static_cast<float>(value); });
        } else {
            throw SchemaMismatch("'" + name + "' is neither float32 nor float16; export the bundle again");
        }
        return tensor;
    }

    ov::CompiledModel compiled_;
    string input_;
    mutable std::mutex guard_;
    mutable std::vector<ov::InferRequest> idle_;
};

}  // namespace

std::unique_ptr<Backend> open_openvino(const std::filesystem::path& path, const BackendOptions& options,
                                       Facts facts) {
    try {
        return std::make_unique<OpenVinoBackend>(path, options, std::move(facts));
    } catch (const HpError&) {
        throw;
    } catch (const std::exception& problem) {
        throw BackendUnavailable("OpenVINO does not start: " + reason_of(problem));
    }
}

}  // namespace hp
