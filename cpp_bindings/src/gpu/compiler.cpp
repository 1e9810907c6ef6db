#include "gpu/compiler.hpp"

#include <dlfcn.h>

#include <cstring>
#include <string>

#include "gpu/sources.hpp"
#include "hp/errors.hpp"

namespace hp::gpu {
namespace {

constexpr const char* kNames[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
constexpr const char* kInstall =
    "install it (pip install nvidia-cuda-nvrtc) and name its folder in LD_LIBRARY_PATH";

// One function of the run-time compiler.
template <class... Arguments>
class Call {
public:
    Call(void* library, const char* name) {
        void* symbol = dlsym(library, name);
        if (symbol == nullptr) {
            throw BackendUnavailable(std::string("NVRTC has no ") + name + "; update it");
        }
        std::memcpy(&function_, &symbol, sizeof symbol);
    }

    // What NVRTC answers, 0 standing for success.
    int operator()(Arguments... arguments) const { return function_(arguments...); }

private:
    int (*function_)(Arguments...) = nullptr;
};

void* open_library() {
    for (const char* name : kNames) {
        if (void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
            return library;
        }
    }
    throw BackendUnavailable(std::string("NVRTC, NVIDIA's run-time compiler, is not there; ") + kInstall);
}

void check(int code) {
    if (code != 0) {
        throw BackendUnavailable("NVRTC failed (" + std::to_string(code) + "); " + kInstall);
    }
}

// A program of NVRTC, destroyed with this.
class Program {
public:
    explicit Program(void* library) : library_(library), destroy_(library, "nvrtcDestroyProgram") {
        const char* headers[] = {kPixels};
        const char* names[] = {"pixels.h"};
        const Call<void**, const char*, const char*, int, const char* const*, const char* const*> create(
            library, "nvrtcCreateProgram");
        check(create(&program_, kKernels, "kernels.cu", 1, headers, names));
    }
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    ~Program() { destroy_(&program_); }

    int compile(const std::string& architecture) const {
        const char* options[] = {architecture.c_str(), "--std=c++17"};
        return Call<void*, int, const char* const*>(library_, "nvrtcCompileProgram")(program_, 2, options);
    }

    // What two functions give, the first of which says how long it is.
    std::vector<char> content(const char* size_name, const char* name) const {
        std::size_t size = 0;
        check(Call<void*, std::size_t*>(library_, size_name)(program_, &size));
        std::vector<char> text(size + 1);
        check(Call<void*, char*>(library_, name)(program_, text.data()));
        return text;
    }

private:
    void* library_;
    Call<void**> destroy_;
    void* program_ = nullptr;
};

// The first line that tells of an error.
std::string first_error(const std::string& log) {
    const auto at = log.find("error");
    const auto start = log.rfind('\n', at) + 1;
    return at == std::string::npos ? "" : log.substr(start, log.find('\n', at) - start);
}

}  // namespace

std::vector<char> compile_kernels(std::array<int, 2> capability) {
    const Program program(open_library());
    const std::string major = std::to_string(capability[0]);
    const std::string minor = std::to_string(capability[1]);
    if (const int code = program.compile("--gpu-architecture=sm_" + major + minor)) {
        const std::string log = program.content("nvrtcGetProgramLogSize", "nvrtcGetProgramLog").data();
        throw BackendUnavailable("the kernels cannot be compiled for compute capability " + major + "." +
                                 minor + " (" + std::to_string(code) + "): " + first_error(log) +
                                 "; update NVRTC, or use another device");
    }
    return program.content("nvrtcGetCUBINSize", "nvrtcGetCUBIN");
}

}  // namespace hp::gpu
