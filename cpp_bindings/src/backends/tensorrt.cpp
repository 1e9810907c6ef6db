// TensorRT engines on an NVIDIA GPU, libnvinfer loaded while the program runs: the only file that includes
// it.
#include <NvInfer.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "backends/backends.hpp"
#include "bundle.hpp"
#include "files.hpp"
#include "gpu/engine_file.hpp"
#include "gpu/pipeline.hpp"

static_assert(NV_TENSORRT_MAJOR >= 10, "TensorRT 10 or newer is needed");

namespace hp {
namespace {

using gpu::Address;
using std::string;

constexpr const char* kInstall =
    "install TensorRT of the version that hp_sdk was built for (pip install \"hp-sdk[tensorrt]\" holds it) "
    "and name "
    "its folder in LD_LIBRARY_PATH";
constexpr const char* kMemorySigns[] = {"out of memory", "outofmemory", "insufficient memory",
                                        "cudaerrormemoryallocation"};

// What TensorRT says; its last error is kept for ours.
class Log final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        const std::lock_guard lock(guard_);
        if (severity == Severity::kERROR || severity == Severity::kINTERNAL_ERROR) {
            said_ = message;
        }
    }

    string reason() {
        const std::lock_guard lock(guard_);
        const string line = said_.substr(0, said_.find('\n'));
        return line.empty() ? "TensorRT does not say why" : line;
    }

    bool lacks_memory() {
        string lower = reason();
        std::transform(lower.begin(), lower.end(), lower.begin(),
                       [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        return std::any_of(std::begin(kMemorySigns), std::end(kMemorySigns),
                           [&lower](const char* sign) { return lower.find(sign) != string::npos; });
    }

    [[noreturn]] void fail(const string& what) {
        if (lacks_memory()) {
            throw DeviceOutOfMemory(what + ": " + reason());
        }
        throw BackendError(what + ": " + reason());
    }

private:
    std::mutex guard_;
    string said_;
};

// libnvinfer of the headers' own major version, whose interfaces are those of the headers.
class Library {
public:
    Library() : handle_(dlopen(name().c_str(), RTLD_NOW | RTLD_LOCAL)) {
        if (handle_ == nullptr) {
            throw Absent("TensorRT cannot be loaded (" + string(dlerror()) + "); " + kInstall);
        }
        for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
            const auto number = function<int()>("getInferLib" + string(part) + "Version");
            version_ += (version_.empty() ? "" : ".") + std::to_string(number());
        }
    }

    const string& version() const { return version_; }

    std::unique_ptr<nvinfer1::IRuntime> start(Log& log) const {
        const auto create = function<void*(void*, int)>("createInferRuntime_INTERNAL");
        auto* runtime = static_cast<nvinfer1::IRuntime*>(
            create(static_cast<nvinfer1::ILogger*>(&log), NV_TENSORRT_VERSION));
        if (runtime == nullptr) {
            throw BackendUnavailable("TensorRT " + version_ + " does not start (" + log.reason() +
                                     "); check the driver");
        }
        return std::unique_ptr<nvinfer1::IRuntime>(runtime);
    }

private:
    static string name() { return "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR); }

    template <class Signature>
    Signature* function(const string& symbol_name) const {
        void* symbol = dlsym(handle_, symbol_name.c_str());
        if (symbol == nullptr) {
            throw BackendUnavailable(name() + " has no " + symbol_name + "; " + kInstall);
        }
        Signature* found = nullptr;
        std::memcpy(&found, &symbol, sizeof symbol);
        return found;
    }

    void* handle_;
    string version_;
};

// One for the program; what cannot be loaded is tried again.
const Library& library() {
    static const Library loaded;
    return loaded;
}

std::vector<std::int64_t> shape_of(const nvinfer1::Dims& sides) {
    return {sides.d, sides.d + std::max(0, static_cast<int>(sides.nbDims))};
}

// An engine and its one context.
class TrtEngine final : public gpu::Engine {
public:
    TrtEngine(const Bytes& plan, const gpu::Origin& origin) : runtime_(library().start(log_)) {
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (engine_ == nullptr && log_.lacks_memory()) {
            log_.fail("no room for engine '" + origin.name + "'");
        }
        if (engine_ == nullptr) {
            throw origin.refused(log_.reason());
        }
        context_.reset(engine_->createExecutionContext());
        if (context_ == nullptr) {
            log_.fail("TensorRT makes no execution context");
        }
        for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
            const char* name = engine_->getIOTensorName(i);
            const bool is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
            (is_input ? inputs_ : names_).emplace_back(name);
        }
    }

    // Fill in what it takes and gives.  Throws SchemaMismatch where that is no parsing network.
    void describe(Facts& facts, const std::filesystem::path& path) {
        const bool has_input = !inputs_.empty();
        const bool is_uint8 =
            has_input && engine_->getTensorDataType(inputs_[0].c_str()) == nvinfer1::DataType::kUINT8;
        const auto shape =
            has_input ? shape_of(engine_->getTensorShape(inputs_[0].c_str())) : std::vector<std::int64_t>{};
        set_input(facts, path, is_uint8, shape, inputs_.size());
        facts.batch_min = profile(nvinfer1::OptProfileSelector::kMIN);
        facts.batch_opt = profile(nvinfer1::OptProfileSelector::kOPT);
        facts.batch_max = profile(nvinfer1::OptProfileSelector::kMAX);
        facts.outputs = names_;
        input = facts.input;
        batch_min = facts.batch_min;
        batch_opt = facts.batch_opt;
        batch_max = facts.batch_max;
        for (const string& name : names_) {
            outputs[name] = output_of(name, path);
        }
    }

    void enqueue(int count, Address image, const std::map<string, Address>& addresses,
                 const gpu::Gpu& gpu) override {
        nvinfer1::Dims shape{};
        shape.nbDims = 4;
        shape.d[0] = count;
        shape.d[1] = input.height;
        shape.d[2] = input.width;
        shape.d[3] = 3;
        bool taken = context_->setInputShape(inputs_[0].c_str(), shape) &&
                     context_->setTensorAddress(inputs_[0].c_str(), memory(image));
        for (const auto& [name, address] : addresses) {
            taken = context_->setTensorAddress(name.c_str(), memory(address)) && taken;
        }
        if (!taken) {
            log_.fail("TensorRT does not take a batch of " + std::to_string(count));
        }
        if (!context_->enqueueV3(static_cast<cudaStream_t>(gpu.stream()))) {
            log_.fail("TensorRT does not run a batch of " + std::to_string(count));
        }
    }

private:
    static void* memory(Address address) {
        return reinterpret_cast<void*>(static_cast<std::uintptr_t>(address));
    }

    int profile(nvinfer1::OptProfileSelector which) const {
        return static_cast<int>(engine_->getProfileShape(inputs_[0].c_str(), 0, which).d[0]);
    }

    gpu::Output output_of(const string& name, const std::filesystem::path& path) const {
        std::vector<std::int64_t> shape = shape_of(engine_->getTensorShape(name.c_str()));
        const nvinfer1::DataType type = engine_->getTensorDataType(name.c_str());
        const bool is_half = type == nvinfer1::DataType::kHALF;
        if (!is_half && type != nvinfer1::DataType::kFLOAT) {
            throw SchemaMismatch(quoted(path) + " gives " + name +
                                 " neither as float32 nor as float16; export again");
        }
        if (!shape.empty()) {
            shape[0] = 1;  // Of any batch.
        }
        const Tensor tensor = tensor_of(shape, name);
        return {tensor.classes, tensor.cells, is_half};
    }

    // In this order: each refers to the one before.
    Log log_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::vector<string> inputs_;
    std::vector<string> names_;
};

std::unique_ptr<gpu::Gpu> open_gpu(const string& device) {
    const auto colon = device.find(':');
    try {
        return std::make_unique<gpu::Gpu>(colon == string::npos ? 0 : std::stoi(device.substr(colon + 1)));
    } catch (const Absent& error) {
        throw Absent(string("TensorRT needs an NVIDIA GPU: ") + error.what());
    }
}

class TrtBackend final : public Backend {
public:
    TrtBackend(const std::filesystem::path& path, const BackendOptions& options, Facts facts) {
        facts_ = std::move(facts);
        facts_.name = "tensorrt";
        facts_.version = library().version();
        auto gpu = open_gpu(options.device);
        facts_.provider = gpu->title();
        const auto [major, minor] = gpu->capability();
        const gpu::Origin origin = gpu::read_origin(path, options.bundle);
        gpu::check_origin(origin, facts_.version, std::to_string(major) + "." + std::to_string(minor));
        const gpu::Entered entered(*gpu);
        auto engine = std::make_unique<TrtEngine>(read_bytes(path), origin);
        engine->describe(facts_, path);
        pipeline_ = std::make_unique<gpu::DevicePipeline>(std::move(gpu), std::move(engine));
    }

    Outputs run(const Batch& batch, const std::vector<string>& outputs) const override {
        return pipeline_->run(batch, outputs);
    }

    const Pipeline* pipeline() const override { return pipeline_.get(); }

private:
    std::unique_ptr<gpu::DevicePipeline> pipeline_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const std::filesystem::path& path, const BackendOptions& options,
                                       Facts facts) {
    return std::make_unique<TrtBackend>(path, options, std::move(facts));
}

}  // namespace hp
