// Attention of single new positions over the cache.
//
// A row sees the first ``seen`` positions of its prompt and all of its own. Rows of one group stand together and their prompt is read once for all
// of them; a prompt being computed is such a group too, whose row t sees t + 1 positions. softmax(scale q k) is taken over both parts at once.
// Latent attention is the case of one key-value head whose key is [latent; rotated] and whose value is the latent.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "cache.h"

namespace r1 {

struct Span {
    const Pages* prompt;
    int seen;
    const Pages* own;
    int own_length;
};

constexpr int QUERIES_AT_ONCE = 64;

// Call ``take`` with 4 as often as it fits into ``queries``, then with the rest, each as a constant: a page's numbers are loaded once for so many.
template <class Take>
inline void in_fours(int queries, Take&& take) {
    for (; queries >= 4; queries -= 4) take(std::integral_constant<int, 4>());
    switch (queries) {
        case 3: return take(std::integral_constant<int, 3>());
        case 2: return take(std::integral_constant<int, 2>());
        case 1: return take(std::integral_constant<int, 1>());
    }
}

// Sums of QUERIES queries in registers, from memory and back to it; a query's begin ``step`` after those of the one before.
template <int QUERIES, int VECTORS>
inline void read_sums(const float* sums, size_t step, Vector (&totals)[QUERIES][VECTORS]) {
#pragma GCC unroll 4
    for (int q = 0; q < QUERIES; q++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) totals[q][v] = _mm512_loadu_ps(sums + q * step + v * LANES);
}

template <int QUERIES, int VECTORS>
inline void write_sums(const Vector (&totals)[QUERIES][VECTORS], float* sums, size_t step) {
#pragma GCC unroll 4
    for (int q = 0; q < QUERIES; q++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(sums + q * step + v * LANES, totals[q][v]);
}

// A page is too short for the processor to notice how the reading goes on. So what is read next, ``ahead``, is fetched while a page is computed: as
// many lines, which lie as those that are being read.
inline void fetch(const void* ahead) { _mm_prefetch(ahead, _MM_HINT_T0); }

// out[q][16 b + lane] = query q times key of position 16 b + lane, for QUERIES queries and BLOCK_COUNT blocks of one page.
template <class N, int QUERIES, int BLOCK_COUNT>
void score(const uint32_t* queries, int words, const uint32_t* keys, float* out, size_t out_step, const uint32_t* ahead) {
    Vector sums[QUERIES][BLOCK_COUNT];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    for (int word = 0; word < words; word++) {
        Words ks[BLOCK_COUNT];
        for (int b = 0; b < BLOCK_COUNT; b++) {
            ks[b] = _mm512_loadu_si512(keys + word * PAGE + b * LANES);
            fetch(ahead + word * PAGE + b * LANES);
        }
        for (int q = 0; q < QUERIES; q++) {
            const Words query = _mm512_set1_epi32(int(queries[q * words + word]));
            for (int b = 0; b < BLOCK_COUNT; b++) sums[q][b] = N::dot(sums[q][b], query, ks[b]);
        }
    }
    write_sums(sums, out, out_step);
}

template <class N, int BLOCK_COUNT>
void score(int queries, const uint32_t* query, int words, const uint32_t* keys, float* out, size_t out_step, const uint32_t* ahead) {
    in_fours(queries, [&](auto some) {
        score<N, some, BLOCK_COUNT>(query, words, keys, out, out_step, ahead);
        query += some * words, out += some * out_step;
    });
}

template <class N>
void score_page(int queries, const uint32_t* query, int words, const uint32_t* keys, int positions, float* out, size_t out_step,
                const uint32_t* ahead) {
    switch (divide_up(positions, LANES)) {
        case 1: return score<N, 1>(queries, query, words, keys, out, out_step, ahead);
        case 2: return score<N, 2>(queries, query, words, keys, out, out_step, ahead);
        case 3: return score<N, 3>(queries, query, words, keys, out, out_step, ahead);
        default: return score<N, 4>(queries, query, words, keys, out, out_step, ahead);
    }
}

// sums[q][0..VECTORS) += sum over ``steps`` words of positions of weight times value.
template <class N, int QUERIES, int VECTORS>
void weigh(const uint32_t* weights, size_t weight_step, int steps, const uint32_t* values, int value_words, float* sums, const uint32_t* ahead) {
    Vector totals[QUERIES][VECTORS];
    read_sums(sums, value_words, totals);
    for (int step = 0; step < steps; step++) {
        Words vs[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            vs[v] = _mm512_loadu_si512(values + step * value_words + v * LANES);
            fetch(ahead + step * value_words + v * LANES);
        }
        for (int q = 0; q < QUERIES; q++) {
            const Words weight = _mm512_set1_epi32(int(weights[q * weight_step + step]));
            for (int v = 0; v < VECTORS; v++) totals[q][v] = N::dot(totals[q][v], weight, vs[v]);
        }
    }
    write_sums(totals, sums, value_words);
}

template <class N, int QUERIES>
void weigh_all(const uint32_t* weights, size_t weight_step, int steps, const uint32_t* values, int value_words, float* sums, const uint32_t* ahead) {
    int done = 0;
    for (; value_words - done >= 4 * LANES; done += 4 * LANES)
        weigh<N, QUERIES, 4>(weights, weight_step, steps, values + done, value_words, sums + done, ahead + done);
    for (; value_words - done >= LANES; done += LANES)
        weigh<N, QUERIES, 1>(weights, weight_step, steps, values + done, value_words, sums + done, ahead + done);
}

template <class N>
void weigh_page(int queries, const uint32_t* weights, size_t weight_step, int positions, const uint32_t* values, int value_words,
                float* sums, const uint32_t* ahead) {
    const int steps = divide_up(positions, N::PAIR);
    in_fours(queries, [&](auto some) {
        weigh_all<N, some>(weights, weight_step, steps, values, value_words, sums, ahead);
        weights += some * weight_step, sums += some * value_words;
    });
}

// Queries in 8 bits, as eight.h rounds a row, but without what is added there: the keys have it. ``too_much`` is what a query's sums have for that.
struct ByteQueries {
    const uint32_t* words;
    const float* scales;
    const int32_t* too_much;
};

// The same in 8 bits: whole sums, times the query's scale and each key's.
template <int QUERIES, int BLOCK_COUNT>
void score_bytes(const ByteQueries& queries, int words, const uint32_t* keys, const float* scales, float* out, size_t out_step,
                 const uint32_t* ahead) {
    Words sums[QUERIES][BLOCK_COUNT];
    for (int q = 0; q < QUERIES; q++)
        for (int b = 0; b < BLOCK_COUNT; b++) sums[q][b] = _mm512_set1_epi32(-queries.too_much[q]);
    for (int word = 0; word < words; word++) {
        Words ks[BLOCK_COUNT];
        for (int b = 0; b < BLOCK_COUNT; b++) {
            ks[b] = _mm512_loadu_si512(keys + word * PAGE + b * LANES);
            fetch(ahead + word * PAGE + b * LANES);
        }
        for (int q = 0; q < QUERIES; q++) {
            const Words query = _mm512_set1_epi32(int(queries.words[q * words + word]));
            for (int b = 0; b < BLOCK_COUNT; b++) sums[q][b] = Eight::dot(sums[q][b], ks[b], query);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < QUERIES; q++)
#pragma GCC unroll 4
        for (int b = 0; b < BLOCK_COUNT; b++) {
            const Vector scale = _mm512_mul_ps(_mm512_set1_ps(queries.scales[q]), _mm512_loadu_ps(scales + b * LANES));
            _mm512_storeu_ps(out + q * out_step + b * LANES, _mm512_mul_ps(_mm512_cvtepi32_ps(sums[q][b]), scale));
        }
}

template <int BLOCK_COUNT>
void score_bytes(int count, ByteQueries queries, int words, const uint32_t* keys, const float* scales, float* out, size_t out_step,
                 const uint32_t* ahead) {
    in_fours(count, [&](auto some) {
        score_bytes<some, BLOCK_COUNT>(queries, words, keys, scales, out, out_step, ahead);
        queries.words += some * words, queries.scales += some, queries.too_much += some, out += some * out_step;
    });
}

inline void score_page_of_bytes(int count, const ByteQueries& queries, int words, const uint32_t* keys, const float* scales, int positions, float* out,
                                size_t out_step, const uint32_t* ahead) {
    switch (divide_up(positions, LANES)) {
        case 1: return score_bytes<1>(count, queries, words, keys, scales, out, out_step, ahead);
        case 2: return score_bytes<2>(count, queries, words, keys, scales, out, out_step, ahead);
        case 3: return score_bytes<3>(count, queries, words, keys, scales, out, out_step, ahead);
        default: return score_bytes<4>(count, queries, words, keys, scales, out, out_step, ahead);
    }
}

// sums[q][0..VECTORS) += sum over positions of weight times value; the weights, floats, have the values' scales in them.
template <int QUERIES, int VECTORS>
void weigh_bytes(const float (*weights)[PAGE], int positions, const int8_t* values, int width, float* sums, const int8_t* ahead) {
    Vector totals[QUERIES][VECTORS];
    read_sums(sums, width, totals);
    for (int at = 0; at < positions; at++) {
        Vector vs[VECTORS];
        for (int v = 0; v < VECTORS; v++) vs[v] = widen(values + size_t(at) * width + v * LANES);
        fetch(ahead + size_t(at) * width);
        for (int q = 0; q < QUERIES; q++) {
            const Vector weight = _mm512_set1_ps(weights[q][at]);
            for (int v = 0; v < VECTORS; v++) totals[q][v] = _mm512_fmadd_ps(weight, vs[v], totals[q][v]);
        }
    }
    write_sums(totals, sums, width);
}

template <int QUERIES>
void weigh_some_bytes(const float* weights, size_t weight_step, int positions, const int8_t* values, const float* scales, int width, float* sums,
                      const int8_t* ahead) {
    float scaled[QUERIES][PAGE];
    for (int q = 0; q < QUERIES; q++)
        for (int i = 0; i < positions; i += LANES) {
            const Mask mask = lanes(positions - i);
            const Vector weight = _mm512_maskz_loadu_ps(mask, weights + q * weight_step + i);
            _mm512_storeu_ps(scaled[q] + i, _mm512_mul_ps(weight, _mm512_maskz_loadu_ps(mask, scales + i)));
        }
    int done = 0;
    for (; width - done >= 4 * LANES; done += 4 * LANES) weigh_bytes<QUERIES, 4>(scaled, positions, values + done, width, sums + done, ahead + done);
    for (; width - done >= LANES; done += LANES) weigh_bytes<QUERIES, 1>(scaled, positions, values + done, width, sums + done, ahead + done);
}

inline void weigh_page_of_bytes(int queries, const float* weights, size_t weight_step, int positions, const int8_t* values, const float* scales,
                                int width, float* sums, const int8_t* ahead) {
    in_fours(queries, [&](auto some) {
        weigh_some_bytes<some>(weights, weight_step, positions, values, scales, width, sums, ahead);
        weights += some * weight_step, sums += some * width;
    });
}

inline float largest(const float* scores, int count, float before) {
    Vector best = _mm512_set1_ps(before);
    for (int i = 0; i < count; i += LANES) {
        const Mask mask = lanes(count - i);
        best = _mm512_mask_max_ps(best, mask, best, _mm512_maskz_loadu_ps(mask, scores + i));
    }
    return _mm512_reduce_max_ps(best);
}

// Turn ``count`` scores into weights exp(scale (score - top)), in place and in the format of the values; zero up to ``padded``. Return the sum.
template <class N>
Vector exponentiate(float* scores, int count, int padded, float top, float scale) {
    auto* cells = reinterpret_cast<typename N::Cell*>(scores);
    const Vector tops = _mm512_set1_ps(top), factor = _mm512_set1_ps(scale * LOG2E);
    Vector sum = _mm512_setzero_ps();
    for (int i = 0; i < padded; i += LANES) {
        const Vector x = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + i), tops), factor);
        const Vector weight = _mm512_maskz_mov_ps(lanes(std::max(0, count - i)), exp2(x));
        sum = _mm512_add_ps(sum, weight);
        N::store(cells + i, weight, 0xffff);
    }
    return sum;
}

// Attention of the queries of ``rows`` rows with one prompt, at one key-value head. Queries of a row lie behind each other, ``per_row`` of them.
template <class N>
class HeadAttention {
  public:
    HeadAttention(const CacheShape<N>& shape, int layer, int head, int per_row, float scale)
        : shape_(shape), layer_(layer), head_(head), per_row_(per_row), scale_(scale) {}

    // queries: key words each; out: ``value_words`` floats each.
    void operator()(const uint32_t* queries, const Span* spans, int rows, float* out) {
        const int count = rows * per_row_, width = shape_.value_words();
        int seen = 0, longest = 0;
        for (int r = 0; r < rows; r++) seen = std::max(seen, spans[r].seen), longest = std::max(longest, spans[r].own_length);
        const int prompt_padded = round_up(seen, LANES), padded = prompt_padded + round_up(longest, LANES);
        static thread_local Buffer<float> buffer;
        float* scores = buffer.at_least(size_t(count) * padded);
        std::fill(out, out + size_t(count) * width, 0.0f);

        round_queries(queries, count);
        for (int at = 0; at < seen; at += PAGE)
            score(count, queries, 0, page(spans->prompt, at), seen - at, scores + at, padded, page(spans->prompt, std::min(at + PAGE, last(seen))));
        for (int r = 0; r < rows; r++)
            for (int at = 0; at < spans[r].own_length; at += PAGE)
                score(per_row_, queries, r * per_row_, page(spans[r].own, at), spans[r].own_length - at,
                      scores + size_t(r) * per_row_ * padded + prompt_padded + at, padded, page_after(spans, r, at, rows));

        static thread_local std::vector<float> sums;
        sums.resize(count);
        for (int q = 0; q < count; q++) {
            const Span& span = spans[q / per_row_];
            float *of_prompt = scores + size_t(q) * padded, *of_own = of_prompt + prompt_padded;
            const float top = largest(of_own, span.own_length, largest(of_prompt, span.seen, -INFINITY));
            const Vector sum = weights_of(of_prompt, span.seen, prompt_padded, top);
            const Vector own = weights_of(of_own, span.own_length, round_up(span.own_length, LANES), top);
            sums[q] = 1.0f / _mm512_reduce_add_ps(_mm512_add_ps(sum, own));
        }

        for (int at = 0; at < seen; at += PAGE)
            weigh(count, scores, at, padded, page(spans->prompt, at), seen - at, out, page(spans->prompt, std::min(at + PAGE, last(seen))));
        for (int r = 0; r < rows; r++)
            for (int at = 0; at < spans[r].own_length; at += PAGE)
                weigh(per_row_, scores + size_t(r) * per_row_ * padded + prompt_padded, at, padded, page(spans[r].own, at), spans[r].own_length - at,
                      out + size_t(r) * per_row_ * width, page_after(spans, r, at, rows));
        for (int q = 0; q < count; q++)
            for (int i = 0; i < width; i++) out[size_t(q) * width + i] *= sums[q];
    }

  private:
    // For keys in 8 bits the queries are rounded too.
    void round_queries(const uint32_t* queries, int count) {
        if (!shape_.eight) return;
        static thread_local Buffer<uint32_t> words;
        static thread_local Buffer<float> scales;
        static thread_local Buffer<int32_t> too_much;
        const int step = shape_.key_words();
        bytes_ = {words.at_least(size_t(count) * step), scales.at_least(count), too_much.at_least(count)};
        const auto* cells = reinterpret_cast<const typename N::Cell*>(queries);
        for (int q = 0; q < count; q++) {
            words.data()[(q + 1) * step - 1] = 0;  // of the last word, what is behind the query
            auto* bytes = reinterpret_cast<int8_t*>(words.data() + q * step);
            scales.data()[q] = round_cells_to_bytes<N>(cells + size_t(q) * shape_.key, shape_.key, bytes);
            int32_t sum = 0;
            for (int i = 0; i < shape_.key; i++) sum += bytes[i];
            too_much.data()[q] = Eight::ZERO * sum;
        }
    }

    static Page page(const Pages* pages, int at) { return (*pages)[at / PAGE]; }
    static int last(int length) { return (length - 1) / PAGE * PAGE; }  // where the last page of so many positions begins

    // The page that is read after that of row r at ``at``: the next one, the next row's first one, or none but the same.
    static Page page_after(const Span* spans, int r, int at, int rows) {
        if (at + PAGE < spans[r].own_length) return page(spans[r].own, at + PAGE);
        return r + 1 < rows && spans[r + 1].own_length > 0 ? page(spans[r + 1].own, 0) : page(spans[r].own, at);
    }

    // Scores of ``some`` queries from number ``first`` on against the positions of a page, or only ``length`` of them.
    void score(int some, const uint32_t* queries, int first, Page page, int length, float* out, int padded, Page then) const {
        const uint32_t *keys = shape_.keys(page, layer_, head_), *ahead = shape_.keys(then, layer_, head_);
        if (shape_.eight)
            score_page_of_bytes(some, {bytes_.words + size_t(first) * shape_.key_words(), bytes_.scales + first, bytes_.too_much + first},
                                shape_.key_words(), keys, shape_.scales(page, layer_, head_), length, out, padded, ahead);
        else
            score_page<N>(some, queries + size_t(first) * shape_.key_words(), shape_.key_words(), keys, length, out, padded, ahead);
    }

    // Scores become weights, in the format of the values, or floats for values in 8 bits. Return their sum.
    Vector weights_of(float* scores, int count, int padded, float top) const {
        return shape_.eight ? exponentiate<Full>(scores, count, padded, top, scale_) : exponentiate<N>(scores, count, padded, top, scale_);
    }

    // ``weights`` begin at position 0, the page at ``at``.
    void weigh(int some, const float* weights, int at, int padded, Page page, int length, float* out, Page then) const {
        const uint32_t *values = shape_.values(page, layer_, head_), *ahead = shape_.values(then, layer_, head_);
        const int positions = std::min(PAGE, length), width = shape_.value_words();
        if (shape_.eight)
            weigh_page_of_bytes(some, weights + at, padded, positions, reinterpret_cast<const int8_t*>(values),
                                shape_.scales(page, layer_, head_) + PAGE, width, out, reinterpret_cast<const int8_t*>(ahead));
        else
            weigh_page<N>(some, reinterpret_cast<const uint32_t*>(weights) + at / N::PAIR, padded, positions, values, width, out, ahead);
    }

    const CacheShape<N>& shape_;
    int layer_, head_, per_row_;
    float scale_;
    ByteQueries bytes_{};
};

}  // namespace r1
