// Memory for what a step reads from end to end: in huge pages of the system, which the processor finds by fewer looks and fetches ahead without
// stopping every 4 KB. Where the system has none to give, pages are the usual ones.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace r1 {

// Memory that is taken in pieces and given back as a whole. It is zero, and takes no memory before it is written.
class Arena {
  public:
    static constexpr size_t HUGE_PAGE = size_t(1) << 21;
    static constexpr size_t LINE = 64;

    // ``chunk``: how many bytes are asked of the system at a time, at least.
    explicit Arena(size_t chunk) : chunk_(chunk) {}
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() {
        for (auto& [memory, bytes] : chunks_) munmap(memory, bytes);
    }

    // A piece that begins on a cache line.
    void* take(size_t bytes) {
        bytes = (bytes + LINE - 1) / LINE * LINE;
        if (bytes > left_) grow(bytes);
        left_ -= bytes;
        return std::exchange(next_, next_ + bytes);
    }

  private:
    void grow(size_t bytes) {
        bytes = (std::max(bytes, chunk_) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        madvise(memory, bytes, MADV_HUGEPAGE);
        chunks_.emplace_back(memory, bytes);
        next_ = static_cast<char*>(memory), left_ = bytes;
    }

    size_t chunk_, left_ = 0;
    char* next_ = nullptr;
    std::vector<std::pair<void*, size_t>> chunks_;
};

}  // namespace r1
