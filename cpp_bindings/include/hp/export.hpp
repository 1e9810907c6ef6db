// Marks what the shared library shows; everything else stays inside.
#pragma once

#define HP_API __attribute__((visibility("default")))
