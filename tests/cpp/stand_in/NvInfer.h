// Declarations with the names of TensorRT's that src/backends/tensorrt.cpp uses; of a version that does
// not exist, so that nobody loads the real library with them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_runtime_api.h"

#define NV_TENSORRT_MAJOR 99
#define NV_TENSORRT_VERSION 990000

namespace nvinfer1 {

struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};

enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };

class ILogger {
public:
    enum class Severity : std::int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3 };
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
public:
    virtual ~IExecutionContext() = default;
    virtual bool setInputShape(const char* name, const Dims& shape) noexcept = 0;
    virtual bool setTensorAddress(const char* name, void* memory) noexcept = 0;
    virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() = default;
    virtual std::int32_t getNbIOTensors() const noexcept = 0;
    virtual const char* getIOTensorName(std::int32_t index) const noexcept = 0;
    virtual TensorIOMode getTensorIOMode(const char* name) const noexcept = 0;
    virtual DataType getTensorDataType(const char* name) const noexcept = 0;
    virtual Dims getTensorShape(const char* name) const noexcept = 0;
    virtual Dims getProfileShape(const char* name, std::int32_t profile,
                                 OptProfileSelector select) const noexcept = 0;
    virtual IExecutionContext* createExecutionContext() noexcept = 0;
};

class IRuntime {
public:
    virtual ~IRuntime() = default;
    virtual ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size) noexcept = 0;
};

}  // namespace nvinfer1
