// A batch's whole way on the device: photos up, fit, network, labels, labels down; one batch at a time.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ask.hpp"
#include "backends/base.hpp"
#include "gpu/engine.hpp"

namespace hp::gpu {

// Parses on one GPU; any thread may call.
class DevicePipeline final : public Pipeline {
public:
    DevicePipeline(std::unique_ptr<Gpu> gpu, std::unique_ptr<Engine> engine);
    ~DevicePipeline() override;

    bool takes(const Bundle& bundle, const std::vector<ImageView>& images, const Ask& ask) const override;
    std::vector<std::vector<Labels>> parse(const Bundle& bundle, const std::vector<ImageView>& images,
                                           const Ask& ask) const override;

    // Outputs by name of up to batch_max network inputs, copied to the host.
    Outputs run(const Batch& batch, const std::vector<std::string>& names) const;

    const Gpu& gpu() const { return *gpu_; }
    const Engine& engine() const { return *engine_; }

private:
    class Chunk;
    struct Memory;

    std::unique_ptr<Gpu> gpu_;
    std::unique_ptr<Engine> engine_;
    std::unique_ptr<Memory> memory_;
    mutable std::mutex turn_;
};

}  // namespace hp::gpu
