// A stand-in for NVRTC that looks at what it is given and compiles nothing.
#include <cstddef>
#include <cstring>

namespace {
bool is_right = false;
constexpr char kCode[] = "compiled for the host";
constexpr char kLog[] = "kernels.cu(1): error: nothing here\n";
}  // namespace

extern "C" {
int nvrtcCreateProgram(void** program, const char* source, const char* name, int headers,
                       const char* const* texts, const char* const* names) {
    is_right = std::strstr(source, "__global__ void hp_fit(") != nullptr &&
               std::strcmp(name, "kernels.cu") == 0 && headers == 1 &&
               std::strstr(texts[0], "label_pixel") != nullptr && std::strcmp(names[0], "pixels.h") == 0;
    *program = &is_right;
    return 0;
}
int nvrtcCompileProgram(void*, int count, const char* const* options) {
    return is_right && count == 2 && std::strcmp(options[0], "--gpu-architecture=sm_90") == 0 ? 0 : 6;
}
int nvrtcGetCUBINSize(void*, std::size_t* size) {
    *size = sizeof kCode;
    return 0;
}
int nvrtcGetCUBIN(void*, char* code) {
    std::memcpy(code, kCode, sizeof kCode);
    return 0;
}
int nvrtcGetProgramLogSize(void*, std::size_t* size) {
    *size = sizeof kLog;
    return 0;
}
int nvrtcGetProgramLog(void*, char* log) {
    std::memcpy(log, kLog, sizeof kLog);
    return 0;
}
int nvrtcDestroyProgram(void** program) {
    *program = nullptr;
    return 0;
}
}
