// A network on the device.
#pragma once

#include <map>
#include <string>

#include "gpu/driver.hpp"
#include "hp/image.hpp"

namespace hp::gpu {

// One output per network input: (classes, h, w), float or half.
struct Output {
    int classes = 0;
    Size cells;
    bool is_half = false;

    std::size_t values() const {
        return static_cast<std::size_t>(classes) * static_cast<std::size_t>(cells.height) *
               static_cast<std::size_t>(cells.width);
    }
    std::size_t bytes() const { return values() * (is_half ? 2 : 4); }
};

// One run at a time; the GPU's context must be current.
class Engine {
public:
    virtual ~Engine() = default;

    // Enqueue the network for `count` inputs (count, h, w, 3) at `image`; every output has an address.
    virtual void enqueue(int count, Address image, const std::map<std::string, Address>& outputs,
                         const Gpu& gpu) = 0;

    Size input;
    int batch_min = 1;
    int batch_opt = 1;
    int batch_max = 1;
    std::map<std::string, Output> outputs;
};

}  // namespace hp::gpu
