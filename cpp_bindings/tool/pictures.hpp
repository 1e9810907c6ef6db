// Photos read from PNM and PNG files, label maps written as indexed PNG.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "files.hpp"
#include "hp/domain.hpp"
#include "hp/image.hpp"

namespace hp {

// RGB pixels (height, width, 3).
struct Picture {
    Size size;
    Bytes pixels;
};

// The photo in a file's content.  Throws InputError; `name` is for its message.
Picture decode_picture(const Bytes& content, const std::string& name);

bool is_png(const Bytes& content);
Picture decode_png(const Bytes& content);  // Throws std::runtime_error.
Picture decode_pnm(const Bytes& content);  // Throws std::runtime_error.

// Ids (height, width) with the colours that viewers show.
Bytes encode_labels(Size size, const Bytes& labels, const std::vector<Colour>& palette);

// A zlib stream of fixed codes; it finds repetitions of the byte before and of the row above.
Bytes zlib_compress(const Bytes& content, std::size_t row_bytes);

// Written under another name and renamed.  Throws ConfigError.
void write_file(const std::filesystem::path& path, const Bytes& content);

// The size a file says it has.  Throws std::runtime_error where no photo is like that.
Size checked_size(std::uint32_t height, std::uint32_t width);

// Black, of this size.
Picture empty_picture(Size size);

}  // namespace hp
