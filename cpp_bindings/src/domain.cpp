#include "hp/domain.hpp"

#include <set>
#include <string>

#include "domain_file.hpp"
#include "hp/errors.hpp"

namespace hp {
namespace {

void add_ids(const Domain& domain, const std::string& name, std::set<int>& ids) {
    const std::string key = key_of(name);
    for (std::size_t k = 0; k < domain.names.size(); ++k) {
        if (key_of(domain.names[k]) == key) {
            ids.insert(static_cast<int>(k));
            return;
        }
    }
    for (const auto& [alias, id] : domain.aliases) {
        if (key_of(alias) == key) {
            ids.insert(id);
            return;
        }
    }
    for (const auto& [group, members] : domain.groups) {
        if (key_of(group) == key) {
            ids.insert(members.begin(), members.end());
            return;
        }
    }
    std::string allowed;
    for (const std::string& part : domain.names) {
        allowed += (allowed.empty() ? "" : ", ") + part;
    }
    for (const auto& group : domain.groups) {
        allowed += ", " + group.first;
    }
    throw InputError("domain '" + domain.name + "' has no part '" + name + "'; it has " + allowed);
}

}  // namespace

std::vector<int> Domain::flip_perm() const {
    std::vector<int> perm(names.size());
    for (std::size_t k = 0; k < perm.size(); ++k) {
        perm[k] = static_cast<int>(k);
    }
    for (const auto& [a, b] : flip_pairs) {
        std::swap(perm[static_cast<std::size_t>(a)], perm[static_cast<std::size_t>(b)]);
    }
    return perm;
}

std::vector<int> Domain::indices(const std::vector<std::string>& wanted) const {
    std::set<int> ids;
    for (const std::string& each : wanted) {
        add_ids(*this, each, ids);
    }
    return {ids.begin(), ids.end()};
}

}  // namespace hp
