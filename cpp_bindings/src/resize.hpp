// 8-bit resizing, pixel for pixel what OpenCV gives, so that C++ and Python ask the network the same.
//
// Both take packed RGB and place pixel centres at one half.
//
//   linear  Source column of target column x: s = (x + 0.5) * w / W - 0.5.  Weights are whole numbers
//           of 1/2048; a row is blended exactly, two rows as
//           (((b0 * (r0 >> 4)) >> 16) + ((b1 * (r1 >> 4)) >> 16) + 2) >> 2.
//   area    Mean over the covered area, in single precision, rows first; sides below 1/1000 of a
//           source pixel are left out.  Whole factors average whole pixels.
//
// Source: the rounding is OpenCV's of INTER_LINEAR and INTER_AREA for 8-bit pictures.
#pragma once

#include "image.hpp"

namespace hp {

// Shrinking in both directions averages the area, everything else interpolates linearly.  Large photos
// are shared by up to `threads` threads.
void resize_into(const Canvas& target, const Rgb& source, int threads = 1);

// Whether resize_into() averages areas that end between pixels.
bool is_fractional_area(Size source, Size target);

}  // namespace hp
