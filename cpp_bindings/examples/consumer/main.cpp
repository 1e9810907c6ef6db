// The example of hp/parser.hpp, as a program of its own.
#include <hp/parser.hpp>

#include <cstdio>

int main(int, char** words) {
    try {
        hp::Options options;
        options.num_threads = 2;
        const hp::Parser parser = hp::Parser::load(words[1], options);  // A folder, or "cihp".

        const std::vector<std::uint8_t> pixels(480 * 640 * 3, 128);  // Your photo: RGB, upright.
        const hp::Result result = parser.parse({pixels.data(), {480, 640}});

        for (const auto& [part, area] : result.areas()) {
            std::printf("%s %lld px\n", part.c_str(), static_cast<long long>(area));
        }
    } catch (const hp::HpError& error) {
        std::fprintf(stderr, "%s: %s\n", error.kind(), error.what());
        return error.exit_code();
    }
}
