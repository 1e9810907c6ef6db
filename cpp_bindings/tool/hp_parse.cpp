// hp_parse SOURCE... [options]: label maps of photos, as indexed PNG files.
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>

#include "hp/parser.hpp"
#include "pictures.hpp"

namespace {

constexpr const char* kUsage =
    "hp_parse SOURCE... [--model cihp] [-o DIR] [--tta none|ms|graphonomy|schnet[+flip]] [--confidence]\n"
    "         [--backend auto|tensorrt|onnxruntime|openvino] [--device auto|cpu|cuda|GPU|NPU]\n"
    "         [--precision P] [--head NAME] [--threads N] [--batch-size N] [--allow-fallback] [--selftest]\n"
    "\n"
    "Writes DIR/<stem>.labels.png for every photo (PNG or PNM) and prints its parts.  With --confidence\n"
    "also DIR/<stem>.confidence.pgm.  --selftest replays the golden sample instead and needs no SOURCE.\n";

constexpr int kSomeFailed = 7;

struct Command {
    std::vector<std::string> sources;
    std::string model = "cihp";
    std::filesystem::path output = ".";
    hp::Options options;
    hp::Request request;
    bool selftest = false;
    bool help = false;
};

int number_of(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || value < 0 || value > 1'000'000) {
        throw hp::ConfigError(option + " is '" + text + "'; allowed is a whole number from 0");
    }
    return static_cast<int>(value);
}

// Options with a value, and where it goes.
std::map<std::string, std::string*> text_options(Command& command, std::string& output) {
    return {{"--model", &command.model},
            {"-o", &output},
            {"--output", &output},
            {"--backend", &command.options.backend},
            {"--device", &command.options.device},
            {"--precision", &command.options.precision},
            {"--head", &command.options.head},
            {"--tta", &command.options.tta}};
}

Command command_of(const std::vector<std::string>& words) {
    Command command;
    std::string output = ".";
    const auto texts = text_options(command, output);
    const std::map<std::string, int*> numbers = {{"--threads", &command.options.num_threads},
                                                 {"--batch-size", &command.options.batch_size}};
    const std::map<std::string, bool*> flags = {{"--confidence", &command.request.confidence},
                                                {"--allow-fallback", &command.options.allow_fallback},
                                                {"--selftest", &command.selftest},
                                                {"-h", &command.help},
                                                {"--help", &command.help}};
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        const bool takes_value = texts.count(word) > 0 || numbers.count(word) > 0;
        if (takes_value && i + 1 == words.size()) {
            throw hp::ConfigError(word + " needs a value; see --help");
        }
        if (flags.count(word) > 0) {
            *flags.at(word) = true;
        } else if (texts.count(word) > 0) {
            *texts.at(word) = words[++i];
        } else if (numbers.count(word) > 0) {
            *numbers.at(word) = number_of(word, words[++i]);
        } else if (word.size() > 1 && word[0] == '-') {
            throw hp::ConfigError("there is no option " + word + "; see --help");
        } else {
            command.sources.push_back(word);
        }
    }
    command.output = output;
    return command;
}

hp::Picture read_picture(const std::string& source) {
    try {
        return hp::decode_picture(hp::read_bytes(source), source);
    } catch (const hp::CorruptArtifact& error) {
        throw hp::InputError(error.what());
    }
}

hp::Bytes grey_map(hp::Size size, const std::vector<std::uint8_t>& values) {
    const std::string head =
        "P5\n" + std::to_string(size.width) + " " + std::to_string(size.height) + "\n255\n";
    hp::Bytes content(head.begin(), head.end());
    content.insert(content.end(), values.begin(), values.end());
    return content;
}

void parse_one(const hp::Parser& parser, const std::string& source, const Command& command) {
    const hp::Picture picture = read_picture(source);
    const hp::Result result = parser.parse({picture.pixels.data(), picture.size}, command.request);
    const std::string stem = std::filesystem::path(source).stem().string();
    const auto path = command.output / (stem + ".labels.png");
    hp::write_file(path, hp::encode_labels(result.size, result.labels, result.domain->palette));
    if (command.request.confidence) {
        hp::write_file(command.output / (stem + ".confidence.pgm"), grey_map(result.size, result.confidence));
    }
    std::printf("%s: %d x %d px, network %.1f ms:", path.string().c_str(), result.size.height,
                result.size.width, result.timing.network_ms);
    for (const auto& [part, area] : result.areas()) {
        std::printf(" %s %lld", part.c_str(), static_cast<long long>(area));
    }
    std::printf("\n");
}

void tell(const std::exception& error) {
    std::cerr << "hp_parse: " << error.what() << "\n";
}

int parse_all(const hp::Parser& parser, const Command& command) {
    std::error_code problem;
    std::filesystem::create_directories(command.output, problem);
    std::size_t failed = 0;
    int last_code = 0;
    for (const std::string& source : command.sources) {
        try {
            parse_one(parser, source, command);
        } catch (const hp::InputError& error) {
            tell(error);
            last_code = error.exit_code();
            ++failed;
        }
    }
    return failed == 0 || failed == command.sources.size() ? last_code : kSomeFailed;
}

int selftest(const hp::Parser& parser) {
    const hp::SelfTest test = parser.selftest();
    for (const auto& [head, part] : test.agreement) {
        std::printf("%12s  %.4f %% of the golden labels\n", head.c_str(), 100 * part);
    }
    std::printf("%s on %s reproduces the golden sample\n", test.backend.c_str(), test.provider.c_str());
    return 0;
}

int run(const std::vector<std::string>& words) {
    const Command command = command_of(words);
    if (command.help) {
        std::cout << kUsage;
        return 0;
    }
    if (command.sources.empty() && !command.selftest) {
        throw hp::ConfigError("no photo is named; see --help");
    }
    const hp::Parser parser = hp::Parser::load(command.model, command.options);
    return command.selftest ? selftest(parser) : parse_all(parser, command);
}

}  // namespace

int main(int count, char** words) {
    try {
        return run({words + 1, words + count});
    } catch (const hp::HpError& error) {
        tell(error);
        return error.exit_code();
    } catch (const std::exception& error) {
        tell(error);
        return 1;
    }
}
