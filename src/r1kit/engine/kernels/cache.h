// Where keys and values lie: pages of 64 positions, taken when a sequence needs one and given back when it ends.
//
// A page holds all layers. Within a layer each key-value head has its keys as [key words][64 positions] and its values as [64 / pair][value width]
// words of neighbouring positions: the order in which attention multiplies, so that a score of 16 positions is a sum down a column and nothing
// is added across a vector. The pages of a prompt are read by its whole group.
//
// In 8 bits (``eight``) the keys are words of four bytes, which lie as they do in the other formats, and the values [64 positions][value width] bytes;
// behind them stand the scales of the page's 64 keys and 64 values. A key or a value is rounded by itself, to whole numbers from -127 to 127 of its
// largest absolute number; a key's have 128 added (eight.h).
#pragma once

#include "eight.h"
#include "memory.h"
#include "numbers.h"

namespace r1 {

constexpr int PAGE = 64;
constexpr int MOST_CELLS = 4096;  // of a key or a value that is kept in 8 bits

using Page = uint32_t*;
using Pages = std::vector<Page>;

template <class N>
struct CacheShape {
    int layers = 0, heads = 0, key = 0, value = 0;  // key-value heads; cells per key and value
    bool eight = false;

    int key_words() const { return divide_up(key, eight ? Eight::PAIR : N::PAIR); }
    int value_words() const { return round_up(value, LANES); }
    size_t key_size() const { return size_t(PAGE) * key_words(); }
    size_t value_size() const { return size_t(PAGE / (eight ? Eight::PAIR : N::PAIR)) * value_words(); }
    size_t head_size() const { return key_size() + value_size() + (eight ? 2 * PAGE : 0); }
    size_t page_size() const { return layers * heads * head_size(); }
    uint32_t* keys(Page page, int layer, int head) const { return page + (size_t(layer) * heads + head) * head_size(); }
    uint32_t* values(Page page, int layer, int head) const { return keys(page, layer, head) + key_size(); }

    // In 8 bits: the scales of the page's keys, and behind them those of its values.
    float* scales(Page page, int layer, int head) const {
        return reinterpret_cast<float*>(keys(page, layer, head) + key_size() + value_size());
    }

    void write_key(Page page, int layer, int head, int place, const typename N::Cell* from) const {
        const auto* words = reinterpret_cast<const uint32_t*>(from);
        uint32_t rounded[MOST_CELLS / Eight::PAIR];
        if (eight) {
            rounded[key_words() - 1] = 0;  // of the last word, what is behind the key
            scales(page, layer, head)[place] = round_row<N>(from, key, reinterpret_cast<uint8_t*>(rounded));
            words = rounded;
        }
        uint32_t* to = keys(page, layer, head) + place;
        for (int i = 0; i < key_words(); i++) to[i * PAGE] = words[i];
    }

    // An even position clears its odd neighbour: a number left there by an earlier sequence may be anything, and 0 x NaN is NaN. An odd one keeps the
    // even one's; what a token that was tried and dropped had left in its own place goes.
    void write_value(Page page, int layer, int head, int place, const typename N::Cell* from) const {
        if (eight) {
            int8_t bytes[MOST_CELLS];
            scales(page, layer, head)[PAGE + place] = round_cells_to_bytes<N>(from, value, bytes);
            std::memcpy(reinterpret_cast<int8_t*>(values(page, layer, head)) + size_t(place) * value_words(), bytes, value);
            return;
        }
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

// Pages, taken from the system by the few megabytes, because attention runs through all of them at every step.
class Pool {
  public:
    explicit Pool(size_t page_words) : page_words_(page_words), memory_(4 * Arena::HUGE_PAGE) {}

    Page take() {
        if (free_.empty()) return static_cast<Page>(memory_.take(page_words_ * sizeof(uint32_t)));
        Page page = free_.back();
        free_.pop_back();
        return page;
    }

    void give_back(Pages& pages) {
        free_.insert(free_.end(), pages.begin(), pages.end());
        pages.clear();
    }

  private:
    size_t page_words_;
    Arena memory_;
    Pages free_;
};

}  // namespace r1
