// What the kernels of hp_sdk/gpu/kernels.cu are told: its structs, and a table of them.
#pragma once

#include <math.h>
#include <string.h>

#include <cstdint>
#include <vector>

#include "gpu/driver.hpp"

// Its View is another than ours.
#define hp hp_pixels
#include "pixels.h"
#undef hp

namespace hp::gpu {

// As in kernels.cu, field for field.
struct FitTask {
    hp_pixels::Photo photo;
    hp_pixels::Place place;
};

struct LabelTask {
    unsigned char* labels;
    unsigned char* confidence;
    float* margin;
    int height, width;
    int first_view, num_views, num_classes;
    int are_logits;
};

template <class T>
T* pointer_to(Address address) {
    return reinterpret_cast<T*>(static_cast<std::uintptr_t>(address));
}

// Descriptors of one batch: collected on the host, sent to `base` in one copy.
class Table {
public:
    explicit Table(Address base) : base_(base) {}

    // Where a copy of the values will lie.
    template <class T>
    Address put(const std::vector<T>& values) {
        const std::size_t start = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
        bytes_.resize(start + values.size() * sizeof(T));
        memcpy(bytes_.data() + start, values.data(), values.size() * sizeof(T));
        return base_ + start;
    }

    // Room for the descriptors of that many network inputs.
    static std::size_t room(std::size_t inputs, std::size_t heads) {
        const std::size_t each = sizeof(FitTask) + heads * (sizeof(LabelTask) + sizeof(hp_pixels::View));
        return inputs * each + heads * kMostClasses * sizeof(int) + (3 * heads + 1) * kAlignment;
    }

    const std::vector<std::uint8_t>& bytes() const { return bytes_; }

private:
    static constexpr std::size_t kAlignment = 64;
    static constexpr std::size_t kMostClasses = 256;
    Address base_;
    std::vector<std::uint8_t> bytes_;
};

}  // namespace hp::gpu
