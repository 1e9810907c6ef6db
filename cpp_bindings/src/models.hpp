// Bundles by name: those a user has added, and the shipped ones.
#pragma once

#include <filesystem>
#include <string>

namespace hp {

// Where a model lies, and the head its name stands for (empty if it stands for none).
struct FoundModel {
    std::filesystem::path folder;
    std::string head;
};

// `model` is, in this order: a name the user has added, a bundle in `shipped` (see parser.hpp where it
// is empty), a head of the bundle `universal` there, or a folder with bundle.json.  Text with a slash is
// a folder.  Throws ModelNotFound; the message lists what there is.
FoundModel find_bundle(const std::string& model, const std::string& shipped);

// The name we use for a domain that others call differently: `ppp` is `pascal`.
std::string canonical(const std::string& name);

}  // namespace hp
