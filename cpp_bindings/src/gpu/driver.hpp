// The CUDA driver, loaded while the program runs: context, one stream, memory, copies and launches.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace hp::gpu {

using Address = std::uint64_t;  // In the device's memory.

struct Driver;

// One GPU: the primary context that all libraries of a program share, a stream and the kernels of kernels.cu.
//
// Every member but the constructor needs the context to be current; see Entered.
class Gpu {
public:
    // Throws Absent (no driver) or BackendUnavailable (it does not start, no such GPU, no run-time compiler).
    explicit Gpu(int index);
    Gpu(const Gpu&) = delete;
    Gpu& operator=(const Gpu&) = delete;
    ~Gpu();

    const Driver& driver() const { return driver_; }
    void* context() const { return context_; }
    void* stream() const { return stream_; }
    // In words, "cuda:0 NVIDIA H100".
    const std::string& title() const { return title_; }
    // Such as {9, 0}.
    std::array<int, 2> capability() const { return capability_; }

    // Work in order; these only enqueue, copies from and to ordinary memory may wait.
    void upload(Address target, const void* source, std::size_t bytes) const;
    void download(void* target, Address source, std::size_t bytes) const;
    // `arguments` are the addresses of what the kernel takes.
    void launch(const std::string& kernel, std::array<unsigned, 3> grid, std::array<unsigned, 3> block,
                std::vector<void*> arguments) const;
    // Wait until all is done.
    void synchronize() const;

    // Current in this thread from now on, as far as the device still answers.
    void make_current() const noexcept;

    // Translate what a call of the driver returned.  Throws DeviceOutOfMemory or BackendError.
    void check(int code) const;

private:
    void open(int index);
    void close() noexcept;

    const Driver& driver_;
    int device_ = 0;
    void* context_ = nullptr;
    void* stream_ = nullptr;
    void* module_ = nullptr;
    std::string title_;
    std::array<int, 2> capability_{};
};

// The GPU is current in this thread as long as this lives; then the caller's own is again.
class Entered {
public:
    explicit Entered(const Gpu& gpu);
    Entered(const Entered&) = delete;
    Entered& operator=(const Entered&) = delete;
    ~Entered();

private:
    const Driver& driver_;
    void* before_ = nullptr;
};

// Device memory that grows as it must.
class Buffer {
public:
    explicit Buffer(const Gpu& gpu) : gpu_(&gpu) {}
    Buffer(Buffer&& other) noexcept;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { release(); }

    // At least that many bytes; what was in them is lost where they grow.
    Address reserve(std::size_t bytes);

private:
    void release() noexcept;

    const Gpu* gpu_;
    Address address_ = 0;
    std::size_t bytes_ = 0;
};

}  // namespace hp::gpu
