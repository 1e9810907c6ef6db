#include "gpu/pipeline.hpp"

#include <algorithm>

#include "bundle.hpp"
#include "gpu/tasks.hpp"

namespace hp::gpu {
namespace {

using std::size_t;

constexpr unsigned kBlock[] = {32, 8};  // Pixels of a tile, x and y.
constexpr unsigned kCells = 256;        // Of a block of hp_softmax.

unsigned blocks(size_t pixels, unsigned block) {
    return static_cast<unsigned>((pixels + block - 1) / block);
}

// One launch over images of up to this size.
void launch_tiles(const Gpu& gpu, const std::string& kernel, Size size, size_t images,
                  std::vector<void*> arguments) {
    gpu.launch(kernel,
               {blocks(static_cast<size_t>(size.width), kBlock[0]),
                blocks(static_cast<size_t>(size.height), kBlock[1]), static_cast<unsigned>(images)},
               {kBlock[0], kBlock[1], 1}, std::move(arguments));
}

// A photo in device memory, in whatever order its bytes are.
hp_pixels::Photo photo_at(Address address, const ImageView& image) {
    const Layout& layout = layout_of(image.format);
    return {pointer_to<const unsigned char>(address) + layout.red,
            image.row_bytes,
            layout.bytes,
            layout.green - layout.red,
            image.size.height,
            image.size.width};
}

// The same pixels from right to left, without a copy.
hp_pixels::Photo mirrored(hp_pixels::Photo photo) {
    photo.data += (photo.width - 1) * photo.column;
    photo.column = -photo.column;
    return photo;
}

size_t bytes_of(const ImageView& image) {
    return static_cast<size_t>(image.row_bytes) * static_cast<size_t>(image.size.height);
}

size_t pixels_of(Size size) {
    return static_cast<size_t>(size.height) * static_cast<size_t>(size.width);
}

}  // namespace

// The buffers of one batch.
struct DevicePipeline::Memory {
    Memory(const Gpu& gpu, const Engine& engine) : photos(gpu), input(gpu), labels(gpu), table(gpu) {
        for (const auto& [name, output] : engine.outputs) {
            scores.emplace(name, Buffer(gpu));
        }
    }

    // Where the network reads and writes, for the largest batch.
    Address input_of(const Engine& engine) {
        return input.reserve(static_cast<size_t>(engine.batch_max) * pixels_of(engine.input) * kChannels);
    }
    std::map<std::string, Address> scores_of(const Engine& engine) {
        std::map<std::string, Address> found;
        for (const auto& [name, output] : engine.outputs) {
            found[name] = scores.at(name).reserve(static_cast<size_t>(engine.batch_max) * output.bytes());
        }
        return found;
    }

    Buffer photos;
    Buffer input;
    Buffer labels;
    Buffer table;
    std::map<std::string, Buffer> scores;
};

// Some photos whose views are one batch, on their way.
class DevicePipeline::Chunk {
public:
    Chunk(const DevicePipeline& pipeline, const Bundle& bundle, std::vector<ImageView> images, const Ask& ask)
        : gpu_(*pipeline.gpu_),
          engine_(*pipeline.engine_),
          memory_(*pipeline.memory_),
          bundle_(bundle),
          images_(std::move(images)),
          ask_(ask),
          table_(memory_.table.reserve(
              Table::room(images_.size() * static_cast<size_t>(ask.tta.num_views()), ask.heads.size()))) {
        plan_inputs();
    }

    // Labels (image, head).
    std::vector<std::vector<Labels>> parse() {
        upload_photos();
        const Address image = memory_.input_of(engine_);
        const auto scores = memory_.scores_of(engine_);
        Address fit_tasks = put_fit_tasks();
        const std::vector<Launch> launches = put_label_tasks(scores);
        gpu_.upload(memory_.table.reserve(0), table_.bytes().data(), table_.bytes().size());
        fit(fit_tasks, image);
        const int count = static_cast<int>(inputs_.size());
        engine_.enqueue(std::max(count, engine_.batch_min), image, scores, gpu_);
        for (const Launch& launch : launches) {
            label(launch, scores);
        }
        return download_labels();
    }

private:
    struct Input {
        size_t photo;
        Geometry geometry;
        bool mirrored;
    };
    // The labels of all photos and one head.
    struct Launch {
        std::string output;
        Address tasks;
        Address views;
    };

    // In the order of fit_views().
    void plan_inputs() {
        for (size_t photo = 0; photo < images_.size(); ++photo) {
            for (const double scale : ask_.tta.scales) {
                const Geometry geometry = plan(images_[photo].size, bundle_.input, scale);
                inputs_.push_back({photo, geometry, false});
                if (ask_.tta.flip) {
                    inputs_.push_back({photo, geometry, true});
                }
            }
        }
    }

    void upload_photos() {
        size_t bytes = 0;
        for (const ImageView& image : images_) {
            bytes += bytes_of(image);
        }
        Address at = memory_.photos.reserve(bytes);
        for (const ImageView& image : images_) {
            // The last row may end with its last pixel.
            const auto unused =
                image.row_bytes - std::ptrdiff_t{image.size.width} * layout_of(image.format).bytes;
            gpu_.upload(at, image.data, bytes_of(image) - static_cast<size_t>(unused));
            photos_.push_back(photo_at(at, image));
            at += bytes_of(image);
        }
    }

    Address put_fit_tasks() {
        std::vector<FitTask> tasks;
        for (const Input& input : inputs_) {
            const hp_pixels::Photo& photo = photos_[input.photo];
            const Size content = input.geometry.content;
            tasks.push_back({input.mirrored ? mirrored(photo) : photo,
                             {content.height, content.width, bundle_.input.pad_value}});
        }
        return table_.put(tasks);
    }

    std::vector<Launch> put_label_tasks(const std::map<std::string, Address>& scores) {
        const size_t planes = ask_.confidence ? 2 : 1;
        size_t bytes = 0;
        for (const ImageView& image : images_) {
            bytes += planes * ask_.heads.size() * pixels_of(image.size);
        }
        Address at = memory_.labels.reserve(bytes);
        std::vector<Launch> launches;
        for (const std::string& name : ask_.heads) {
            const HeadSpec& head = bundle_.head(name);
            const Address views = put_views(head, scores.at(head.output));
            std::vector<LabelTask> tasks;
            for (size_t photo = 0; photo < images_.size(); ++photo) {
                tasks.push_back(label_task(photo, head, at));
                at += planes * pixels_of(images_[photo].size);
            }
            launches.push_back({head.output, table_.put(tasks), views});
        }
        return launches;
    }

    Address put_views(const HeadSpec& head, Address scores) {
        const Output& output = engine_.outputs.at(head.output);
        const Address order = ask_.tta.flip ? table_.put(head.domain->flip_perm()) : 0;
        const int stride = engine_.input.height / output.cells.height;
        std::vector<hp_pixels::View> views;
        for (size_t i = 0; i < inputs_.size(); ++i) {
            const Input& input = inputs_[i];
            views.push_back(
                {pointer_to<void>(scores + i * output.bytes()), pointer_to<int>(input.mirrored ? order : 0),
                 static_cast<long long>(pixels_of(output.cells)), output.cells.height, output.cells.width,
                 stride, input.geometry.content.height, input.geometry.content.width, input.mirrored});
        }
        return table_.put(views);
    }

    LabelTask label_task(size_t photo, const HeadSpec& head, Address at) const {
        const Size size = images_[photo].size;
        const int views = ask_.tta.num_views();
        return {pointer_to<unsigned char>(at),
                ask_.confidence ? pointer_to<unsigned char>(at + pixels_of(size)) : nullptr,
                nullptr,
                size.height,
                size.width,
                static_cast<int>(photo) * views,
                views,
                head.domain->num_classes(),
                ask_.tta.gives_logits()};
    }

    void fit(Address tasks, Address image) {
        Size size = engine_.input;
        launch_tiles(gpu_, "hp_fit", size, inputs_.size(), {&tasks, &image, &size.height, &size.width});
    }

    void label(Launch launch, const std::map<std::string, Address>& scores) {
        const Output& output = engine_.outputs.at(launch.output);
        if (!ask_.tta.gives_logits()) {
            softmax(output, scores.at(launch.output));
        }
        Size largest;
        for (const ImageView& image : images_) {
            largest = {std::max(largest.height, image.size.height),
                       std::max(largest.width, image.size.width)};
        }
        const std::string kind = ask_.tta.num_views() > 1 ? "hp_merge_" : "hp_label_";
        launch_tiles(gpu_, kind + (output.is_half ? "half" : "float"), largest, images_.size(),
                     {&launch.tasks, &launch.views});
    }

    // Logits become probabilities, in place.
    void softmax(const Output& output, Address scores) {
        int images = static_cast<int>(inputs_.size());
        int classes = output.classes;
        int cells = static_cast<int>(pixels_of(output.cells));
        const unsigned grid = blocks(inputs_.size() * pixels_of(output.cells), kCells);
        gpu_.launch("hp_softmax", {grid, 1, 1}, {kCells, 1, 1}, {&scores, &images, &classes, &cells});
    }

    std::vector<std::vector<Labels>> download_labels() {
        std::vector<std::vector<Labels>> answers(images_.size(), std::vector<Labels>(ask_.heads.size()));
        Address at = memory_.labels.reserve(0);
        for (size_t head = 0; head < ask_.heads.size(); ++head) {
            for (size_t photo = 0; photo < images_.size(); ++photo) {
                at = download(answers[photo][head].labels, at, pixels_of(images_[photo].size));
                if (ask_.confidence) {
                    at = download(answers[photo][head].confidence, at, pixels_of(images_[photo].size));
                }
            }
        }
        gpu_.synchronize();
        return answers;
    }

    Address download(std::vector<std::uint8_t>& plane, Address at, size_t bytes) {
        plane.resize(bytes);
        gpu_.download(plane.data(), at, bytes);
        return at + bytes;
    }

    const Gpu& gpu_;
    Engine& engine_;
    Memory& memory_;
    const Bundle& bundle_;
    std::vector<ImageView> images_;
    const Ask& ask_;
    Table table_;
    std::vector<Input> inputs_;
    std::vector<hp_pixels::Photo> photos_;
};

DevicePipeline::DevicePipeline(std::unique_ptr<Gpu> gpu, std::unique_ptr<Engine> engine)
    : gpu_(std::move(gpu)), engine_(std::move(engine)), memory_(std::make_unique<Memory>(*gpu_, *engine_)) {}

DevicePipeline::~DevicePipeline() {
    gpu_->make_current();
    memory_.reset();
    engine_.reset();
}

bool DevicePipeline::takes(const Bundle& bundle, const std::vector<ImageView>& images, const Ask& ask) const {
    if (ask.tta.num_views() > std::min(hp_pixels::MAX_VIEWS, engine_->batch_max)) {
        return false;
    }
    for (const std::string& name : ask.heads) {
        const HeadSpec& head = bundle.head(name);
        const auto found = engine_->outputs.find(head.output);
        if (found == engine_->outputs.end() || found->second.classes != head.domain->num_classes() ||
            (found->second.is_half && !ask.tta.gives_logits())) {
            return false;
        }
    }
    const auto& scales = ask.tta.scales;
    return bundle.input.size == engine_->input &&
           std::all_of(images.begin(), images.end(), [&](const ImageView& image) {
               return std::all_of(scales.begin(), scales.end(), [&](double scale) {
                   return plan(image.size, bundle.input, scale).network == engine_->input;
               });
           });
}

std::vector<std::vector<Labels>> DevicePipeline::parse(const Bundle& bundle,
                                                       const std::vector<ImageView>& images,
                                                       const Ask& ask) const {
    const auto at_once = static_cast<size_t>(engine_->batch_max / ask.tta.num_views());
    std::vector<std::vector<Labels>> answers;
    const std::lock_guard lock(turn_);
    const Entered entered(*gpu_);
    for (size_t first = 0; first < images.size(); first += at_once) {
        const auto from = images.begin() + static_cast<std::ptrdiff_t>(first);
        const auto to = from + static_cast<std::ptrdiff_t>(std::min(at_once, images.size() - first));
        auto some = Chunk(*this, bundle, {from, to}, ask).parse();
        std::move(some.begin(), some.end(), std::back_inserter(answers));
    }
    return answers;
}

Outputs DevicePipeline::run(const Batch& batch, const std::vector<std::string>& names) const {
    const std::lock_guard lock(turn_);
    const Entered entered(*gpu_);
    const Address image = memory_->input_of(*engine_);
    const auto scores = memory_->scores_of(*engine_);
    const auto count = static_cast<size_t>(batch.count);
    gpu_->upload(image, batch.data, count * pixels_of(batch.size) * kChannels);
    engine_->enqueue(batch.count, image, scores, *gpu_);
    Outputs tensors;
    for (const std::string& name : names) {
        const Output& output = engine_->outputs.at(name);
        Tensor tensor{batch.count, output.classes, output.cells, std::vector<float>(count * output.values())};
        std::vector<std::uint16_t> halves(output.is_half ? tensor.values.size() : 0);
        void* target = output.is_half ? static_cast<void*>(halves.data()) : tensor.values.data();
        gpu_->download(target, scores.at(name), count * output.bytes());
        gpu_->synchronize();
        std::transform(halves.begin(), halves.end(), tensor.values.begin(), from_half);
        tensors.emplace(name, std::move(tensor));
    }
    return tensors;
}

}  // namespace hp::gpu
