// Files read whole, and what identifies them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace hp {

using Bytes = std::vector<std::uint8_t>;

// Throws CorruptArtifact where the file cannot be read.
Bytes read_bytes(const std::filesystem::path& path);

// 64 hex digits.
std::string sha256_of(const Bytes& content);

// Fuzzers cannot guess checksums; with this macro, which libFuzzer knows too, they need not.
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
inline constexpr bool kIsFuzzed = true;
#else
inline constexpr bool kIsFuzzed = false;
#endif

// As zip and PNG store it.
std::uint32_t crc32_of(const std::uint8_t* data, std::size_t size);

// The path in quotes, as messages show it.
std::string quoted(const std::filesystem::path& path);

}  // namespace hp
