#include "gpu/driver.hpp"

#include <dlfcn.h>

#include <cstring>
#include <utility>

#include "backends/base.hpp"
#include "gpu/compiler.hpp"

namespace hp::gpu {

// Names of the driver's interface and what they take; all return 0 or an error.
#define HP_CUDA_CALLS(CALL)                                                                                  \
    CALL(cuInit, unsigned)                                                                                   \
    CALL(cuGetErrorName, int, const char**)                                                                  \
    CALL(cuDeviceGetCount, int*)                                                                             \
    CALL(cuDeviceGet, int*, int)                                                                             \
    CALL(cuDeviceGetName, char*, int, int)                                                                   \
    CALL(cuDeviceGetAttribute, int*, int, int)                                                               \
    CALL(cuDevicePrimaryCtxRetain, void**, int)                                                              \
    CALL(cuDevicePrimaryCtxRelease_v2, int)                                                                  \
    CALL(cuCtxSetCurrent, void*)                                                                             \
    CALL(cuCtxGetCurrent, void**)                                                                            \
    CALL(cuMemAlloc_v2, Address*, std::size_t)                                                               \
    CALL(cuMemFree_v2, Address)                                                                              \
    CALL(cuMemcpyHtoDAsync_v2, Address, const void*, std::size_t, void*)                                     \
    CALL(cuMemcpyDtoHAsync_v2, void*, Address, std::size_t, void*)                                           \
    CALL(cuStreamCreate, void**, unsigned)                                                                   \
    CALL(cuStreamDestroy_v2, void*)                                                                          \
    CALL(cuStreamSynchronize, void*)                                                                         \
    CALL(cuModuleLoadData, void**, const void*)                                                              \
    CALL(cuModuleUnload, void*)                                                                              \
    CALL(cuModuleGetFunction, void**, void*, const char*)                                                    \
    CALL(cuLaunchKernel, void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, \
         void**, void**)

struct Driver {
#define HP_DECLARE(name, ...) int (*name)(__VA_ARGS__) = nullptr;
    HP_CUDA_CALLS(HP_DECLARE)
#undef HP_DECLARE
};

namespace {

constexpr const char* kLibrary = "libcuda.so.1";
constexpr int kOutOfMemory = 2;
constexpr int kMajor = 75;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, and MINOR.
constexpr int kMinor = 76;
constexpr unsigned kNonBlocking = 1;  // A stream that does not wait for the default stream.
constexpr std::size_t kRoom = 1 << 16;

template <class Function>
void find(void* library, const char* name, Function& function) {
    void* symbol = dlsym(library, name);
    if (symbol == nullptr) {
        throw BackendUnavailable(std::string("the NVIDIA driver is too old: it has no ") + name +
                                 "; update it");
    }
    std::memcpy(&function, &symbol, sizeof symbol);
}

std::string name_of(const Driver& driver, int code) {
    const char* text = nullptr;
    driver.cuGetErrorName(code, &text);
    return text == nullptr ? "CUDA error " + std::to_string(code) : text;
}

Driver start() {
    void* library = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        throw Absent("there is no NVIDIA driver; use device 'cpu'");
    }
    Driver driver;
#define HP_FIND(name, ...) find(library, #name, driver.name);
    HP_CUDA_CALLS(HP_FIND)
#undef HP_FIND
    if (const int code = driver.cuInit(0)) {
        throw BackendUnavailable("the NVIDIA driver does not start (" + name_of(driver, code) +
                                 "); see nvidia-smi");
    }
    return driver;
}

// One for the program; a failed start is tried again.
const Driver& started() {
    static const Driver driver = start();
    return driver;
}

}  // namespace

Gpu::Gpu(int index) : driver_(started()) {
    try {
        open(index);
    } catch (...) {
        close();
        throw;
    }
}

Gpu::~Gpu() {
    close();
}

void Gpu::open(int index) {
    int count = 0;
    check(driver_.cuDeviceGetCount(&count));
    if (index >= count) {
        throw BackendUnavailable("there is no GPU " + std::to_string(index) + "; " + std::to_string(count) +
                                 " are visible");
    }
    std::array<char, 256> name{};
    check(driver_.cuDeviceGet(&device_, index));
    check(driver_.cuDeviceGetName(name.data(), static_cast<int>(name.size() - 1), device_));
    check(driver_.cuDeviceGetAttribute(&capability_[0], kMajor, device_));
    check(driver_.cuDeviceGetAttribute(&capability_[1], kMinor, device_));
    title_ = "cuda:" + std::to_string(index) + " " + name.data();
    check(driver_.cuDevicePrimaryCtxRetain(&context_, device_));
    const Entered entered(*this);
    check(driver_.cuStreamCreate(&stream_, kNonBlocking));
    const std::vector<char> code = compile_kernels(capability_);
    check(driver_.cuModuleLoadData(&module_, code.data()));
}

void Gpu::close() noexcept {
    if (context_ == nullptr) {
        return;
    }
    make_current();
    if (module_ != nullptr) {
        driver_.cuModuleUnload(module_);
    }
    if (stream_ != nullptr) {
        driver_.cuStreamDestroy_v2(stream_);
    }
    driver_.cuDevicePrimaryCtxRelease_v2(device_);
}

void Gpu::upload(Address target, const void* source, std::size_t bytes) const {
    check(driver_.cuMemcpyHtoDAsync_v2(target, source, bytes, stream_));
}

void Gpu::download(void* target, Address source, std::size_t bytes) const {
    check(driver_.cuMemcpyDtoHAsync_v2(target, source, bytes, stream_));
}

void Gpu::launch(const std::string& kernel, std::array<unsigned, 3> grid, std::array<unsigned, 3> block,
                 std::vector<void*> arguments) const {
    void* function = nullptr;
    check(driver_.cuModuleGetFunction(&function, module_, kernel.c_str()));
    check(driver_.cuLaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], 0,
                                 stream_, arguments.data(), nullptr));
}

void Gpu::synchronize() const {
    check(driver_.cuStreamSynchronize(stream_));
}

void Gpu::make_current() const noexcept {
    driver_.cuCtxSetCurrent(context_);
}

void Gpu::check(int code) const {
    if (code == kOutOfMemory) {
        throw DeviceOutOfMemory("the GPU has no memory left (" + name_of(driver_, code) +
                                "); take a smaller batch_size");
    }
    if (code != 0) {
        throw BackendError("the GPU failed (" + name_of(driver_, code) +
                           "); load the model again, in a new process if lost");
    }
}

Entered::Entered(const Gpu& gpu) : driver_(gpu.driver()) {
    gpu.check(driver_.cuCtxGetCurrent(&before_));
    gpu.check(driver_.cuCtxSetCurrent(gpu.context()));
}

Entered::~Entered() {
    if (before_ != nullptr) {
        driver_.cuCtxSetCurrent(before_);
    }
}

Buffer::Buffer(Buffer&& other) noexcept
    : gpu_(other.gpu_), address_(std::exchange(other.address_, 0)), bytes_(std::exchange(other.bytes_, 0)) {}

Address Buffer::reserve(std::size_t bytes) {
    if (bytes > bytes_) {
        release();  // Before more is asked for.
        const std::size_t size = (bytes + kRoom - 1) / kRoom * kRoom;
        gpu_->check(gpu_->driver().cuMemAlloc_v2(&address_, size));
        bytes_ = size;
    }
    return address_;
}

void Buffer::release() noexcept {
    if (bytes_ > 0) {
        gpu_->driver().cuMemFree_v2(address_);
    }
    address_ = 0;
    bytes_ = 0;
}

}  // namespace hp::gpu
