// DEFLATE (RFC 1951) decoded, for golden samples and PNG.
#pragma once

#include "files.hpp"

namespace hp {

// Exactly `size` bytes from a raw deflate stream.
// Throws std::runtime_error where the stream is damaged or holds another number of bytes.
Bytes inflate(const std::uint8_t* data, std::size_t data_size, std::size_t size);

}  // namespace hp
