// ONNX Runtime, loaded while the program runs: the only file that knows its interface.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "backends/backends.hpp"
#include "bundle.hpp"
#include "files.hpp"

namespace hp {
namespace {

using std::string;

constexpr std::uint32_t kApiVersion = 14;  // Of 1.14; the interface only grows.
constexpr const char* kVariable = "HP_ONNXRUNTIME";
constexpr const char* kUsualNames[] = {"libonnxruntime.so.1", "libonnxruntime.so", "libonnxruntime.dylib"};
constexpr const char* kInstall =
    "install ONNX Runtime (pip install onnxruntime holds libonnxruntime.so), or name the library in "
    "HP_ONNXRUNTIME";
constexpr const char* kCpu = "CPUExecutionProvider";
constexpr const char* kCuda = "CUDAExecutionProvider";

// The library and one environment; they stay until the program ends, as ONNX Runtime wants it.
struct Library {
    const OrtApi* api = nullptr;
    string version;
    OrtEnv* env = nullptr;
};

void* open_library(const string& named) {
    const std::vector<string> names =
        named.empty() ? std::vector<string>(std::begin(kUsualNames), std::end(kUsualNames))
                      : std::vector<string>{named};
    string said;
    for (const string& name : names) {
        if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
            return handle;
        }
        const char* reason = dlerror();
        said = said.empty() && reason != nullptr ? reason : said;
    }
    const string message = "ONNX Runtime cannot be loaded (" + said + "); " + kInstall;
    if (named.empty()) {
        throw Absent(message);
    }
    throw BackendUnavailable(message);
}

Library start(const string& named) {
    void* handle = open_library(named);
    using GetBase = const OrtApiBase* (*)();
    GetBase get_base = nullptr;
    void* symbol = dlsym(handle, "OrtGetApiBase");
    std::memcpy(&get_base, &symbol, sizeof symbol);
    const OrtApiBase* base = get_base == nullptr ? nullptr : get_base();
    Library library{base == nullptr ? nullptr : base->GetApi(kApiVersion), "", nullptr};
    if (library.api == nullptr) {
        throw BackendUnavailable("'" + named + "' is no ONNX Runtime from 1.14 on; " + kInstall);
    }
    library.version = base->GetVersionString();
    if (OrtStatus* status = library.api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "hp_sdk", &library.env)) {
        library.api->ReleaseStatus(status);
        throw BackendUnavailable(string("ONNX Runtime does not start; ") + kInstall);
    }
    return library;
}

const Library& library_of(const BackendOptions& options) {
    static std::mutex guard;
    static std::map<string, Library> loaded;
    const char* variable = std::getenv(kVariable);
    const string named = options.onnxruntime.empty() && variable != nullptr ? variable : options.onnxruntime;
    const std::lock_guard lock(guard);
    const auto found = loaded.find(named);
    return found != loaded.end() ? found->second : loaded.emplace(named, start(named)).first->second;
}

// A failed call, as ONNX Runtime tells it.
struct Failure {
    OrtErrorCode code;
    string message;
};

// Whatever ONNX Runtime made, given back to it.
template <class T>
class Owned {
public:
    using Release = void (*)(T*);
    explicit Owned(Release release) : release_(release) {}
    Owned(Owned&& other) noexcept : release_(other.release_), object_(other.object_) {
        other.object_ = nullptr;
    }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    ~Owned() {
        if (object_ != nullptr) {
            release_(object_);
        }
    }
    T* get() const { return object_; }
    T** out() { return &object_; }

private:
    Release release_;
    T* object_ = nullptr;
};

class OrtBackend final : public Backend {
public:
    OrtBackend(const std::filesystem::path& path, const BackendOptions& options, Facts facts)
        : library_(library_of(options)), api_(*library_.api), session_(api_.ReleaseSession) {
        facts_ = std::move(facts);
        facts_.name = "onnxruntime";
        facts_.version = library_.version;
        facts_.provider = options.device == "cpu" ? kCpu : kCuda;
        try {
            open(path, options);
        } catch (const Failure& failure) {
            throw_open_error(failure, path);
        }
    }

    Outputs run(const Batch& batch, const std::vector<string>& outputs) const override {
        try {
            return run_session(batch, outputs);
        } catch (const Failure& failure) {
            if (is_out_of_memory(failure.message)) {
                throw DeviceOutOfMemory("not enough memory for " + std::to_string(batch.count) +
                                        " inputs at once; take a smaller batch_size (" + failure.message +
                                        ")");
            }
            throw BackendError("ONNX Runtime failed on " + std::to_string(batch.count) +
                               " inputs: " + failure.message);
        }
    }

private:
    void check(OrtStatus* status) const {
        if (status != nullptr) {
            const Failure failure{api_.GetErrorCode(status), api_.GetErrorMessage(status)};
            api_.ReleaseStatus(status);
            throw failure;
        }
    }

    void open(const std::filesystem::path& path, const BackendOptions& options) {
        Owned<OrtSessionOptions> settings(api_.ReleaseSessionOptions);
        check(api_.CreateSessionOptions(settings.out()));
        check(api_.SetSessionLogSeverityLevel(settings.get(), ORT_LOGGING_LEVEL_ERROR));
        if (options.num_threads > 0) {
            check(api_.SetIntraOpNumThreads(settings.get(), options.num_threads));
        }
        if (options.device != "cpu") {
            add_cuda(settings.get(), options.device);
        }
        check(api_.CreateSession(library_.env, path.c_str(), settings.get(), session_.out()));
        read_input(path);
        read_outputs();
    }

    // The names of "cuda:1" and "cuda" end in the device's number, or in none.
    void add_cuda(OrtSessionOptions* settings, const string& device) const {
        refuse_missing_provider();
        OrtCUDAProviderOptionsV2* made = nullptr;
        check(api_.CreateCUDAProviderOptions(&made));
        Owned<OrtCUDAProviderOptionsV2> cuda(api_.ReleaseCUDAProviderOptions);
        *cuda.out() = made;
        const auto colon = device.find(':');
        const string number = colon == string::npos ? "0" : device.substr(colon + 1);
        const char* key = "device_id";
        const char* value = number.c_str();
        check(api_.UpdateCUDAProviderOptions(made, &key, &value, 1));
        check(api_.SessionOptionsAppendExecutionProvider_CUDA_V2(settings, made));
    }

    void refuse_missing_provider() const {
        char** names = nullptr;
        int count = 0;
        check(api_.GetAvailableProviders(&names, &count));
        const bool is_there =
            std::any_of(names, names + count, [](const char* name) { return string(name) == kCuda; });
        check(api_.ReleaseAvailableProviders(names, count));
        if (!is_there) {
            throw Absent("this ONNX Runtime (" + library_.version +
                         ") was built without CUDA; name the library of onnxruntime-gpu in " + kVariable +
                         ", or allow the fallback to the CPU");
        }
    }

    void read_input(const std::filesystem::path& path) {
        std::size_t count = 0;
        check(api_.SessionGetInputCount(session_.get(), &count));
        Owned<OrtTypeInfo> type(api_.ReleaseTypeInfo);
        std::vector<std::int64_t> shape;
        auto element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        if (count > 0) {
            check(api_.SessionGetInputTypeInfo(session_.get(), 0, type.out()));
            const OrtTensorTypeAndShapeInfo* info = nullptr;
            check(api_.CastTypeInfoToTensorInfo(type.get(), &info));
            if (info != nullptr) {
                shape = shape_of(info);
                check(api_.GetTensorElementType(info, &element));
            }
        }
        set_input(facts_, path, element == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, shape, count);
        input_ = name_of(0, api_.SessionGetInputName);
    }

    void read_outputs() {
        std::size_t count = 0;
        check(api_.SessionGetOutputCount(session_.get(), &count));
        for (std::size_t i = 0; i < count; ++i) {
            facts_.outputs.push_back(name_of(i, api_.SessionGetOutputName));
        }
    }

    template <class Getter>
    string name_of(std::size_t index, Getter getter) const {
        OrtAllocator* allocator = nullptr;
        check(api_.GetAllocatorWithDefaultOptions(&allocator));
        char* name = nullptr;
        check(getter(session_.get(), index, allocator, &name));
        string copy = name;
        allocator->Free(allocator, name);
        return copy;
    }

    std::vector<std::int64_t> shape_of(const OrtTensorTypeAndShapeInfo* info) const {
        std::size_t rank = 0;
        check(api_.GetDimensionsCount(info, &rank));
        std::vector<std::int64_t> shape(rank);
        check(api_.GetDimensions(info, shape.data(), rank));
        return shape;
    }

    Outputs run_session(const Batch& batch, const std::vector<string>& outputs) const {
        const Owned<OrtValue> input = lend(batch);
        std::vector<Owned<OrtValue>> answers;
        std::vector<const char*> names;
        for (const string& name : outputs) {
            names.push_back(name.c_str());
        }
        std::vector<OrtValue*> values(outputs.size(), nullptr);
        const char* input_name = input_.c_str();
        const OrtValue* given = input.get();
        check(api_.Run(session_.get(), nullptr, &input_name, &given, 1, names.data(), names.size(),
                       values.data()));
        for (OrtValue* value : values) {
            answers.emplace_back(api_.ReleaseValue);
            *answers.back().out() = value;
        }
        Outputs tensors;
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            tensors.emplace(outputs[i], read(answers[i].get(), outputs[i]));
        }
        return tensors;
    }

    // The batch as a tensor over the caller's memory, which ONNX Runtime only reads.
    Owned<OrtValue> lend(const Batch& batch) const {
        Owned<OrtMemoryInfo> memory(api_.ReleaseMemoryInfo);
        check(api_.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, memory.out()));
        const std::int64_t shape[] = {batch.count, batch.size.height, batch.size.width, 3};
        const auto bytes = static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]);
        Owned<OrtValue> tensor(api_.ReleaseValue);
        check(api_.CreateTensorWithDataAsOrtValue(memory.get(), const_cast<std::uint8_t*>(batch.data), bytes,
                                                  shape, std::size(shape),
                                                  ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, tensor.out()));
        return tensor;
    }

    Tensor read(OrtValue* value, const string& name) const {
        Owned<OrtTensorTypeAndShapeInfo> info(api_.ReleaseTensorTypeAndShapeInfo);
        check(api_.GetTensorTypeAndShape(value, info.out()));
        auto element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        check(api_.GetTensorElementType(info.get(), &element));
        Tensor tensor = tensor_of(shape_of(info.get()), name);
        void* data = nullptr;
        check(api_.GetTensorMutableData(value, &data));
        if (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
            std::memcpy(tensor.values.data(), data, tensor.values.size() * sizeof(float));
        } else if (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
            const auto* halves = static_cast<const std::uint16_t*>(data);
            std::transform(halves, halves + tensor.values.size(), tensor.values.begin(), from_half);
        } else {
            throw SchemaMismatch("'" + name + "' is neither float32 nor float16; export the bundle again");
        }
        return tensor;
    }

    [[noreturn]] void throw_open_error(const Failure& failure, const std::filesystem::path& path) const {
        const bool is_damaged = failure.code == ORT_INVALID_PROTOBUF || failure.code == ORT_INVALID_GRAPH ||
                                failure.code == ORT_NO_SUCHFILE || failure.code == ORT_NO_MODEL ||
                                failure.message.find("Load model from") != string::npos;
        if (is_damaged) {
            throw CorruptArtifact("ONNX Runtime cannot read " + quoted(path) + " (" + failure.message +
                                  "); fetch or export it again");
        }
        throw BackendUnavailable("ONNX Runtime cannot open " + quoted(path) + " on " + facts_.provider +
                                 ": " + failure.message);
    }

    const Library& library_;
    const OrtApi& api_;
    Owned<OrtSession> session_;
    string input_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const std::filesystem::path& path, const BackendOptions& options,
                                          Facts facts) {
    return std::make_unique<OrtBackend>(path, options, std::move(facts));
}

}  // namespace hp
