#include "files.hpp"

#include <fstream>

#include "hp/errors.hpp"

namespace hp {

Bytes read_bytes(const std::filesystem::path& path) {
    std::error_code problem;
    const auto size = std::filesystem::file_size(path, problem);
    std::ifstream file(path, std::ios::binary);
    if (problem || !file) {
        throw CorruptArtifact("cannot read " + quoted(path) + "; check the path and its permissions");
    }
    Bytes content(static_cast<std::size_t>(size));
    file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(content.size()));
    if (static_cast<std::size_t>(file.gcount()) != content.size()) {
        throw CorruptArtifact("cannot read " + quoted(path) + " to its end; fetch it again");
    }
    return content;
}

std::string quoted(const std::filesystem::path& path) {
    return "'" + path.string() + "'";
}

}  // namespace hp
