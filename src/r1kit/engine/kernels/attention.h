// Attention of single new positions over the cache.
//
// A row sees the first ``seen`` positions of its prompt and all of its own. Rows of one group stand together and their prompt is read once for all
// of them; a prompt being computed is such a group too, whose row t sees t + 1 positions. softmax(scale q k) is taken over both parts at once.
// Latent attention is the case of one key-value head whose key is [latent; rotated] and whose value is the latent.
#pragma once

#include <algorithm>
#include <cmath>

#include "cache.h"

namespace r1 {

struct Span {
    const Pages* prompt;
    int seen;
    const Pages* own;
    int own_length;
};

constexpr int QUERIES_AT_ONCE = 64;

// out[q][16 b + lane] = query q times key of position 16 b + lane, for QUERIES queries and BLOCK_COUNT blocks of one page.
template <class N, int QUERIES, int BLOCK_COUNT>
void score(const uint32_t* queries, int words, const uint32_t* keys, float* out, size_t out_step) {
    Vector sums[QUERIES][BLOCK_COUNT];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    for (int word = 0; word < words; word++) {
        Words ks[BLOCK_COUNT];
        for (int b = 0; b < BLOCK_COUNT; b++) ks[b] = _mm512_loadu_si512(keys + word * PAGE + b * LANES);
        for (int q = 0; q < QUERIES; q++) {
            const Words query = _mm512_set1_epi32(int(queries[q * words + word]));
            for (int b = 0; b < BLOCK_COUNT; b++) sums[q][b] = N::dot(sums[q][b], query, ks[b]);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < QUERIES; q++)
#pragma GCC unroll 4
        for (int b = 0; b < BLOCK_COUNT; b++) _mm512_storeu_ps(out + q * out_step + b * LANES, sums[q][b]);
}

template <class N, int BLOCK_COUNT>
void score(int queries, const uint32_t* query, int words, const uint32_t* keys, float* out, size_t out_step) {
    for (; queries >= 4; queries -= 4, query += 4 * words, out += 4 * out_step) score<N, 4, BLOCK_COUNT>(query, words, keys, out, out_step);
    if (queries & 2) score<N, 2, BLOCK_COUNT>(query, words, keys, out, out_step), query += 2 * words, out += 2 * out_step;
    if (queries & 1) score<N, 1, BLOCK_COUNT>(query, words, keys, out, out_step);
}

template <class N>
void score_page(int queries, const uint32_t* query, int words, const uint32_t* keys, int positions, float* out, size_t out_step) {
    switch (divide_up(positions, LANES)) {
        case 1: return score<N, 1>(queries, query, words, keys, out, out_step);
        case 2: return score<N, 2>(queries, query, words, keys, out, out_step);
        case 3: return score<N, 3>(queries, query, words, keys, out, out_step);
        default: return score<N, 4>(queries, query, words, keys, out, out_step);
    }
}

// sums[q][0..VECTORS) += sum over ``steps`` words of positions of weight times value.
template <class N, int QUERIES, int VECTORS>
void weigh(const uint32_t* weights, size_t weight_step, int steps, const uint32_t* values, int value_words, float* sums) {
    Vector totals[QUERIES][VECTORS];
#pragma GCC unroll 4
    for (int q = 0; q < QUERIES; q++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) totals[q][v] = _mm512_loadu_ps(sums + q * value_words + v * LANES);
    for (int step = 0; step < steps; step++) {
        Words vs[VECTORS];
        for (int v = 0; v < VECTORS; v++) vs[v] = _mm512_loadu_si512(values + step * value_words + v * LANES);
        for (int q = 0; q < QUERIES; q++) {
            const Words weight = _mm512_set1_epi32(int(weights[q * weight_step + step]));
            for (int v = 0; v < VECTORS; v++) totals[q][v] = N::dot(totals[q][v], weight, vs[v]);
        }
    }
#pragma GCC unroll 4
    for (int q = 0; q < QUERIES; q++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) _mm512_storeu_ps(sums + q * value_words + v * LANES, totals[q][v]);
}

template <class N, int QUERIES>
void weigh_all(const uint32_t* weights, size_t weight_step, int steps, const uint32_t* values, int value_words, float* sums) {
    int done = 0;
    for (; value_words - done >= 4 * LANES; done += 4 * LANES)
        weigh<N, QUERIES, 4>(weights, weight_step, steps, values + done, value_words, sums + done);
    for (; value_words - done >= LANES; done += LANES)
        weigh<N, QUERIES, 1>(weights, weight_step, steps, values + done, value_words, sums + done);
}

template <class N>
void weigh_page(int queries, const uint32_t* weights, size_t weight_step, int positions, const uint32_t* values, int value_words,
                float* sums) {
    const int steps = divide_up(positions, N::PAIR);
    for (; queries >= 4; queries -= 4, weights += 4 * weight_step, sums += 4 * value_words)
        weigh_all<N, 4>(weights, weight_step, steps, values, value_words, sums);
    for (; queries >= 1; queries -= 1, weights += weight_step, sums += value_words)
        weigh_all<N, 1>(weights, weight_step, steps, values, value_words, sums);
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
        const int count = rows * per_row_, words = shape_.key_words(), width = shape_.value_words();
        int seen = 0, longest = 0;
        for (int r = 0; r < rows; r++) seen = std::max(seen, spans[r].seen), longest = std::max(longest, spans[r].own_length);
        const int prompt_padded = round_up(seen, LANES), padded = prompt_padded + round_up(longest, LANES);
        static thread_local Buffer<float> buffer;
        float* scores = buffer.at_least(size_t(count) * padded);
        std::fill(out, out + size_t(count) * width, 0.0f);

        for (int at = 0; at < seen; at += PAGE)
            score_page<N>(count, queries, words, keys(spans->prompt, at), seen - at, scores + at, padded);
        for (int r = 0; r < rows; r++)
            for (int at = 0; at < spans[r].own_length; at += PAGE)
                score_page<N>(per_row_, queries + size_t(r) * per_row_ * words, words, keys(spans[r].own, at), spans[r].own_length - at,
                              scores + size_t(r) * per_row_ * padded + prompt_padded + at, padded);

        static thread_local std::vector<float> sums;
        sums.resize(count);
        for (int q = 0; q < count; q++) {
            const Span& span = spans[q / per_row_];
            float *of_prompt = scores + size_t(q) * padded, *of_own = of_prompt + prompt_padded;
            const float top = largest(of_own, span.own_length, largest(of_prompt, span.seen, -INFINITY));
            const Vector sum = exponentiate<N>(of_prompt, span.seen, prompt_padded, top, scale_);
            const Vector own = exponentiate<N>(of_own, span.own_length, round_up(span.own_length, LANES), top, scale_);
            sums[q] = 1.0f / _mm512_reduce_add_ps(_mm512_add_ps(sum, own));
        }

        const auto* weights = reinterpret_cast<const uint32_t*>(scores);
        for (int at = 0; at < seen; at += PAGE)
            weigh_page<N>(count, weights + at / N::PAIR, padded, std::min(PAGE, seen - at), values(spans->prompt, at), width, out);
        for (int r = 0; r < rows; r++)
            for (int at = 0; at < spans[r].own_length; at += PAGE)
                weigh_page<N>(per_row_, weights + size_t(r) * per_row_ * padded + prompt_padded + at / N::PAIR, padded,
                              std::min(PAGE, spans[r].own_length - at), values(spans[r].own, at), width,
                              out + size_t(r) * per_row_ * width);
        for (int q = 0; q < count; q++)
            for (int i = 0; i < width; i++) out[size_t(q) * width + i] *= sums[q];
    }

  private:
    const uint32_t* keys(const Pages* pages, int at) const { return shape_.keys((*pages)[at / PAGE], layer_, head_); }
    const uint32_t* values(const Pages* pages, int at) const { return shape_.values((*pages)[at / PAGE], layer_, head_); }

    const CacheShape<N>& shape_;
    int layer_, head_, per_row_;
    float scale_;
};

}  // namespace r1
