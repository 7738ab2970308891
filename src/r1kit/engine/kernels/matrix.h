// out = x W^T for few rows x and a weight W that is packed once.
//
// W lies in panels of 64 outputs; a panel holds, word after word of the inner dimension, one word of each of its outputs. A tile of up to 6
// rows and 64 outputs stays in registers for the whole inner dimension: each word of W is loaded once per tile, each word of x broadcast.
// The sum over the inner dimension has one order whatever the number of rows, so a row's result does not depend on the other rows.
#pragma once

#include <type_traits>

#include "eight.h"
#include "memory.h"

namespace r1 {

constexpr int PANEL_VECTORS = 4;
constexpr int PANEL = PANEL_VECTORS * LANES;
constexpr int TILE_ROWS = 6;

template <class N>
class Matrix {
  public:
    int outputs = 0, inputs = 0, words = 0;

    // ``eight``: the weights are kept in 8 bits (eight.h), whatever N is. They are zero before they are filled, and lie in ``memory``.
    void shape(int out, int in, bool eight, Arena& memory) {
        outputs = out, inputs = in, eight_ = eight, words = divide_up(in, eight ? Eight::PAIR : N::PAIR);
        packed_ = static_cast<uint32_t*>(memory.take(size_t(round_up(out, LANES)) * words * sizeof(uint32_t)));
        if (eight) scales.assign(round_up(out, LANES), 0.0f), offsets.assign(round_up(out, LANES), 0);
    }

    bool eight() const { return eight_; }

    // Pack rows [first, first + count) from float32 numbers at from[row * row_step + column * column_step].
    void fill(int first, int count, const float* from, size_t row_step, size_t column_step = 1) {
        for (int row = 0; row < count; row++)
            if (eight_) fill_eight(first + row, from + row * row_step, column_step);
            else fill_row(first + row, from + row * row_step, column_step);
    }

    int panels() const { return divide_up(outputs, PANEL); }
    int vectors_of(int index) const { return divide_up(std::min(PANEL, outputs - index * PANEL), LANES); }
    uint32_t* panel(int index) const { return packed_ + size_t(index) * PANEL * words; }

    std::vector<float> scales;     // in 8 bits: of each output
    std::vector<int32_t> offsets;  // and what its sum has too much (eight.h)

  private:
    uint32_t* place(int out, int word) { return panel(out / PANEL) + out % PANEL + size_t(word) * vectors_of(out / PANEL) * LANES; }

    void fill_row(int out, const float* from, size_t step) {
        for (int word = 0; word < words; word++) {
            typename N::Cell cells[N::PAIR] = {};
            for (int i = 0; i < N::PAIR && word * N::PAIR + i < inputs; i++) cells[i] = N::round(from[(word * N::PAIR + i) * step]);
            std::memcpy(place(out, word), cells, 4);
        }
    }

    void fill_eight(int out, const float* from, size_t step) {
        std::vector<int8_t> cells(size_t(words) * Eight::PAIR);
        scales[out] = round_weights(from, step, inputs, cells.data(), offsets[out]);
        for (int word = 0; word < words; word++) std::memcpy(place(out, word), &cells[size_t(word) * Eight::PAIR], 4);
    }

    uint32_t* packed_ = nullptr;
    bool eight_ = false;
};

// Memory that will be read soon. Products are bound by arithmetic and attention by memory, so products fetch ahead what attention reads next, a few
// cache lines for each word of their inner dimension, into the second-level cache and through it into the third.
class Ahead {
  public:
    static constexpr int LINE = 64;

    void expect(const void* memory, size_t bytes) { spans_.emplace_back(static_cast<const char*>(memory), bytes), total_ += bytes; }
    void forget() { spans_.clear(), span_ = 0, done_ = 0, total_ = 0; }
    size_t total() const { return total_; }

    // Where the next ``bytes`` lie; null when there is nothing more to fetch.
    const char* take(size_t bytes) {
        if (span_ == spans_.size()) return nullptr;
        const char* from = spans_[span_].first + done_;
        if ((done_ += bytes) >= spans_[span_].second) span_++, done_ = 0;
        return from;
    }

  private:
    std::vector<std::pair<const char*, size_t>> spans_;
    size_t span_ = 0, done_ = 0, total_ = 0;
};

struct Tile {
    const uint32_t* x;  // words, or what Floats says
    size_t x_step;  // from row to row
    const uint32_t* panel;
    int words;
    float* out;
    size_t out_step;
    Mask last;  // of the last vector of outputs
    bool add;
    const char* ahead;  // null: nothing is fetched ahead
    const char* next;   // null, or a part of the next panel
    const float *x_scales, *scales;  // in 8 bits: of the rows, and of the outputs
    const int32_t* offsets;
};

// The tiles of a panel also fetch the next one, from its beginning, half a cache line a word: weights that lie in no cache are then there when
// their first tile begins. Faster, and the processor leaves fetches out.
constexpr size_t NEXT_STEP = Ahead::LINE / 2;
constexpr int NEXT_TILES = PANEL * sizeof(uint32_t) / NEXT_STEP;  // that fetch all of it

// How the words of a product are multiplied: in the format N, or in 8 bits. LINES cache lines are fetched ahead for each word.
template <class N>
struct Floats {
    using Sum = Vector;
    static constexpr int LINES = 2;
    static constexpr bool WIDE = std::is_same_v<N, Half> && !DOTS_HALVES;  // rows of x are given as float32 numbers, two for each word
    static Sum zero() { return _mm512_setzero_ps(); }
    static auto left(const uint32_t* x, int word) {
        if constexpr (WIDE) return left_of(reinterpret_cast<const float*>(x), word);
        else return left_of(x, word);
    }
    static Sum dot(Sum sum, WideWord x, Words w) { return dot_halves(sum, x, w); }
    static Sum dot(Sum sum, Words x, Words w) { return N::dot(sum, x, w); }
    static Vector add(Vector before, Sum sum, const Tile&, int, int) { return _mm512_add_ps(before, sum); }
};

struct Eights {
    using Sum = Words;
    static constexpr int LINES = 4;  // a word has twice the numbers, so there are half as many
    static Sum zero() { return _mm512_setzero_si512(); }
    static Words left(const uint32_t* x, int word) { return left_of(x, word); }
    static Sum dot(Sum sum, Words x, Words w) { return Eight::dot(sum, x, w); }
    static Vector add(Vector before, Sum sum, const Tile& tile, int row, int vector) {
        const Words exact = _mm512_sub_epi32(sum, _mm512_loadu_si512(tile.offsets + vector * LANES));
        const Vector scale = _mm512_mul_ps(_mm512_set1_ps(tile.x_scales[row]), _mm512_loadu_ps(tile.scales + vector * LANES));
        return _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), scale, before);
    }
};

template <class F, int ROWS, int VECTORS>
void multiply(const Tile tile) {
    typename F::Sum sums[ROWS][VECTORS];
    for (auto& row : sums)
        for (auto& sum : row) sum = F::zero();
    const uint32_t* w = tile.panel;
    const char* ahead = tile.ahead ? tile.ahead : reinterpret_cast<const char*>(w);
    const char* next = tile.next ? tile.next : reinterpret_cast<const char*>(w);
    const size_t ahead_step = tile.ahead ? F::LINES * Ahead::LINE : 0;
    for (int word = 0; word < tile.words; word++, w += VECTORS * LANES) {
        Words ws[VECTORS];
        for (int v = 0; v < VECTORS; v++) ws[v] = _mm512_loadu_si512(w + v * LANES);
        for (int i = 0; i < F::LINES; i++) _mm_prefetch(ahead + i * Ahead::LINE, _MM_HINT_T1);
        ahead += ahead_step;
        _mm_prefetch(next, _MM_HINT_T0);
        next += NEXT_STEP;
        for (int r = 0; r < ROWS; r++) {
            const auto x = F::left(tile.x + r * tile.x_step, word);
            for (int v = 0; v < VECTORS; v++) sums[r][v] = F::dot(sums[r][v], x, ws[v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            float* to = tile.out + r * tile.out_step + v * LANES;
            const Mask mask = v == VECTORS - 1 ? tile.last : Mask(0xffff);
            const Vector before = tile.add ? _mm512_maskz_loadu_ps(mask, to) : _mm512_setzero_ps();
            _mm512_mask_storeu_ps(to, mask, F::add(before, sums[r][v], tile, r, v));
        }
}

template <class F, int ROWS>
void multiply(int vectors, const Tile& tile) {
    switch (vectors) {
        case 1: return multiply<F, ROWS, 1>(tile);
        case 2: return multiply<F, ROWS, 2>(tile);
        case 3: return multiply<F, ROWS, 3>(tile);
        default: return multiply<F, ROWS, 4>(tile);
    }
}

template <class F>
void multiply(int rows, int vectors, const Tile& tile) {
    switch (rows) {
        case 1: return multiply<F, 1>(vectors, tile);
        case 2: return multiply<F, 2>(vectors, tile);
        case 3: return multiply<F, 3>(vectors, tile);
        case 4: return multiply<F, 4>(vectors, tile);
        case 5: return multiply<F, 5>(vectors, tile);
        default: return multiply<F, 6>(vectors, tile);
    }
}

// The product of ``rows`` rows of words, ``x_step`` words apart.
template <class F, class N>
void multiply_all(const uint32_t* x, size_t x_step, const float* x_scales, int rows, const Matrix<N>& w, float* out, size_t out_step, bool add,
                  int threads, Ahead* ahead) {
    const int tiles = divide_up(rows, TILE_ROWS), panels = w.panels();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
    for (int p = 0; p < panels; p++) {
        const int vectors = w.vectors_of(p);
        const Mask last = lanes(w.outputs - p * PANEL - (vectors - 1) * LANES);
        // Tiles of nearly equal height: a low one keeps too few sums in flight.
        for (int t = 0; t < tiles; t++) {
            const int from = int(int64_t(rows) * t / tiles), to = int(int64_t(rows) * (t + 1) / tiles);
            const char* fetched = ahead && threads == 1 ? ahead->take(size_t(w.words) * F::LINES * Ahead::LINE) : nullptr;
            const bool fetches = threads == 1 && tiles > 1 && t < NEXT_TILES && p + 1 < panels && w.vectors_of(p + 1) == PANEL_VECTORS;
            const char* next = fetches ? reinterpret_cast<const char*>(w.panel(p + 1)) + t * w.words * NEXT_STEP : nullptr;
            multiply<F>(to - from, vectors,
                        Tile{x + from * x_step, x_step, w.panel(p), w.words, out + from * out_step + p * PANEL, out_step, last, add, fetched, next,
                             x_scales + from, w.scales.data() + p * PANEL, w.offsets.data() + p * PANEL});
        }
    }
}

// out[r] (+)= W x[r] for ``rows`` rows; x_step in cells, out_step in floats. ``x`` has W.inputs cells a row, an even number.
template <class N>
void product(const typename N::Cell* x, size_t x_step, int rows, const Matrix<N>& w, float* out, size_t out_step, bool add, int threads,
             Ahead* ahead = nullptr) {
    if (!rows) return;
    static thread_local Buffer<float> kept_wide;
    if (!w.eight()) {
        const uint32_t* words = reinterpret_cast<const uint32_t*>(x);
        size_t step = x_step / N::PAIR;
        if constexpr (Floats<N>::WIDE) {
            step = size_t(w.words) * N::PAIR;
            float* wide = kept_wide.at_least(rows * step);
            for (int r = 0; r < rows; r++) widen_halves(x + r * x_step, long(step), wide + r * step);
            words = reinterpret_cast<const uint32_t*>(wide);
        }
        multiply_all<Floats<N>>(words, step, nullptr, rows, w, out, out_step, add, threads, ahead);
        return;
    }
    static thread_local Buffer<uint8_t> kept;
    static thread_local Buffer<float> kept_scales;
    const size_t step = round_up(w.inputs, 64);
    uint8_t* cells = kept.at_least(rows * step);
    float* scales = kept_scales.at_least(rows);
    for (int r = 0; r < rows; r++) scales[r] = round_row<N>(x + r * x_step, w.inputs, cells + r * step);
    multiply_all<Eights>(reinterpret_cast<const uint32_t*>(cells), step / Eight::PAIR, scales, rows, w, out, out_step, add, threads, ahead);
}

}  // namespace r1
