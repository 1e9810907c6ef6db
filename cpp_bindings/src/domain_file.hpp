// The plain data of a label domain, read and checked.
#pragma once

#include <string>

#include "hp/domain.hpp"
#include "manifest.hpp"

namespace hp {

// What two spellings of one part have in common: case, spaces, `-`, `_` do not count.
std::string key_of(const std::string& name);

// The domain in one head of a manifest.  Throws SchemaMismatch.
Domain parse_domain(const Section& head, const std::string& name);

}  // namespace hp
