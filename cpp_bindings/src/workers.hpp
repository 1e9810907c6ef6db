// Independent pieces of one job, shared by a few threads that live as long as the job.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <future>
#include <system_error>
#include <vector>

namespace hp {

// A picture of fewer pixels is done before a second thread has begun.
inline constexpr std::size_t kPixelsWorthThreads = std::size_t{1} << 20;

// Call piece(0) .. piece(count - 1).  Each thread asks `make_piece` for a `piece` of its own, which may
// hold memory; the first exception of any is thrown here when all have ended.
template <typename MakePiece>
void share(std::size_t count, int threads, const MakePiece& make_piece) {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        auto piece = make_piece();
        for (std::size_t i = next++; i < count; i = next++) {
            piece(i);
        }
    };
    std::vector<std::future<void>> helpers;
    const auto wanted = std::min(count, static_cast<std::size_t>(std::max(threads, 1)));
    try {
        while (helpers.size() + 1 < wanted) {
            helpers.push_back(std::async(std::launch::async, work));
        }
    } catch (const std::system_error&) {
        // The system gives no more threads; those that are there do the work.
    }
    work();
    for (auto& helper : helpers) {
        helper.get();
    }
}

}  // namespace hp
