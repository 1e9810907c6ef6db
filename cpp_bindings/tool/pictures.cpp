#include "pictures.hpp"

#include <fstream>
#include <stdexcept>

#include "hp/errors.hpp"

namespace hp {
namespace {

constexpr std::uint64_t kMaxPixels = 200'000'000;

}  // namespace

Size checked_size(std::uint32_t height, std::uint32_t width) {
    const std::uint64_t pixels = std::uint64_t{height} * width;
    if (pixels == 0 || pixels > kMaxPixels || height > 1U << 20 || width > 1U << 20) {
        throw std::runtime_error("it says it is " + std::to_string(height) + " x " + std::to_string(width) +
                                 " pixels");
    }
    return {static_cast<int>(height), static_cast<int>(width)};
}

Picture empty_picture(Size size) {
    const auto pixels = static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
    return {size, Bytes(pixels * 3)};
}

Picture decode_picture(const Bytes& content, const std::string& name) {
    try {
        return is_png(content) ? decode_png(content) : decode_pnm(content);
    } catch (const std::runtime_error& problem) {
        throw InputError("'" + name + "' cannot be read as a picture: " + problem.what() +
                         "; give PNG (not interlaced) or PNM");
    }
}

void write_file(const std::filesystem::path& path, const Bytes& content) {
    const std::filesystem::path part = path.string() + ".part";
    std::ofstream file(part, std::ios::binary);
    file.write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
    file.close();
    std::error_code problem;
    if (file) {
        std::filesystem::rename(part, path, problem);
    }
    if (!file || problem) {
        std::filesystem::remove(part, problem);
        throw ConfigError("cannot write " + quoted(path) + "; choose a folder that can be written to");
    }
}

}  // namespace hp
