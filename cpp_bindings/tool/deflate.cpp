// DEFLATE (RFC 1951) with fixed codes, for label maps: long runs, and rows like the row above.
#include <algorithm>

#include "pictures.hpp"

namespace hp {
namespace {

using std::size_t;
using std::uint32_t;
using std::uint8_t;

constexpr size_t kWindow = 32768;
constexpr size_t kLongest = 258;
constexpr size_t kShortest = 3;

class BitWriter {
public:
    explicit BitWriter(Bytes& out) : out_(out) {}

    void bits(uint32_t value, int count) {
        held_ |= value << count_;
        for (count_ += count; count_ >= 8; count_ -= 8, held_ >>= 8) {
            out_.push_back(static_cast<uint8_t>(held_));
        }
    }

    // Huffman codes go from their highest bit on.
    void code(uint32_t value, int count) {
        for (int i = count - 1; i >= 0; --i) {
            bits((value >> i) & 1, 1);
        }
    }

    void flush() { bits(0, (8 - count_) % 8); }

private:
    Bytes& out_;
    uint32_t held_ = 0;
    int count_ = 0;
};

void put_symbol(BitWriter& out, uint32_t symbol) {
    if (symbol < 144) {
        out.code(0x30 + symbol, 8);
    } else if (symbol < 256) {
        out.code(0x190 + symbol - 144, 9);
    } else if (symbol < 280) {
        out.code(symbol - 256, 7);
    } else {
        out.code(0xC0 + symbol - 280, 8);
    }
}

// Lengths and distances are groups of 2^extra values; each power of two has `per_power` groups.
struct Group {
    uint32_t number;
    uint32_t rest;
    int extra;
};

Group group_of(uint32_t value, uint32_t per_power) {
    uint32_t first = 0;
    for (uint32_t number = 0;; ++number) {
        const int extra = number < 2 * per_power ? 0 : static_cast<int>(number / per_power) - 1;
        if (value < first + (1U << extra)) {
            return {number, value - first, extra};
        }
        first += 1U << extra;
    }
}

void put_repeat(BitWriter& out, size_t length, size_t distance) {
    if (length == kLongest) {
        put_symbol(out, 285);
    } else {
        const Group group = group_of(static_cast<uint32_t>(length - kShortest), 4);
        put_symbol(out, 257 + group.number);
        out.bits(group.rest, group.extra);
    }
    const Group far = group_of(static_cast<uint32_t>(distance - 1), 2);
    out.code(far.number, 5);
    out.bits(far.rest, far.extra);
}

size_t match_length(const Bytes& content, size_t at, size_t distance) {
    if (distance > at || distance > kWindow) {
        return 0;
    }
    const size_t longest = std::min(kLongest, content.size() - at);
    size_t length = 0;
    while (length < longest && content[at + length] == content[at + length - distance]) {
        ++length;
    }
    return length;
}

uint32_t adler32(const Bytes& content) {
    uint32_t a = 1;
    uint32_t b = 0;
    for (const uint8_t byte : content) {
        a = (a + byte) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

}  // namespace

Bytes zlib_compress(const Bytes& content, size_t row_bytes) {
    Bytes packed = {0x78, 0x01};
    BitWriter out(packed);
    out.bits(1, 1);  // The last block,
    out.bits(1, 2);  // of fixed codes.
    for (size_t at = 0; at < content.size();) {
        const size_t above = match_length(content, at, row_bytes);
        const size_t before = match_length(content, at, 1);
        const size_t length = std::max(above, before);
        if (length < kShortest) {
            put_symbol(out, content[at++]);
            continue;
        }
        put_repeat(out, length, above >= before ? row_bytes : 1);
        at += length;
    }
    put_symbol(out, 256);
    out.flush();
    const uint32_t sum = adler32(content);
    for (int shift = 24; shift >= 0; shift -= 8) {
        packed.push_back(static_cast<uint8_t>(sum >> shift));
    }
    return packed;
}

}  // namespace hp
