// PBM's siblings with 8 bits: P2, P3, P5, P6.
#include <cctype>
#include <stdexcept>

#include "pictures.hpp"

namespace hp {
namespace {

// Words and numbers between spaces and comments.
class Words {
public:
    explicit Words(const Bytes& content) : content_(content) {}

    std::uint32_t number() {
        skip_space();
        std::uint32_t value = 0;
        const std::size_t start = at_;
        for (; at_ < content_.size() && std::isdigit(content_[at_]) != 0; ++at_) {
            value = value * 10 + (content_[at_] - '0');
            if (value > 1U << 24) {
                throw std::runtime_error("a number in it is too large");
            }
        }
        if (at_ == start) {
            throw std::runtime_error("it ends early, or holds something else than numbers");
        }
        return value;
    }

    void skip(std::size_t count) { at_ += count; }
    std::size_t at() const { return at_; }

private:
    void skip_space() {
        while (at_ < content_.size() && (std::isspace(content_[at_]) != 0 || content_[at_] == '#')) {
            if (content_[at_] == '#') {
                while (at_ < content_.size() && content_[at_] != '\n') {
                    ++at_;
                }
            } else {
                ++at_;
            }
        }
    }

    const Bytes& content_;
    std::size_t at_ = 0;
};

std::uint8_t scaled(std::uint32_t value, std::uint32_t largest) {
    if (value > largest) {
        throw std::runtime_error("a value in it is above its largest");
    }
    return static_cast<std::uint8_t>((value * 255 + largest / 2) / largest);
}

}  // namespace

Picture decode_pnm(const Bytes& content) {
    const char kind = content.size() > 2 && content[0] == 'P' ? static_cast<char>(content[1]) : '0';
    const bool is_text = kind == '2' || kind == '3';
    const bool is_grey = kind == '2' || kind == '5';
    if (!is_text && kind != '5' && kind != '6') {
        throw std::runtime_error("it is neither PNG nor PNM (P2, P3, P5, P6)");
    }
    Words words(content);
    words.skip(2);
    const std::uint32_t width = words.number();
    const std::uint32_t height = words.number();
    const std::uint32_t largest = words.number();
    if (largest < 1 || largest > 255) {
        throw std::runtime_error("its largest value is " + std::to_string(largest) + ", not 1 to 255");
    }
    const Size size = checked_size(height, width);
    const std::size_t samples = std::size_t{height} * width * (is_grey ? 1 : 3);
    words.skip(1);
    if (!is_text && (words.at() > content.size() || content.size() - words.at() < samples)) {
        throw std::runtime_error("it is truncated");
    }
    if (is_text && samples > content.size()) {
        throw std::runtime_error("it is truncated");
    }
    Picture picture = empty_picture(size);
    for (std::size_t i = 0; i < picture.pixels.size(); ++i) {
        if (is_grey && i % 3 != 0) {
            picture.pixels[i] = picture.pixels[i - 1];
            continue;
        }
        const std::size_t sample = is_grey ? i / 3 : i;
        picture.pixels[i] = scaled(is_text ? words.number() : content[words.at() + sample], largest);
    }
    return picture;
}

}  // namespace hp
