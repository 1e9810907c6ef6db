// Photo in, parts out: the bundles of hp-export from C++, with the labels that Python gives.
//
//     #include <hp/parser.hpp>
//
//     #include <cstdio>
//
//     int main(int, char** words) {
//         try {
//             hp::Options options;
//             options.num_threads = 2;
//             const hp::Parser parser = hp::Parser::load(words[1], options);  // A folder, or "cihp".
//
//             const std::vector<std::uint8_t> pixels(480 * 640 * 3, 128);  // Your photo: RGB, upright.
//             const hp::Result result = parser.parse({pixels.data(), {480, 640}});
//
//             for (const auto& [part, area] : result.areas()) {
//                 std::printf("%s %lld px\n", part.c_str(), static_cast<long long>(area));
//             }
//         } catch (const hp::HpError& error) {
//             std::fprintf(stderr, "%s: %s\n", error.kind(), error.what());
//             return error.exit_code();
//         }
//     }
//
// Build it with CMake, where `find_package(hp_sdk)` gives the target `hp_sdk::hp_sdk`, or with
// `pkg-config --cflags --libs hp_sdk`.
//
// Models.  A bundle is a folder with bundle.json, as hp-export writes it.  load() takes its path, the
// name of a model added with hp-models, the name of a bundle in the folder of shipped ones, or the name
// of a head of the bundle `universal` there ("cihp").  That folder is Options::bundles, else what the
// environment variable HP_BUNDLES says, else where the library was installed.
//
// Runtimes.  ONNX Runtime is looked for when a model is loaded: Options::onnxruntime, the environment
// variable HP_ONNXRUNTIME, or the loader's own search for libonnxruntime.so, in this order; the library
// of the wheel `onnxruntime` serves as well as the distribution's.  OpenVINO is linked where the library
// was built with it.  TensorRT, where the library was built with its headers, is looked for by the loader
// (libnvinfer, libcuda, libnvrtc); there photos are fitted and labelled on the GPU, and timing.network_ms
// holds all steps.
//
// Threads.  One Parser serves a whole program: any thread may call any const member function at any
// time.  Moving, assigning and destroying it must not overlap with a call.
//
// Steps, named as in Python: preprocess fits a photo into the network's input, a backend runs the
// network, tta merges several views, postprocess makes labels in the photo's own pixels.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hp/domain.hpp"
#include "hp/errors.hpp"
#include "hp/export.hpp"
#include "hp/image.hpp"
#include "hp/result.hpp"

namespace hp {

// How to open a model.
struct Options {
    std::string backend = "auto";    // "auto", "tensorrt", "onnxruntime", "openvino".
    std::string device = "auto";     // "auto", "cpu", "cuda", "cuda:0"; "GPU", "NPU" (OpenVINO).
    std::string precision = "auto";  // One the bundle holds, or "bf16", "fp16" (OpenVINO).
    std::string head;                // Label domain; empty for "cihp", or else the first there is.
    std::string tta = "none";        // "none", "ms", "graphonomy", "schnet", or each with "+flip"; "flip".
    int batch_size = 0;              // Network inputs at once; 0 takes the bundle's own number.
    int num_threads = 0;             // Threads of the network; 0 leaves the choice to the runtime.
    bool allow_fallback = false;     // Accept the CPU where the device asked for is not there.
    std::string onnxruntime;         // Path of libonnxruntime; see above.
    std::string bundles;             // Folder of shipped bundles; see above.
};

// What to answer about a photo.
struct Request {
    std::optional<std::string> tta;  // Instead of the one the parser was loaded with.
    bool confidence = false;         // Also the winner's probability per pixel.
};

// How a machine reproduces the golden labels of a bundle.
struct SelfTest {
    std::string backend;
    std::string provider;
    std::map<std::string, double> agreement;  // Head, part of the pixels with the golden label.
};

class HP_API Parser {
public:
    // Find a bundle, check its files and open it.
    //
    // Throws ModelNotFound (no such model), other ModelErrors (the bundle or a file of it is damaged),
    // BackendError (the runtime or the device is not there) or ConfigError (an option is not allowed).
    static Parser load(const std::string& model = "cihp", const Options& options = {});

    Parser(Parser&& other) noexcept;
    Parser& operator=(Parser&& other) noexcept;
    Parser(const Parser&) = delete;
    Parser& operator=(const Parser&) = delete;
    ~Parser();

    // The parts of one photo, or of several in batches.
    //
    // Throws InputError (no usable photo), ConfigError (the request) or BackendError (the runtime).
    Result parse(const ImageView& image, const Request& request = {}) const;
    std::vector<Result> parse(const std::vector<ImageView>& images, const Request& request = {}) const;

    // Several label domains from one pass of the network, by head.  Throws UnknownHead, too.
    std::map<std::string, Result> parse_heads(const ImageView& image, const std::vector<std::string>& heads,
                                              const Request& request = {}) const;

    // Parse the golden picture of the bundle on this machine and compare the labels of every head.
    //
    // Throws VerificationFailed (too many pixels differ), or ChecksumMismatch or CorruptArtifact (there
    // is no golden sample that can be read).
    SelfTest selftest() const;

    const std::string& head() const;
    std::vector<std::string> heads() const;
    // What the labels of parse() mean.
    const Domain& domain() const;
    // Of any head; throws UnknownHead.
    const Domain& domain(const std::string& head) const;

private:
    class Impl;
    explicit Parser(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace hp
