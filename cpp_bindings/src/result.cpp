#include "hp/result.hpp"

#include <algorithm>
#include <array>

#include "hp/errors.hpp"

namespace hp {

std::vector<std::pair<std::string, std::int64_t>> Result::areas() const {
    std::array<std::int64_t, 256> counts{};
    for (const std::uint8_t label : labels) {
        ++counts[label];
    }
    std::vector<std::pair<std::string, std::int64_t>> found;
    for (std::size_t k = 1; k < domain->names.size(); ++k) {
        if (counts[k] > 0) {
            found.emplace_back(domain->names[k], counts[k]);
        }
    }
    std::stable_sort(found.begin(), found.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    return found;
}

std::vector<std::uint8_t> Result::mask(const std::vector<std::string>& names) const {
    if (names.empty()) {
        throw InputError("mask() needs the name of a part or group");
    }
    std::array<std::uint8_t, 256> wanted{};
    for (const int id : domain->indices(names)) {
        wanted[static_cast<std::size_t>(id)] = 1;
    }
    std::vector<std::uint8_t> where(labels.size());
    std::transform(labels.begin(), labels.end(), where.begin(),
                   [&wanted](std::uint8_t label) { return wanted[label]; });
    return where;
}

}  // namespace hp
