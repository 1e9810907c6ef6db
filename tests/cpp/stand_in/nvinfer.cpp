// A stand-in for libnvinfer whose device is the host.  A plan is text:
//
//     input -1 64 96 3 UINT8
//     batch 1 2 4
//     scores FLOAT
//     fault none
//     logits.pascal 7
//
// Scores of class k in a cell are the mean colours of its 4 x 4 pixels, weighted by weight(k, channel).
#include <NvInfer.h>

#include <array>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace nvinfer1;

struct Plan {
    std::array<std::int64_t, 4> input{};
    std::array<std::int64_t, 3> batch{};
    std::string type;
    std::string scores;
    std::string fault;
    std::vector<std::pair<std::string, int>> outputs;
};

bool read(const std::string& text, Plan& plan) {
    std::istringstream words(text);
    std::string key;
    words >> key;
    for (auto& side : plan.input) {
        words >> side;
    }
    words >> plan.type >> key;
    for (auto& count : plan.batch) {
        words >> count;
    }
    words >> key >> plan.scores >> key >> plan.fault;
    const bool is_plan = static_cast<bool>(words);
    int classes = 0;
    while (words >> key >> classes) {
        plan.outputs.emplace_back(key, classes);
    }
    return is_plan;
}

float weight(int k, int c) {
    return static_cast<float>((k * 7 + c * 5) % 23 - 11) / 512.0F;
}

template <class Score>
void answer(const std::uint8_t* image, std::int64_t height, std::int64_t width, int classes, Score* scores) {
    for (int k = 0; k < classes; ++k) {
        for (std::int64_t y = 0; y < height / 4; ++y) {
            for (std::int64_t x = 0; x < width / 4; ++x) {
                float sum = 0.0F;
                for (int i = 0; i < 48; ++i) {
                    const std::int64_t row = 4 * y + i / 12, column = 4 * x + i / 3 % 4;
                    sum += image[(row * width + column) * 3 + i % 3] * weight(k, i % 3);
                }
                *scores++ = static_cast<Score>(sum / 16.0F);
            }
        }
    }
}

class Context final : public IExecutionContext {
public:
    Context(const Plan& plan, ILogger& log) : plan_(plan), log_(log) {}

    bool setInputShape(const char*, const Dims& shape) noexcept override {
        count_ = shape.d[0];
        return count_ >= plan_.batch[0] && count_ <= plan_.batch[2] && shape.d[1] == plan_.input[1] &&
               shape.d[2] == plan_.input[2];
    }
    bool setTensorAddress(const char* name, void* memory) noexcept override {
        addresses_[name] = memory;
        return true;
    }
    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (plan_.fault == "run" || stream == nullptr) {
            log_.log(ILogger::Severity::kERROR, "Cask: no kernel image\nsecond line");
            return false;
        }
        const auto* images = static_cast<const std::uint8_t*>(addresses_.at("image"));
        for (const auto& [name, classes] : plan_.outputs) {
            const std::int64_t height = plan_.input[1], width = plan_.input[2];
            const std::int64_t each = classes * (height / 4) * (width / 4);
            for (std::int64_t i = 0; i < count_; ++i) {
                const std::uint8_t* image = images + i * height * width * 3;
                if (plan_.scores == "HALF") {
                    answer(image, height, width, classes,
                           static_cast<_Float16*>(addresses_.at(name)) + i * each);
                } else {
                    answer(image, height, width, classes,
                           static_cast<float*>(addresses_.at(name)) + i * each);
                }
            }
        }
        return true;
    }

private:
    const Plan& plan_;
    ILogger& log_;
    std::int64_t count_ = 0;
    std::map<std::string, void*> addresses_;
};

class Engine final : public ICudaEngine {
public:
    Engine(Plan plan, ILogger& log) : plan_(std::move(plan)), log_(log) {}

    std::int32_t getNbIOTensors() const noexcept override {
        return 1 + static_cast<std::int32_t>(plan_.outputs.size());
    }
    const char* getIOTensorName(std::int32_t index) const noexcept override {
        return index == 0 ? "image" : plan_.outputs[static_cast<std::size_t>(index - 1)].first.c_str();
    }
    TensorIOMode getTensorIOMode(const char* name) const noexcept override {
        return is_input(name) ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(const char* name) const noexcept override {
        const std::string& type = is_input(name) ? plan_.type : plan_.scores;
        return type == "UINT8"  ? DataType::kUINT8
               : type == "HALF" ? DataType::kHALF
               : type == "INT8" ? DataType::kINT8
                                : DataType::kFLOAT;
    }
    Dims getTensorShape(const char* name) const noexcept override {
        if (is_input(name)) {
            return {4, {plan_.input[0], plan_.input[1], plan_.input[2], plan_.input[3]}};
        }
        for (const auto& [output, classes] : plan_.outputs) {
            if (output == name) {
                return {4, {-1, classes, plan_.input[1] / 4, plan_.input[2] / 4}};
            }
        }
        return {-1, {}};
    }
    Dims getProfileShape(const char* name, std::int32_t, OptProfileSelector select) const noexcept override {
        Dims shape = getTensorShape(name);
        shape.d[0] = plan_.batch[static_cast<std::size_t>(select)];
        return shape;
    }
    IExecutionContext* createExecutionContext() noexcept override {
        if (plan_.fault == "memory") {
            log_.log(ILogger::Severity::kERROR, "Cuda Runtime (out of memory)");
            return nullptr;
        }
        return new Context(plan_, log_);
    }

private:
    static bool is_input(const std::string& name) { return name == "image"; }

    Plan plan_;
    ILogger& log_;
};

class Runtime final : public IRuntime {
public:
    explicit Runtime(ILogger& log) : log_(log) {}

    ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size) noexcept override {
        Plan plan;
        if (!read(std::string(static_cast<const char*>(blob), size), plan)) {
            log_.log(ILogger::Severity::kINFO, "Loaded engine size: 0 MiB");
            log_.log(ILogger::Severity::kERROR, "Serialization assertion failed. Magic tag");
            return nullptr;
        }
        return new Engine(std::move(plan), log_);
    }

private:
    ILogger& log_;
};

}  // namespace

extern "C" {
int getInferLibMajorVersion() {
    return NV_TENSORRT_MAJOR;
}
int getInferLibMinorVersion() {
    return 1;
}
int getInferLibPatchVersion() {
    return 2;
}
int getInferLibBuildVersion() {
    return 3;
}
void* createInferRuntime_INTERNAL(void* log, int version) {
    return version == NV_TENSORRT_VERSION ? new Runtime(*static_cast<ILogger*>(log)) : nullptr;
}
}
