// hp_fuzz_NAME FOLDER COUNT [SEED]: files of a folder, changed at random, COUNT times.
//
// Stands in for libFuzzer where the compiler has none; the same numbers give the same run.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

// What parsers stumble over.
const std::vector<std::string> kWords = {"null",
                                         "true",
                                         "-1",
                                         "0",
                                         "1e999",
                                         "99999999999999999999",
                                         "4294967295",
                                         "2147483648",
                                         "[]",
                                         "{}",
                                         "\"\"",
                                         "\"..\"",
                                         "[[[[[[[[",
                                         "\"\\ud800\"",
                                         "\xff\xff\xff\xff",
                                         std::string(4, '\0'),
                                         "\x80",
                                         "#"};

class Mutator {
public:
    explicit Mutator(unsigned seed) : random_(seed) {}

    std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

    void change(Bytes& bytes) {
        if (bytes.empty()) {
            bytes.push_back('{');
        }
        const std::size_t at = below(bytes.size());
        const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        const std::size_t length = std::min(below(16) + 1, bytes.size() - at);
        const auto stop = place + static_cast<std::ptrdiff_t>(length);
        switch (below(6)) {
            case 0: *place = static_cast<std::uint8_t>(*place ^ (1U << below(8))); break;
            case 1: *place = static_cast<std::uint8_t>(below(256)); break;
            case 2: bytes.erase(place, stop); break;
            case 3: put_word(bytes, at, length); break;
            case 4: copy_part(bytes, at, length); break;
            default: below(8) == 0 ? bytes.resize(at) : put_word(bytes, at, 0);
        }
    }

private:
    // A word instead of the value that begins at the next colon, comma or bracket.
    void put_word(Bytes& bytes, std::size_t at, std::size_t length) {
        const std::string& word = kWords[below(kWords.size())];
        const auto is_border = [](std::uint8_t c) { return c == ':' || c == ',' || c == '['; };
        auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        if (below(2) == 0) {
            place = std::find_if(place, bytes.end(), is_border);
            place += place != bytes.end();
            const auto stop = std::find_if(place, bytes.end(),
                                           [](std::uint8_t c) { return c == ',' || c == '}' || c == ']'; });
            place = bytes.erase(place, stop);
        } else {
            place = bytes.erase(place, place + static_cast<std::ptrdiff_t>(length));
        }
        bytes.insert(place, word.begin(), word.end());
    }

    void copy_part(Bytes& bytes, std::size_t at, std::size_t length) {
        const auto from = bytes.begin() + static_cast<std::ptrdiff_t>(at);
        const Bytes part(from, from + static_cast<std::ptrdiff_t>(length));
        const auto to = bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size()));
        bytes.insert(to, part.begin(), part.end());
    }

    std::mt19937 random_;
};

std::vector<Bytes> read_folder(const char* folder) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    std::vector<Bytes> contents;
    for (const auto& path : paths) {
        std::ifstream file(path, std::ios::binary);
        contents.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    return contents;
}

}  // namespace

int main(int count, char** words) {
    if (count < 3) {
        std::fprintf(stderr, "usage: %s FOLDER COUNT [SEED]\n", words[0]);
        return 2;
    }
    const std::vector<Bytes> seeds = read_folder(words[1]);
    const auto runs = static_cast<std::size_t>(std::atol(words[2]));
    Mutator mutator(count > 3 ? static_cast<unsigned>(std::atol(words[3])) : 1);
    std::size_t accepted = 0;
    for (const Bytes& seed : seeds) {
        if (LLVMFuzzerTestOneInput(seed.data(), seed.size()) != 0) {
            std::fprintf(stderr, "a file of the folder is refused as it is\n");
            return 1;
        }
    }
    for (std::size_t run = 0; run < runs; ++run) {
        Bytes content = seeds[run % seeds.size()];
        for (std::size_t changes = mutator.below(4) + 1; changes > 0; --changes) {
            mutator.change(content);
        }
        accepted += LLVMFuzzerTestOneInput(content.data(), content.size()) == 0;
    }
    std::printf("%zu runs, %zu accepted\n", runs, accepted);
    return 0;
}
