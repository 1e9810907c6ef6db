// A CUDA driver whose device is the host: memory is malloc, streams run at once, kernels.cu runs in
// loops. Everything above it (driver, memory, pipeline) is the code that runs on a GPU.
#include <math.h>
#include <string.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

struct Index3 {
    unsigned x, y, z;
};
static thread_local Index3 blockIdx, blockDim, threadIdx;
#define __global__
#define __device__
#include "kernels.cu"

namespace {
std::map<void*, size_t> blocks;
std::mutex guard;    // of blocks and used_bytes
size_t limit_bytes = size_t(1) << 40, used_bytes = 0;
int failing = 0;     // every call from now on returns this
long launches = 0, copies_up = 0, copies_down = 0;
bool capturing = false;
double launch_ms = 0, bytes_per_ms = 0, now_ms = 0;  // the device's clock, if it has one
thread_local void* current = nullptr;  // as on a GPU: memory is freed in a context, or not at all
const char* const names[] = {
    "hp_fit", "hp_label_float", "hp_label_half", "hp_merge_float", "hp_merge_half", "hp_softmax"};

struct Launch {
    long which;
    unsigned grid[3], block[3];
    std::string arguments[4];
};
struct Copy {
    void* to;
    const void* from;
    size_t size;
};
struct Work {
    bool is_launch;
    Launch launch;
    Copy copy;
};
struct Graph {
    std::string unused;
    Work* works;
    size_t count;
};
Work recorded[1024];
size_t num_recorded = 0;

template <typename T>
T as(const std::string& bytes) {
    T value;
    memcpy(&value, bytes.data(), sizeof value);
    return value;
}

void run(const Launch& launch) {
    ++launches;
    now_ms += launch_ms;
    blockDim = {launch.block[0], launch.block[1], launch.block[2]};
    const auto* a = launch.arguments;
    for (unsigned z = 0; z < launch.grid[2]; ++z)
        for (unsigned y = 0; y < launch.grid[1]; ++y)
            for (unsigned x = 0; x < launch.grid[0]; ++x)
                for (unsigned v = 0; v < launch.block[1]; ++v)
                    for (unsigned u = 0; u < launch.block[0]; ++u) {
                        blockIdx = {x, y, z};
                        threadIdx = {u, v, 0};
                        using Tasks = const LabelTask*;
                        using Views = const hp::View*;
                        switch (launch.which) {
                            case 1:
                                hp_fit(as<const FitTask*>(a[0]), as<unsigned char*>(a[1]),
                                       as<int>(a[2]), as<int>(a[3]));
                                break;
                            case 2: hp_label_float(as<Tasks>(a[0]), as<Views>(a[1])); break;
                            case 3: hp_label_half(as<Tasks>(a[0]), as<Views>(a[1])); break;
                            case 4: hp_merge_float(as<Tasks>(a[0]), as<Views>(a[1])); break;
                            case 5: hp_merge_half(as<Tasks>(a[0]), as<Views>(a[1])); break;
                            case 6:
                                hp_softmax(as<float*>(a[0]), as<int>(a[1]), as<int>(a[2]),
                                           as<int>(a[3]));
                                break;
                            default: abort();
                        }
                    }
}

void run(const Copy& copy) {
    if (bytes_per_ms > 0) now_ms += copy.size / bytes_per_ms;
    memcpy(copy.to, copy.from, copy.size);
}

template <typename W>
int enqueue(Work work, const W& part) {
    if (failing) return failing;
    if (capturing) {
        recorded[num_recorded++] = work;
    } else {
        run(part);
    }
    return 0;
}

int copy(void* to, const void* from, size_t size) {
    Work work{};
    work.copy = {to, from, size};
    return enqueue(work, work.copy);
}

void* handle() { return malloc(1); }
int drop(void* of) {
    free(of);
    return 0;
}
}  // namespace

extern "C" {
// what tests steer and read
void fake_reset() {
    limit_bytes = size_t(1) << 40;
    failing = 0;
    launches = copies_up = copies_down = 0;
    launch_ms = bytes_per_ms = now_ms = 0;
}
// Every launch takes so long, and every copy as long as its bytes; until then, every interval is 1.5.
void fake_clock(double ms_of_a_launch, double bytes_in_a_ms) {
    launch_ms = ms_of_a_launch;
    bytes_per_ms = bytes_in_a_ms;
}
void fake_limit(size_t bytes) { limit_bytes = bytes; }
void fake_fail(int code) { failing = code; }
size_t fake_used() { return used_bytes; }
long fake_launches() { return launches; }
long fake_copies_up() { return copies_up; }
long fake_copies_down() { return copies_down; }

int cuInit(unsigned) { return 0; }
int cuGetErrorName(int code, const char** name) {
    *name = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_LAUNCH_FAILED";
    return 0;
}
int cuDeviceGetCount(int* count) {
    *count = 1;
    return 0;
}
int cuDeviceGet(int* device, int index) {
    *device = index;
    return 0;
}
int cuDeviceGetName(char* name, int, int) {
    strcpy(name, "Host");
    return 0;
}
int cuDeviceGetPCIBusId(char* text, int, int) {
    strcpy(text, "0000:07:00.0");
    return 0;
}
// the management library: the GPU above, which does not tell its temperature
int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char* text, void** device) {
    *device = &now_ms;
    return strcmp(text, "0000:07:00.0") ? 6 : 0;
}
int nvmlDeviceGetClockInfo(void*, unsigned which, unsigned* mhz) {
    *mhz = which == 1 ? 1980 : 2619;
    return 0;
}
int nvmlDeviceGetMaxClockInfo(void*, unsigned, unsigned* mhz) {
    *mhz = 1985;
    return 0;
}
int nvmlDeviceGetPowerUsage(void*, unsigned* mw) {
    *mw = 350500;
    return 0;
}
int nvmlDeviceGetEnforcedPowerLimit(void*, unsigned* mw) {
    *mw = 700000;
    return 0;
}
int nvmlDeviceGetTemperature(void*, unsigned, unsigned*) { return 3; }
int cuDeviceGetAttribute(int* value, int which, int) {
    *value = which == 75 ? 9 : 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
    static char one;
    *context = &one;
    return 0;
}
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void* context) {
    current = context;
    return 0;
}
int cuCtxGetCurrent(void** context) {
    *context = current;
    return 0;
}
int cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    *total = limit_bytes;
    *free_bytes = limit_bytes - used_bytes;
    return 0;
}
int cuMemAlloc_v2(void** at, size_t size) {
    if (failing) return failing;
    if (!current) return 201;
    const std::lock_guard<std::mutex> lock(guard);
    if (used_bytes + size > limit_bytes) return 2;
    *at = aligned_alloc(256, (size + 255) / 256 * 256);
    blocks[*at] = size;
    used_bytes += size;
    return 0;
}
int cuMemFree_v2(void* at) {
    if (!current) return 201;
    const std::lock_guard<std::mutex> lock(guard);
    used_bytes -= blocks.at(at);
    blocks.erase(at);
    free(at);
    return 0;
}
int cuMemHostAlloc(void** at, size_t size, unsigned) {
    *at = aligned_alloc(256, (size + 255) / 256 * 256);
    return 0;
}
int cuMemFreeHost(void* at) { return drop(at); }
int cuStreamCreate(void** stream, unsigned) {
    *stream = handle();
    return failing;
}
int cuStreamDestroy_v2(void* stream) { return drop(stream); }
int cuStreamSynchronize(void*) { return failing; }
int cuStreamWaitEvent(void*, void*, unsigned) { return failing; }
int cuEventCreate(void** event, unsigned) {
    *event = new double(0);
    return failing;
}
int cuEventDestroy_v2(void* event) {
    delete static_cast<double*>(event);
    return 0;
}
int cuEventRecord(void* event, void*) {
    *static_cast<double*>(event) = now_ms;
    return failing;
}
int cuEventQuery(void*) { return failing; }
int cuEventSynchronize(void*) { return failing; }
int cuEventElapsedTime(float* ms, void* from, void* to) {
    const double passed = *static_cast<double*>(to) - *static_cast<double*>(from);
    *ms = bytes_per_ms > 0 ? static_cast<float>(passed) : 1.5f;
    return failing;
}
int cuMemcpyHtoDAsync_v2(void* to, const void* from, size_t size, void*) {
    ++copies_up;
    return copy(to, from, size);
}
int cuMemcpyDtoHAsync_v2(void* to, const void* from, size_t size, void*) {
    ++copies_down;
    return copy(to, from, size);
}
int cuMemcpyDtoDAsync_v2(void* to, const void* from, size_t size, void*) {
    return copy(to, from, size);
}
int cuModuleLoadData(void** module, const void*) {
    *module = handle();
    return 0;
}
int cuModuleUnload(void* module) { return drop(module); }
int cuModuleGetFunction(void** function, void*, const char* name) {
    for (long i = 0; i < 6; ++i)
        if (!strcmp(names[i], name)) {
            *function = reinterpret_cast<void*>(i + 1);
            return 0;
        }
    return 500;
}
int cuLaunchKernel(
    void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    unsigned, void*, void** arguments, void**) {
    Work work{};
    work.is_launch = true;
    work.launch = {reinterpret_cast<long>(function), {gx, gy, gz}, {bx, by, bz}, {}};
    static const size_t sizes[7][4] = {{0, 0, 0, 0}, {8, 8, 4, 4}, {8, 8, 0, 0}, {8, 8, 0, 0},
                                       {8, 8, 0, 0}, {8, 8, 0, 0}, {8, 4, 4, 4}};
    for (int i = 0; i < 4; ++i)
        if (const size_t size = sizes[work.launch.which][i])
            work.launch.arguments[i].assign(static_cast<char*>(arguments[i]), size);
    return enqueue(work, work.launch);
}
int cuStreamBeginCapture_v2(void*, int) {
    capturing = true;
    num_recorded = 0;
    return 0;
}
int cuStreamEndCapture(void*, void** graph) {
    capturing = false;
    auto* made = new Graph{"", new Work[num_recorded], num_recorded};
    for (size_t i = 0; i < num_recorded; ++i) made->works[i] = recorded[i];
    *graph = made;
    return 0;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    auto* of = static_cast<Graph*>(graph);
    auto* made = new Graph{"", new Work[of->count], of->count};
    for (size_t i = 0; i < of->count; ++i) made->works[i] = of->works[i];
    *executable = made;
    return 0;
}
int cuGraphLaunch(void* executable, void*) {
    if (failing) return failing;
    auto* of = static_cast<Graph*>(executable);
    for (size_t i = 0; i < of->count; ++i) {
        if (of->works[i].is_launch) {
            run(of->works[i].launch);
        } else {
            run(of->works[i].copy);
        }
    }
    return 0;
}
int cuGraphDestroy(void* graph) {
    auto* of = static_cast<Graph*>(graph);
    delete[] of->works;
    delete of;
    return 0;
}
int cuGraphExecDestroy(void* graph) { return cuGraphDestroy(graph); }
}
