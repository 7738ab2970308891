// Logits of bfloat16 hidden states with float32 sums: out[n, v] = sum_d x[n, d] w[v, d], nothing rounded on the way.
//
// The weights of 64 tokens are rounded to bfloat16 and laid out word by word (two neighbouring inputs of each token), so that a panel stays in
// the second-level cache while all rows pass it. A tile of 6 rows and 64 tokens is summed in registers over the whole width, in one order
// whatever the number of rows.
#pragma once

#include "lanes.h"

namespace r1 {

constexpr int HEAD_VECTORS = 4, HEAD_PANEL = HEAD_VECTORS * LANES, HEAD_ROWS = 6;

inline __m512i words_of(const float* from, long count) {
    const Lanes low = load(from, first(count)), high = load(from + LANES, first(std::max(count - LANES, 0L)));
    return round_halves(low, high);
}
inline __m512i words_of(const Half* from, long count) { return _mm512_maskz_loadu_epi16(count >= 32 ? ~0u : (1u << count) - 1, from); }

// to[word, token] of `tokens` rows of w; the panel's other tokens become zero.
template <class Cell>
void lay_out(const Cell* w, long tokens, long width, uint32_t* to) {
    if (tokens < HEAD_PANEL) std::memset(to, 0, sizeof(uint32_t) * HEAD_PANEL * (width / 2));
    const __m512i places = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(HEAD_PANEL));
    for (long token = 0; token < tokens; token++)
        for (long d = 0; d < width; d += 2 * LANES)
            _mm512_mask_i32scatter_epi32(to + d / 2 * HEAD_PANEL + token, first((width - d) / 2), places, words_of(w + token * width + d, width - d), 4);
}

template <int ROWS, class Left>
void logits_tile(const Left* x, long x_step, long words, const uint32_t* panel, float* out, long vocabulary, long tokens) {
    Lanes sums[ROWS][HEAD_VECTORS];
    for (auto& row : sums)
        for (auto& sum : row) sum = _mm512_setzero_ps();
    for (long word = 0; word < words; word++, panel += HEAD_PANEL) {
        __m512i w[HEAD_VECTORS];
        for (int v = 0; v < HEAD_VECTORS; v++) w[v] = _mm512_loadu_si512(panel + v * LANES);
        for (int r = 0; r < ROWS; r++) {
            const auto two = left_of(x + r * x_step, word);
            for (int v = 0; v < HEAD_VECTORS; v++) sums[r][v] = dot_halves(sums[r][v], two, w[v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < HEAD_VECTORS; v++)
            if (tokens > v * LANES) store(out + r * vocabulary + v * LANES, sums[r][v], first(tokens - v * LANES));
}

template <class Left>
void logits_rows(int rows, const Left* x, long x_step, long words, const uint32_t* panel, float* out, long vocabulary, long tokens) {
    switch (rows) {
        case 1: return logits_tile<1>(x, x_step, words, panel, out, vocabulary, tokens);
        case 2: return logits_tile<2>(x, x_step, words, panel, out, vocabulary, tokens);
        case 3: return logits_tile<3>(x, x_step, words, panel, out, vocabulary, tokens);
        case 4: return logits_tile<4>(x, x_step, words, panel, out, vocabulary, tokens);
        case 5: return logits_tile<5>(x, x_step, words, panel, out, vocabulary, tokens);
        default: return logits_tile<6>(x, x_step, words, panel, out, vocabulary, tokens);
    }
}

template <class Cell>
void logits(const Half* x, const Cell* w, float* out, long rows, long vocabulary, long width, int threads) {
    const long words = width / 2;
    std::vector<float> wide(DOTS_HALVES ? 0 : rows * width);  // else rows of words are read as they are
    if (!DOTS_HALVES) widen_halves(x, rows * width, wide.data());
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<uint32_t> panel(HEAD_PANEL * words);
#pragma omp for schedule(dynamic, 4)
        for (long token = 0; token < vocabulary; token += HEAD_PANEL) {
            const long tokens = std::min<long>(HEAD_PANEL, vocabulary - token);
            lay_out(w + token * width, tokens, width, panel.data());
            for (long row = 0; row < rows; row += HEAD_ROWS) {
                const int some = int(std::min<long>(HEAD_ROWS, rows - row));
                float* to = out + row * vocabulary + token;
                if constexpr (DOTS_HALVES)
                    logits_rows(some, (const uint32_t*)x + row * words, words, words, panel.data(), to, vocabulary, tokens);
                else
                    logits_rows(some, wide.data() + row * width, width, words, panel.data(), to, vocabulary, tokens);
            }
        }
    }
}

}  // namespace r1
