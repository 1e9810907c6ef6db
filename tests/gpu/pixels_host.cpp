// The kernels' loops on the host, so that their arithmetic is tested without a GPU.
#include "pixels.h"

extern "C" {

void fit(const hp::Photo* photo, const hp::Place* place, int height, int width, unsigned char* to) {
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) hp::fit_pixel(*photo, *place, y, x, to + (y * width + x) * 3);
}

void label(
    const hp::View* views, int num_views, int num_classes, int height, int width, int is_half,
    int are_logits, unsigned char* labels, unsigned char* confidence, float* margin) {
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const auto label_pixel =
                is_half ? (num_views == 1 ? hp::label_pixel<unsigned short, 1>
                                          : hp::label_pixel<unsigned short, hp::MAX_VIEWS>)
                        : (num_views == 1 ? hp::label_pixel<float, 1>
                                          : hp::label_pixel<float, hp::MAX_VIEWS>);
            const hp::Answer answer =
                label_pixel(views, num_views, num_classes, height, width, y, x);
            const long long at = static_cast<long long>(y) * width + x;
            labels[at] = static_cast<unsigned char>(answer.label);
            confidence[at] = hp::confidence(answer, are_logits);
            margin[at] = answer.best - answer.second;
        }
    }
}

void softmax(float* scores, int num_classes, int cells) {
    for (int i = 0; i < cells; ++i) hp::softmax_cell(scores + i, cells, num_classes);
}
}
