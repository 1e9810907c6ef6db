// Arithmetic of one pixel, before and after the network; the same text runs on CPU and GPU.
//
//   fit_pixel    photo (any size, any strides) -> one pixel of the network's input
//   label_pixel  scores on the network's grid  -> label, confidence and margin of one source pixel
//
// Nothing is included in device code, so that NVRTC needs no header paths. Positions are exact
// fractions of integers: CPU and GPU choose the same cell for every pixel of photos up to a million
// pixels wide.
#pragma once

#if defined(__CUDACC__)
#define HP_FUNCTION __host__ __device__ __forceinline__
#define HP_ROLLED _Pragma("unroll 1")
#else
#define HP_ROLLED
#include <math.h>
#include <string.h>
#define HP_FUNCTION inline
#endif

namespace hp {

// A photo in memory: pixel (y, x), channel c lies at data + y * row + x * column + c * channel.
// Strides in bytes, so HWC, CHW, padded rows and BGR (negative channel stride) are one case.
struct Photo {
    const unsigned char* data;
    long long row, column, channel;
    int height, width;
};

// Where the photo lies in the network's input: the top left content_h x content_w pixels.
struct Place {
    int content_h, content_w;
    int pad;  // grey level of the rest
};

// What the network said about one view of a photo: K planes of rows x columns cells.
struct View {
    const void* scores;   // float or half, logits or probabilities
    const int* order;     // class k of the answer is class order[k] of the view; null: the same
    long long plane;      // elements from one class to the next
    int rows, columns;    // cells of a plane
    int stride;           // network pixels per cell
    int content_h, content_w;  // network pixels that hold the photo
    int mirrored;         // the photo was flipped left-right before it was fitted
};

struct Answer {
    float best;     // largest mean score
    float second;   // the next one; -infinity if there is only one class
    float total;    // sum over classes of exp(score - best)
    int label;      // ties go to the lower id
};

HP_FUNCTION int lower(int a, int b) { return a < b ? a : b; }
HP_FUNCTION int upper(int a, int b) { return a > b ? a : b; }

HP_FUNCTION float exponential(float x) {
#if defined(__CUDA_ARCH__)
    return __expf(x);
#else
    return expf(x);
#endif
}

HP_FUNCTION float from_half(unsigned short bits) {
#if defined(__CUDA_ARCH__)
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    const unsigned sign = (bits & 0x8000u) << 16;
    unsigned exponent = (bits >> 10) & 31u, mantissa = bits & 1023u, word;
    if (exponent == 31) {
        word = sign | 0x7f800000u | (mantissa << 13);
    } else if (exponent) {
        word = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {
        const float tiny = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
        return sign ? -tiny : tiny;
    }
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
#endif
}

HP_FUNCTION float read(const float* at) { return *at; }
HP_FUNCTION float read(const unsigned short* at) { return from_half(*at); }

// ------------------------------------------------------------------------------------------------
// Before the network

HP_FUNCTION float level(const Photo& photo, int y, int x, int c) {
    return photo.data[y * photo.row + x * photo.column + c * photo.channel];
}

HP_FUNCTION unsigned char rounded(float value) {
    const float down = floorf(value);
    const float rest = value - down;
    int whole = static_cast<int>(down);
    if (rest > 0.5f || (rest == 0.5f && (whole & 1))) ++whole;  // half to even, as OpenCV
    return static_cast<unsigned char>(upper(0, lower(255, whole)));
}

// Two neighbours of a position, and the share of the second.
struct Pair {
    int first, second;
    float share;
};

// Centre of target pixel `at` of `targets` on `sources` pixels, half-pixel centres, clamped.
HP_FUNCTION Pair between(int at, int targets, int sources) {
    const long long twice = static_cast<long long>(2 * at + 1) * sources - targets;
    const long long unit = 2ll * targets;
    if (twice <= 0) return {0, 0, 0.0f};
    const int first = static_cast<int>(twice / unit);
    if (first >= sources - 1) return {sources - 1, sources - 1, 0.0f};
    return {first, first + 1, static_cast<float>(twice % unit) / static_cast<float>(unit)};
}

// Sources that target pixel `at` of `targets` covers, in units of 1 / targets of a source pixel.
struct Cover {
    int first, last;        // both included
    long long start, stop;  // in the units above
};

HP_FUNCTION Cover covered(int at, int targets, int sources) {
    const long long start = static_cast<long long>(at) * sources;
    const long long stop = start + sources;
    const int last = static_cast<int>((stop + targets - 1) / targets) - 1;
    return {static_cast<int>(start / targets), lower(last, sources - 1), start, stop};
}

HP_FUNCTION float part(const Cover& cover, int source, int targets) {
    const long long from = static_cast<long long>(source) * targets;
    const long long low = from > cover.start ? from : cover.start;
    const long long high = from + targets < cover.stop ? from + targets : cover.stop;
    return static_cast<float>(high - low);
}

// Average of the covered area, which is what shrinking needs (OpenCV's INTER_AREA).
HP_FUNCTION void average(const Photo& photo, const Place& place, int y, int x, float rgb[3]) {
    const Cover rows = covered(y, place.content_h, photo.height);
    const Cover columns = covered(x, place.content_w, photo.width);
    for (int c = 0; c < 3; ++c) rgb[c] = 0.0f;
    for (int row = rows.first; row <= rows.last; ++row) {
        float line[3] = {0.0f, 0.0f, 0.0f};
        for (int column = columns.first; column <= columns.last; ++column) {
            const float share = part(columns, column, place.content_w);
            for (int c = 0; c < 3; ++c) line[c] += share * level(photo, row, column, c);
        }
        const float share = part(rows, row, place.content_h);
        for (int c = 0; c < 3; ++c) rgb[c] += share * (line[c] / static_cast<float>(photo.width));
    }
    for (int c = 0; c < 3; ++c) rgb[c] /= static_cast<float>(photo.height);
}

// Linear interpolation, which is what enlarging needs (OpenCV's INTER_LINEAR).
HP_FUNCTION void interpolate(const Photo& photo, const Place& place, int y, int x, float rgb[3]) {
    const Pair v = between(y, place.content_h, photo.height);
    const Pair h = between(x, place.content_w, photo.width);
    for (int c = 0; c < 3; ++c) {
        const float top = level(photo, v.first, h.first, c) * (1.0f - h.share) +
                          level(photo, v.first, h.second, c) * h.share;
        const float bottom = level(photo, v.second, h.first, c) * (1.0f - h.share) +
                             level(photo, v.second, h.second, c) * h.share;
        rgb[c] = top * (1.0f - v.share) + bottom * v.share;
    }
}

// Pixel (y, x) of the network's input, three grey levels.
HP_FUNCTION void fit_pixel(
    const Photo& photo, const Place& place, int y, int x, unsigned char rgb[3]) {
    if (y >= place.content_h || x >= place.content_w) {
        for (int c = 0; c < 3; ++c) rgb[c] = static_cast<unsigned char>(place.pad);
        return;
    }
    float mean[3];
    if (place.content_h <= photo.height && place.content_w <= photo.width) {
        average(photo, place, y, x, mean);
    } else {
        interpolate(photo, place, y, x, mean);
    }
    for (int c = 0; c < 3; ++c) rgb[c] = rounded(mean[c]);
}

// ------------------------------------------------------------------------------------------------
// After the network

// Cells around source pixel `at` of `pixels`; the grid holds content / stride cells, perhaps a
// fraction of the last one.
HP_FUNCTION Pair cells(int at, int pixels, int content, int stride, int there) {
    const long long unit = 2ll * stride * pixels;
    const long long twice =
        static_cast<long long>(2 * at + 1) * content - static_cast<long long>(stride) * pixels;
    const int last = lower((content + stride - 1) / stride, there) - 1;
    if (twice <= 0) return {0, 0, 0.0f};
    const int first = static_cast<int>(twice / unit);
    if (first >= last) return {last, last, 0.0f};
    return {first, first + 1, static_cast<float>(twice % unit) / static_cast<float>(unit)};
}

// Four cells and their weights.
struct Corners {
    long long at[4];
    float weight[4];
};

HP_FUNCTION Corners corners(const View& view, int height, int width, int y, int x) {
    const int column = view.mirrored ? width - 1 - x : x;
    const Pair v = cells(y, height, view.content_h, view.stride, view.rows);
    const Pair h = cells(column, width, view.content_w, view.stride, view.columns);
    const long long top = static_cast<long long>(v.first) * view.columns;
    const long long bottom = static_cast<long long>(v.second) * view.columns;
    return {
        {top + h.first, top + h.second, bottom + h.first, bottom + h.second},
        {(1.0f - v.share) * (1.0f - h.share), (1.0f - v.share) * h.share,
         v.share * (1.0f - h.share), v.share * h.share}};
}

template <typename Score>
HP_FUNCTION float score(const View& view, const Corners& where, int k) {
    const int own = view.order ? view.order[k] : k;
    const Score* plane = static_cast<const Score*>(view.scores) + own * view.plane;
    float sum = 0.0f;
    for (int i = 0; i < 4; ++i) sum += where.weight[i] * read(plane + where.at[i]);
    return sum;
}

constexpr int MAX_VIEWS = 16;

// Label of source pixel (y, x) of height x width: argmax of the mean over views, interpolated.
// Takes up to MOST views; with one, everything stays in registers.
template <typename Score, int MOST>
HP_FUNCTION Answer label_pixel(
    const View* views, int num_views, int num_classes, int height, int width, int y, int x) {
    Corners where[MOST];
    if (num_views > MOST) num_views = MOST;
    HP_ROLLED for (int v = 0; v < num_views; ++v) where[v] = corners(views[v], height, width, y, x);
    const float share = 1.0f / static_cast<float>(num_views);
    const float nothing = -3.402823466e38f;
    Answer answer = {nothing, nothing, 0.0f, 0};
    for (int k = 0; k < num_classes; ++k) {
        float value = 0.0f;
        HP_ROLLED for (int v = 0; v < num_views; ++v) value += score<Score>(views[v], where[v], k);
        value *= share;
        if (value > answer.best) {
            // what was summed so far, relative to the new maximum
            answer.total = answer.total * exponential(answer.best - value) + 1.0f;
            answer.second = answer.best;
            answer.best = value;
            answer.label = k;
        } else {
            answer.total += exponential(value - answer.best);
            if (value > answer.second) answer.second = value;
        }
    }
    return answer;
}

// The winner's probability times 255.
HP_FUNCTION unsigned char confidence(const Answer& answer, int are_logits) {
    return rounded(255.0f * (are_logits ? 1.0f / answer.total : answer.best));
}

// Scores of one cell become probabilities, in place; `classes` lie `plane` elements apart.
HP_FUNCTION void softmax_cell(float* cell, long long plane, int num_classes) {
    float best = cell[0], total = 0.0f;
    for (int k = 1; k < num_classes; ++k) best = fmaxf(best, cell[k * plane]);
    for (int k = 0; k < num_classes; ++k) {
        cell[k * plane] = exponential(cell[k * plane] - best);
        total += cell[k * plane];
    }
    for (int k = 0; k < num_classes; ++k) cell[k * plane] /= total;
}

}  // namespace hp
