#include "npz.hpp"

#include <algorithm>
#include <stdexcept>

#include "hp/errors.hpp"
#include "inflate.hpp"

namespace hp {
namespace {

using std::size_t;
using std::uint32_t;

// Layouts of a zip file (APPNOTE 4.3): where its records begin and how long they are.
constexpr uint32_t kLocal = 0x04034b50;
constexpr uint32_t kCentral = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr size_t kLocalSize = 30;
constexpr size_t kCentralSize = 46;
constexpr size_t kEndSize = 22;
constexpr size_t kMaxArray = size_t{256} << 20;
constexpr int kMaxSide = 100'000'000;

struct Member {
    std::string name;
    uint32_t method;
    uint32_t crc;
    size_t packed;
    size_t size;
    size_t offset;
};

// Whole numbers, lowest byte first; never beyond the end.
struct Reader {
    const Bytes& content;

    const std::uint8_t* at(size_t offset, size_t size) const {
        if (offset > content.size() || content.size() - offset < size) {
            throw std::runtime_error("it is truncated");
        }
        return content.data() + offset;
    }
    uint32_t u16(size_t offset) const {
        const std::uint8_t* p = at(offset, 2);
        return uint32_t{p[0]} | uint32_t{p[1]} << 8;
    }
    uint32_t u32(size_t offset) const { return u16(offset) | u16(offset + 2) << 16; }
};

size_t end_record(const Reader& zip) {
    if (zip.content.size() >= kEndSize) {
        for (size_t at = zip.content.size() - kEndSize + 1; at-- > 0;) {
            if (zip.u32(at) == kEnd) {
                return at;
            }
        }
    }
    throw std::runtime_error("it is no zip file");
}

std::vector<Member> members(const Reader& zip) {
    const size_t end = end_record(zip);
    size_t at = zip.u32(end + 16);
    std::vector<Member> list;
    for (uint32_t left = zip.u16(end + 10); left > 0; --left) {
        zip.at(at, kCentralSize);
        if (zip.u32(at) != kCentral) {
            throw std::runtime_error("its directory is damaged");
        }
        const size_t name_size = zip.u16(at + 28);
        const auto* name = reinterpret_cast<const char*>(zip.at(at + kCentralSize, name_size));
        list.push_back({std::string(name, name_size), zip.u16(at + 10), zip.u32(at + 16), zip.u32(at + 20),
                        zip.u32(at + 24), zip.u32(at + 42)});
        at += kCentralSize + name_size + zip.u16(at + 30) + zip.u16(at + 32);
    }
    return list;
}

Bytes unpacked(const Reader& zip, const Member& member) {
    zip.at(member.offset, kLocalSize);
    if (zip.u32(member.offset) != kLocal || member.size > kMaxArray || member.method % 8 != 0 ||
        member.method > 8) {
        throw std::runtime_error("its member " + member.name + " is damaged");
    }
    const size_t start =
        member.offset + kLocalSize + zip.u16(member.offset + 26) + zip.u16(member.offset + 28);
    const std::uint8_t* data = zip.at(start, member.packed);
    if (member.method == 0 && member.packed != member.size) {
        throw std::runtime_error("its member " + member.name + " is damaged");
    }
    Bytes content =
        member.method == 0 ? Bytes(data, data + member.size) : inflate(data, member.packed, member.size);
    if (!kIsFuzzed && crc32_of(content.data(), content.size()) != member.crc) {
        throw std::runtime_error("its member " + member.name + " is damaged");
    }
    return content;
}

[[noreturn]] void refuse_array() {
    throw std::runtime_error("an array of it is not uint8 in C order");
}

// Whole numbers between commas, such as "224, 224, 3" or "5,".
std::vector<int> numbers_in(const std::string& text) {
    std::vector<int> numbers;
    bool is_inside = false;
    for (const char c : text) {
        if (c >= '0' && c <= '9') {
            if (!is_inside) {
                numbers.push_back(0);
            }
            numbers.back() = std::min(numbers.back(), kMaxSide) * 10 + (c - '0');
        } else if (c != ',' && c != ' ') {
            refuse_array();
        }
        is_inside = c >= '0' && c <= '9';
    }
    return numbers;
}

// The sides in a header such as {'descr': '|u1', 'fortran_order': False, 'shape': (224, 224, 3), }.
std::vector<int> shape_in(const std::string& header) {
    static const std::string start = "{'descr': '|u1', 'fortran_order': False, 'shape': (";
    const auto stop = header.find("), }");
    if (header.compare(0, start.size(), start) != 0 || stop == std::string::npos) {
        refuse_array();
    }
    return numbers_in(header.substr(start.size(), stop - start.size()));
}

Array parse_npy(const Bytes& content) {
    const Reader file{content};
    const std::string magic(reinterpret_cast<const char*>(file.at(0, 8)), 6);
    if (magic != "\x93NUMPY" || content[6] < 1 || content[6] > 2) {
        throw std::runtime_error("a member of it is no array");
    }
    const size_t prefix = content[6] == 1 ? 10 : 12;
    const size_t header_size = content[6] == 1 ? file.u16(8) : file.u32(8);
    const auto* header = reinterpret_cast<const char*>(file.at(prefix, header_size));
    Array array{shape_in(std::string(header, header_size)), {}};
    size_t size = 1;
    for (const int side : array.shape) {
        size = side == 0 || size <= kMaxArray / static_cast<size_t>(side) ? size * static_cast<size_t>(side)
                                                                          : kMaxArray + 1;
    }
    if (size != content.size() - prefix - header_size) {
        throw std::runtime_error("an array of it is truncated");
    }
    array.values.assign(content.end() - static_cast<std::ptrdiff_t>(size), content.end());
    return array;
}

}  // namespace

std::map<std::string, Array> parse_npz(const Bytes& content, const std::string& name) {
    static const std::string suffix = ".npy";
    try {
        const Reader zip{content};
        std::map<std::string, Array> arrays;
        for (const Member& member : members(zip)) {
            const size_t stem = member.name.size() - std::min(member.name.size(), suffix.size());
            if (member.name.substr(stem) != suffix) {
                throw std::runtime_error("it holds " + member.name + ", which is no array");
            }
            arrays[member.name.substr(0, stem)] = parse_npy(unpacked(zip, member));
        }
        return arrays;
    } catch (const std::exception& problem) {
        throw CorruptArtifact("the golden sample " + name + " cannot be read (" + problem.what() +
                              "); fetch the bundle again");
    }
}

}  // namespace hp
