// PNG (ISO 15948): every colour type and depth, not interlaced; alpha is dropped.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <stdexcept>

#include "inflate.hpp"
#include "pictures.hpp"

namespace hp {
namespace {

using std::size_t;
using std::uint32_t;
using std::uint8_t;

constexpr std::array<uint8_t, 8> kSignature = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr Colour kVoid = {224, 224, 192};  // VOC's colour of ignored pixels.
constexpr int kIndexed = 3;

struct Header {
    uint32_t height = 0;
    uint32_t width = 0;
    int depth = 0;
    int colour = 0;

    // 0 grey, 2 RGB, 3 indexed, 4 grey and alpha, 6 RGBA.
    int channels() const {
        constexpr std::array<int, 7> all = {1, 0, 3, 1, 2, 0, 4};
        return all[static_cast<size_t>(colour)];
    }
    size_t row_bytes() const { return (size_t{width} * static_cast<size_t>(channels() * depth) + 7) / 8; }
    size_t pixel_bytes() const { return std::max<size_t>(1, static_cast<size_t>(channels() * depth) / 8); }
};

struct Chunks {
    Header header;
    Bytes palette;
    Bytes packed;
};

uint32_t u32(const uint8_t* at) {
    return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
}

void put_u32(Bytes& out, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) {
        out.push_back(static_cast<uint8_t>(value >> shift));
    }
}

Header read_header(const uint8_t* body, size_t size) {
    if (size != 13) {
        throw std::runtime_error("its header is damaged");
    }
    Header header{u32(body + 4), u32(body), body[8], body[9]};
    const bool is_small = header.depth == 1 || header.depth == 2 || header.depth == 4;
    const bool is_known = header.colour <= 6 && header.channels() > 0 &&
                          (header.depth == 8 || (header.depth == 16 && header.colour != kIndexed) ||
                           (is_small && (header.colour == 0 || header.colour == kIndexed)));
    if (!is_known || body[10] != 0 || body[11] != 0) {
        throw std::runtime_error("its header is damaged");
    }
    if (body[12] != 0) {
        throw std::runtime_error("it is interlaced");
    }
    return header;
}

Chunks read_chunks(const Bytes& content) {
    Chunks chunks;
    for (size_t at = kSignature.size(); content.size() - at >= 12;) {
        const size_t size = u32(content.data() + at);
        if (size > content.size() - at - 12) {
            break;
        }
        const uint8_t* kind = content.data() + at + 4;
        const uint8_t* body = kind + 4;
        if (!kIsFuzzed && crc32_of(kind, size + 4) != u32(body + size)) {
            throw std::runtime_error("a chunk of it is damaged");
        }
        const std::string name(kind, body);
        if (name == "IHDR") {
            chunks.header = read_header(body, size);
        } else if (name == "PLTE") {
            chunks.palette.assign(body, body + size);
        } else if (name == "IDAT") {
            chunks.packed.insert(chunks.packed.end(), body, body + size);
        } else if (name == "IEND") {
            return chunks;
        }
        at += size + 12;
    }
    throw std::runtime_error("it is truncated");
}

uint8_t paeth(int left, int above, int corner) {
    const int to_left = std::abs(above - corner);
    const int to_above = std::abs(left - corner);
    const int to_corner = std::abs(left + above - 2 * corner);
    const int nearest = to_left <= to_above && to_left <= to_corner ? left
                        : to_above <= to_corner                     ? above
                                                                    : corner;
    return static_cast<uint8_t>(nearest);
}

uint8_t predicted(int filter, uint8_t left, uint8_t above, uint8_t corner) {
    switch (filter) {
        case 0: return 0;
        case 1: return left;
        case 2: return above;
        case 3: return static_cast<uint8_t>((left + above) / 2);
        case 4: return paeth(left, above, corner);
        default: throw std::runtime_error("a row of it is damaged");
    }
}

// Rows without their filters, in place of the rows with them.
void unfilter(Bytes& rows, const Header& header) {
    const size_t step = header.row_bytes() + 1;
    const size_t pixel = header.pixel_bytes();
    for (size_t y = 0; y < header.height; ++y) {
        uint8_t* row = rows.data() + y * step + 1;
        const uint8_t* above = y > 0 ? row - step : nullptr;
        for (size_t i = 0; i < header.row_bytes(); ++i) {
            const bool is_first = i < pixel;
            const auto up = above != nullptr ? above[i] : uint8_t{0};
            const auto corner = above != nullptr && !is_first ? above[i - pixel] : uint8_t{0};
            const auto left = is_first ? uint8_t{0} : row[i - pixel];
            row[i] = static_cast<uint8_t>(row[i] + predicted(row[-1], left, up, corner));
        }
    }
}

// Sample `index` of a row; the upper byte of 16 bits, as it lies below 8.
int sample(const uint8_t* row, size_t index, int depth) {
    if (depth >= 8) {
        return row[index * static_cast<size_t>(depth) / 8];
    }
    const size_t bit = index * static_cast<size_t>(depth);
    const auto shift = 8 - static_cast<size_t>(depth) - bit % 8;
    return (row[bit / 8] >> shift) & ((1 << depth) - 1);
}

void put_pixel(const uint8_t* row, size_t x, const Chunks& chunks, uint8_t* out) {
    const Header& header = chunks.header;
    const auto channels = static_cast<size_t>(header.channels());
    if (header.colour == kIndexed) {
        const auto entry = static_cast<size_t>(sample(row, x, header.depth)) * 3;
        if (entry + 3 > chunks.palette.size()) {
            throw std::runtime_error("a pixel of it has no colour");
        }
        std::copy_n(chunks.palette.data() + entry, 3, out);
        return;
    }
    for (size_t c = 0; c < 3; ++c) {
        const int value = sample(row, x * channels + (channels < 3 ? 0 : c), header.depth);
        out[c] = static_cast<uint8_t>(header.depth < 8 ? value * 255 / ((1 << header.depth) - 1) : value);
    }
}

void put_chunk(Bytes& out, const std::string& kind, const Bytes& body) {
    put_u32(out, static_cast<uint32_t>(body.size()));
    const size_t start = out.size();
    out.insert(out.end(), kind.begin(), kind.end());
    out.insert(out.end(), body.begin(), body.end());
    put_u32(out, crc32_of(out.data() + start, out.size() - start));
}

Bytes palette_chunk(const Bytes& labels, const std::vector<Colour>& palette) {
    const size_t largest = labels.empty() ? 0 : *std::max_element(labels.begin(), labels.end());
    Bytes body;
    for (size_t id = 0; id < std::max(palette.size(), largest + 1); ++id) {
        const Colour& colour = id < palette.size() ? palette[id] : kVoid;
        body.insert(body.end(), colour.begin(), colour.end());
    }
    return body;
}

}  // namespace

bool is_png(const Bytes& content) {
    return content.size() >= kSignature.size() &&
           std::equal(kSignature.begin(), kSignature.end(), content.begin());
}

Picture decode_png(const Bytes& content) {
    const Chunks chunks = read_chunks(content);
    const Header& header = chunks.header;
    const Size size = checked_size(header.height, header.width);
    constexpr size_t zlib_header = 2;
    if (chunks.packed.size() < zlib_header) {
        throw std::runtime_error("it holds no pixels");
    }
    Bytes rows = inflate(chunks.packed.data() + zlib_header, chunks.packed.size() - zlib_header,
                         header.height * (header.row_bytes() + 1));
    unfilter(rows, header);
    Picture picture = empty_picture(size);
    uint8_t* out = picture.pixels.data();
    for (size_t y = 0; y < header.height; ++y) {
        const uint8_t* row = rows.data() + y * (header.row_bytes() + 1) + 1;
        for (size_t x = 0; x < header.width; ++x, out += 3) {
            put_pixel(row, x, chunks, out);
        }
    }
    return picture;
}

Bytes encode_labels(Size size, const Bytes& labels, const std::vector<Colour>& palette) {
    const auto width = static_cast<size_t>(size.width);
    Bytes rows;
    for (size_t first = 0; first < labels.size(); first += width) {
        rows.push_back(0);  // No filter.
        rows.insert(rows.end(), labels.begin() + static_cast<std::ptrdiff_t>(first),
                    labels.begin() + static_cast<std::ptrdiff_t>(first + width));
    }
    Bytes header;
    put_u32(header, static_cast<uint32_t>(size.width));
    put_u32(header, static_cast<uint32_t>(size.height));
    header.insert(header.end(), {8, kIndexed, 0, 0, 0});
    Bytes png(kSignature.begin(), kSignature.end());
    put_chunk(png, "IHDR", header);
    put_chunk(png, "PLTE", palette_chunk(labels, palette));
    put_chunk(png, "IDAT", zlib_compress(rows, width + 1));
    put_chunk(png, "IEND", {});
    return png;
}

}  // namespace hp
