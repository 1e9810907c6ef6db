// SHA-256 (FIPS 180-4) and CRC-32 (ISO 3309).
#include <array>
#include <cstddef>

#include "files.hpp"

namespace hp {
namespace {

using std::size_t;
using std::uint32_t;
using std::uint8_t;
using State = std::array<uint32_t, 8>;

constexpr size_t kBlock = 64;
constexpr State kStart = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr uint32_t turn(uint32_t value, int by) {
    return (value >> by) | (value << (32 - by));
}

std::array<uint32_t, 64> schedule(const uint8_t* block) {
    std::array<uint32_t, 64> w{};
    for (size_t i = 0; i < 16; ++i) {
        w[i] = uint32_t{block[4 * i]} << 24 | uint32_t{block[4 * i + 1]} << 16 |
               uint32_t{block[4 * i + 2]} << 8 | uint32_t{block[4 * i + 3]};
    }
    for (size_t i = 16; i < w.size(); ++i) {
        const uint32_t s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >> 3);
        const uint32_t s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    return w;
}

void compress(State& state, const uint8_t* block) {
    const auto w = schedule(block);
    auto [a, b, c, d, e, f, g, h] = state;
    for (size_t i = 0; i < w.size(); ++i) {
        const uint32_t s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
        const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
        const uint32_t s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
        const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const State step = {a, b, c, d, e, f, g, h};
    for (size_t i = 0; i < state.size(); ++i) {
        state[i] += step[i];
    }
}

// What is left of the content, a one bit, zeros and the length in bits.
Bytes last_blocks(const Bytes& content) {
    const size_t rest = content.size() % kBlock;
    Bytes end(content.end() - static_cast<std::ptrdiff_t>(rest), content.end());
    end.push_back(0x80);
    end.resize(rest < kBlock - 8 ? kBlock : 2 * kBlock);
    const std::uint64_t bits = std::uint64_t{content.size()} * 8;
    for (size_t i = 0; i < 8; ++i) {
        end[end.size() - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
    }
    return end;
}

std::array<uint32_t, 256> crc_table() {
    std::array<uint32_t, 256> table{};
    for (uint32_t n = 0; n < table.size(); ++n) {
        uint32_t value = n;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value & 1) ? 0xEDB88320U ^ (value >> 1) : value >> 1;
        }
        table[n] = value;
    }
    return table;
}

}  // namespace

std::string sha256_of(const Bytes& content) {
    State state = kStart;
    for (size_t at = 0; at + kBlock <= content.size(); at += kBlock) {
        compress(state, content.data() + at);
    }
    const Bytes end = last_blocks(content);
    for (size_t at = 0; at < end.size(); at += kBlock) {
        compress(state, end.data() + at);
    }
    std::string text;
    for (const uint32_t word : state) {
        for (int shift = 28; shift >= 0; shift -= 4) {
            text += "0123456789abcdef"[(word >> shift) & 15];
        }
    }
    return text;
}

uint32_t crc32_of(const uint8_t* data, size_t size) {
    static const auto table = crc_table();
    uint32_t crc = 0xFFFFFFFFU;
    for (size_t i = 0; i < size; ++i) {
        crc = table[(crc ^ data[i]) & 0xFF] ^ (crc >> 8);
    }
    return ~crc;
}

}  // namespace hp
