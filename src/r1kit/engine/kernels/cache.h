// Where keys and values lie: pages of 64 positions, taken when a sequence needs one and given back when it ends.
//
// A page holds all layers. Within a layer each key-value head has its keys as [key words][64 positions] and its values as [64 / pair][value width]
// words of neighbouring positions: the order in which attention multiplies, so that a score of 16 positions is a sum down a column and nothing
// is added across a vector. The pages of a prompt are read by its whole group.
#pragma once

#include <sys/mman.h>

#include "numbers.h"

namespace r1 {

constexpr int PAGE = 64;

using Page = uint32_t*;
using Pages = std::vector<Page>;

template <class N>
struct CacheShape {
    int layers = 0, heads = 0, key = 0, value = 0;  // key-value heads; cells per key and value

    int key_words() const { return divide_up(key, N::PAIR); }
    int value_words() const { return round_up(value, LANES); }
    size_t key_size() const { return size_t(PAGE) * key_words(); }
    size_t value_size() const { return size_t(PAGE / N::PAIR) * value_words(); }
    size_t head_size() const { return key_size() + value_size(); }
    size_t page_size() const { return layers * heads * head_size(); }
    uint32_t* keys(Page page, int layer, int head) const { return page + (size_t(layer) * heads + head) * head_size(); }
    uint32_t* values(Page page, int layer, int head) const { return keys(page, layer, head) + key_size(); }

    void write_key(Page page, int layer, int head, int place, const typename N::Cell* from) const {
        const auto* words = reinterpret_cast<const uint32_t*>(from);
        uint32_t* to = keys(page, layer, head) + place;
        for (int i = 0; i < key_words(); i++) to[i * PAGE] = words[i];
    }

    // An even position clears its odd neighbour: a number left there by an earlier sequence may be anything, and 0 x NaN is NaN. An odd one keeps the
    // even one's; what a token that was tried and dropped had left in its own place goes.
    void write_value(Page page, int layer, int head, int place, const typename N::Cell* from) const {
        uint32_t* to = values(page, layer, head) + size_t(place / N::PAIR) * value_words();
        if constexpr (N::PAIR == 1) {
            std::memcpy(to, from, value * sizeof(float));
        } else if (place % 2 == 0) {
            for (int i = 0; i < value; i++) to[i] = from[i];
        } else {
            for (int i = 0; i < value; i++) to[i] = (to[i] & 0xffff) | uint32_t(from[i]) << 16;
        }
    }
};

// Pages by the arena of a few megabytes; huge memory pages, because attention runs through all of it at every step.
class Pool {
  public:
    explicit Pool(size_t page_words) : page_words_(page_words) {}
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    ~Pool() {
        for (auto& [memory, bytes] : arenas_) munmap(memory, bytes);
    }

    Page take() {
        if (free_.empty()) grow();
        Page page = free_.back();
        free_.pop_back();
        return page;
    }

    void give_back(Pages& pages) {
        free_.insert(free_.end(), pages.begin(), pages.end());
        pages.clear();
    }

  private:
    static constexpr size_t HUGE_PAGE = size_t(1) << 21;

    void grow() {
        const size_t page_bytes = page_words_ * 4;
        const size_t bytes = (std::max(4 * HUGE_PAGE, page_bytes) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        madvise(memory, bytes, MADV_HUGEPAGE);
        arenas_.emplace_back(memory, bytes);
        for (size_t i = bytes / page_bytes; i-- > 0;) free_.push_back(static_cast<uint32_t*>(memory) + i * page_words_);
    }

    size_t page_words_;
    std::vector<std::pair<void*, size_t>> arenas_;
    Pages free_;
};

}  // namespace r1
