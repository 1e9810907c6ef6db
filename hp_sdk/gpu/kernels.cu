// The fused kernels and the softmax of probability averaging. See pixels.h for the arithmetic.
//
//   hp_fit      any photos  -> batch (N, h, w, 3) uint8 RGB, one launch for the whole batch
//   hp_label_*  scores      -> labels, confidence, margin at source size, one launch for all photos
//   hp_merge_*  the same for several views of each photo
//
// Blocks: x and y tile an image, z counts images. Descriptors lie in device memory, one per image.
#include "pixels.h"

struct FitTask {
    hp::Photo photo;
    hp::Place place;
};

struct LabelTask {
    unsigned char* labels;      // height x width, rows without gaps
    unsigned char* confidence;  // the same, or null
    float* margin;              // the same, or null
    int height, width;
    int first_view, num_views, num_classes;
    int are_logits;
};

extern "C" __global__ void hp_fit(
    const FitTask* tasks, unsigned char* batch, int height, int width) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const FitTask& task = tasks[blockIdx.z];
    unsigned char* pixel =
        batch + ((static_cast<long long>(blockIdx.z) * height + y) * width + x) * 3;
    hp::fit_pixel(task.photo, task.place, y, x, pixel);
}

template <typename Score, int MOST>
__device__ void label(const LabelTask* tasks, const hp::View* views) {
    const LabelTask& task = tasks[blockIdx.z];
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= task.width || y >= task.height) return;
    const hp::Answer answer = hp::label_pixel<Score, MOST>(
        views + task.first_view, task.num_views, task.num_classes, task.height, task.width, y, x);
    const long long at = static_cast<long long>(y) * task.width + x;
    task.labels[at] = static_cast<unsigned char>(answer.label);
    if (task.confidence) task.confidence[at] = hp::confidence(answer, task.are_logits);
    if (task.margin) task.margin[at] = answer.best - answer.second;
}

#define HP_LABEL_KERNEL(NAME, SCORE, MOST)                                               \
    extern "C" __global__ void NAME(const LabelTask* tasks, const hp::View* views) {     \
        label<SCORE, MOST>(tasks, views);                                                \
    }

HP_LABEL_KERNEL(hp_label_float, float, 1)
HP_LABEL_KERNEL(hp_label_half, unsigned short, 1)
HP_LABEL_KERNEL(hp_merge_float, float, hp::MAX_VIEWS)
HP_LABEL_KERNEL(hp_merge_half, unsigned short, hp::MAX_VIEWS)

// scores (N, K, cells) float, in place
extern "C" __global__ void hp_softmax(float* scores, int images, int num_classes, int cells) {
    const long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= static_cast<long long>(images) * cells) return;
    const long long image = at / cells, cell = at % cells;
    hp::softmax_cell(scores + image * num_classes * cells + cell, cells, num_classes);
}
