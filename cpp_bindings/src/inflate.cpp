#include "inflate.hpp"

#include <array>
#include <stdexcept>

namespace hp {
namespace {

using std::size_t;
using std::uint16_t;
using std::uint8_t;

constexpr int kMaxBits = 15;
constexpr int kEndOfBlock = 256;
constexpr std::array<uint16_t, 29> kLength = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                              31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
constexpr std::array<uint8_t, 29> kLengthBits = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                                 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
constexpr std::array<uint16_t, 30> kDistance = {
    1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
    193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
constexpr std::array<uint8_t, 30> kDistanceBits = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                                   6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};
constexpr std::array<uint8_t, 19> kCodeOrder = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                                11, 4,  12, 3, 13, 2, 14, 1, 15};

[[noreturn]] void damaged() {
    throw std::runtime_error("the compressed data is damaged");
}

// Bits from the lowest of each byte on.
class BitReader {
public:
    BitReader(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    int bit() {
        if (held_ == 0) {
            if (at_ == size_) {
                damaged();
            }
            byte_ = data_[at_++];
            held_ = 8;
        }
        const int value = byte_ & 1;
        byte_ = static_cast<uint8_t>(byte_ >> 1);
        --held_;
        return value;
    }

    int bits(int count) {
        int value = 0;
        for (int i = 0; i < count; ++i) {
            value |= bit() << i;
        }
        return value;
    }

    // The next `count` whole bytes.
    const uint8_t* bytes(size_t count) {
        held_ = 0;
        if (size_ - at_ < count) {
            damaged();
        }
        at_ += count;
        return data_ + at_ - count;
    }

private:
    const uint8_t* data_;
    size_t size_;
    size_t at_ = 0;
    uint8_t byte_ = 0;
    int held_ = 0;
};

// Canonical Huffman codes: how many there are of each length, and their symbols in order.
class Codes {
public:
    Codes(const uint8_t* lengths, size_t count) {
        for (size_t i = 0; i < count; ++i) {
            ++count_[lengths[i]];
        }
        count_[0] = 0;
        std::array<int, kMaxBits + 2> first{};
        for (size_t length = 1; length <= kMaxBits; ++length) {
            first[length + 1] = first[length] + count_[length];
        }
        symbols_.resize(static_cast<size_t>(first[kMaxBits + 1]));
        for (size_t i = 0; i < count; ++i) {
            if (lengths[i] != 0) {
                symbols_[static_cast<size_t>(first[lengths[i]]++)] = static_cast<uint16_t>(i);
            }
        }
    }

    int read(BitReader& in) const {
        int code = 0;
        int first = 0;
        int index = 0;
        for (size_t length = 1; length <= kMaxBits; ++length) {
            code |= in.bit();
            if (code - first < count_[length]) {
                return symbols_[static_cast<size_t>(index + code - first)];
            }
            index += count_[length];
            first = (first + count_[length]) << 1;
            code <<= 1;
        }
        damaged();
    }

private:
    std::array<int, kMaxBits + 1> count_{};
    std::vector<uint16_t> symbols_;
};

struct Output {
    Bytes bytes;
    size_t limit;

    void put(uint8_t byte) {
        if (bytes.size() == limit) {
            damaged();
        }
        bytes.push_back(byte);
    }

    void repeat(size_t distance, size_t length) {
        if (distance > bytes.size()) {
            damaged();
        }
        for (size_t i = 0; i < length; ++i) {
            put(bytes[bytes.size() - distance]);
        }
    }
};

void stored_block(BitReader& in, Output& out) {
    const uint8_t* head = in.bytes(4);
    const int size = head[0] | head[1] << 8;
    if ((size ^ 0xFFFF) != (head[2] | head[3] << 8)) {
        damaged();
    }
    const uint8_t* from = in.bytes(static_cast<size_t>(size));
    for (int i = 0; i < size; ++i) {
        out.put(from[i]);
    }
}

void coded_block(BitReader& in, const Codes& literals, const Codes& distances, Output& out) {
    for (int symbol = literals.read(in); symbol != kEndOfBlock; symbol = literals.read(in)) {
        if (symbol < kEndOfBlock) {
            out.put(static_cast<uint8_t>(symbol));
            continue;
        }
        const auto kind = static_cast<size_t>(symbol - kEndOfBlock - 1);
        if (kind >= kLength.size()) {
            damaged();
        }
        const int length = kLength[kind] + in.bits(kLengthBits[kind]);
        const auto far = static_cast<size_t>(distances.read(in));
        if (far >= kDistance.size()) {
            damaged();
        }
        const int distance = kDistance[far] + in.bits(kDistanceBits[far]);
        out.repeat(static_cast<size_t>(distance), static_cast<size_t>(length));
    }
}

void fixed_block(BitReader& in, Output& out) {
    std::array<uint8_t, 288> lengths{};
    for (size_t i = 0; i < lengths.size(); ++i) {
        lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    }
    std::array<uint8_t, 30> distances{};
    distances.fill(5);
    coded_block(in, Codes(lengths.data(), lengths.size()), Codes(distances.data(), distances.size()), out);
}

// Code lengths of literals and distances, themselves run-length and Huffman coded.
Bytes read_lengths(BitReader& in, const Codes& codes, size_t count) {
    Bytes lengths;
    while (lengths.size() < count) {
        const int symbol = codes.read(in);
        if (symbol < 16) {
            lengths.push_back(static_cast<uint8_t>(symbol));
            continue;
        }
        if (symbol == 16 && lengths.empty()) {
            damaged();
        }
        const uint8_t value = symbol == 16 ? lengths.back() : uint8_t{0};
        const int times = symbol == 16 ? 3 + in.bits(2) : symbol == 17 ? 3 + in.bits(3) : 11 + in.bits(7);
        lengths.insert(lengths.end(), static_cast<size_t>(times), value);
    }
    if (lengths.size() != count) {
        damaged();
    }
    return lengths;
}

void dynamic_block(BitReader& in, Output& out) {
    const auto literals = static_cast<size_t>(in.bits(5) + 257);
    const auto distances = static_cast<size_t>(in.bits(5) + 1);
    const auto given = static_cast<size_t>(in.bits(4) + 4);
    std::array<uint8_t, 19> own{};
    for (size_t i = 0; i < given; ++i) {
        own[kCodeOrder[i]] = static_cast<uint8_t>(in.bits(3));
    }
    const Bytes lengths = read_lengths(in, Codes(own.data(), own.size()), literals + distances);
    coded_block(in, Codes(lengths.data(), literals), Codes(lengths.data() + literals, distances), out);
}

}  // namespace

Bytes inflate(const uint8_t* data, size_t data_size, size_t size) {
    BitReader in(data, data_size);
    Output out{{}, size};
    for (bool is_last = false; !is_last;) {
        is_last = in.bit() == 1;
        const int kind = in.bits(2);
        if (kind == 3) {
            damaged();
        }
        (kind == 0 ? stored_block : kind == 1 ? fixed_block : dynamic_block)(in, out);
    }
    if (out.bytes.size() != size) {
        damaged();
    }
    return std::move(out.bytes);
}

}  // namespace hp
