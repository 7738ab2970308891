// Muon's iteration (train/optimizers.py: orthogonalise) for small matrices: one matrix at a time stays in the second-level cache through all its
// steps. Factors are bfloat16, sums float32.
//
// x is [rows, columns], rows <= columns, both padded with zeros to multiples of 16. g = x x^T and g g are symmetric, so a third of their tiles,
// those below the diagonal, are not computed but mirrored: the same products in the same order give the same bits.
#pragma once

#include "attention.h"

namespace r1 {

constexpr int STRIP = 2 * LANES;  // columns that one tile of a product covers

// lines[i][j] becomes lines[j][i].
inline void transpose(__m512i lines[LANES]) {
    __m512i pairs[LANES];
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(lines[i], lines[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(lines[i], lines[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int k = 0; k < 2; k++) {
            lines[i + 2 * k] = _mm512_unpacklo_epi64(pairs[i + k], pairs[i + k + 2]);
            lines[i + 2 * k + 1] = _mm512_unpackhi_epi64(pairs[i + k], pairs[i + k + 2]);
        }
    // lines[4 q + c] has column 4 b + c of rows 4 q .. 4 q + 3 in its quarter b.
    for (int c = 0; c < 4; c++) {
        const __m512i even = _mm512_shuffle_i32x4(lines[c], lines[4 + c], 0x88), odd = _mm512_shuffle_i32x4(lines[c], lines[4 + c], 0xdd);
        const __m512i even_below = _mm512_shuffle_i32x4(lines[8 + c], lines[12 + c], 0x88), odd_below = _mm512_shuffle_i32x4(lines[8 + c], lines[12 + c], 0xdd);
        pairs[c] = _mm512_shuffle_i32x4(even, even_below, 0x88);
        pairs[8 + c] = _mm512_shuffle_i32x4(even, even_below, 0xdd);
        pairs[4 + c] = _mm512_shuffle_i32x4(odd, odd_below, 0x88);
        pairs[12 + c] = _mm512_shuffle_i32x4(odd, odd_below, 0xdd);
    }
    for (int i = 0; i < LANES; i++) lines[i] = pairs[i];
}

// to[j, i] = from[i, j] of a block of 16 x 16.
inline void turn_block(const void* from, long from_step, void* to, long to_step) {
    __m512i lines[LANES];
    for (int i = 0; i < LANES; i++) lines[i] = _mm512_loadu_si512((const Word*)from + i * from_step);
    transpose(lines);
    for (int i = 0; i < LANES; i++) _mm512_storeu_si512((Word*)to + i * to_step, lines[i]);
}

struct Orthogonal {
    long rows, columns;                                  // padded
    std::vector<Word> x, x_turned, x_pairs, g, g_pairs;  // as rows; one row a pair of columns; one row a pair of rows
    std::vector<float> products;                         // of the larger kind, [rows, columns]

    Orthogonal(long rows, long columns)
        : rows(rows), columns(columns), x(rows * columns / 2), x_turned(x.size()), x_pairs(x.size()), g(rows * rows / 2), g_pairs(g.size()),
          products(rows * columns) {}

    // products = a b of symmetric result [rows, rows], where a has so many words a row.
    void symmetric(const Word* a, long words, const Word* b) {
        std::fill_n(products.begin(), rows * rows, 0.0f);
        for (long i = 0; i < rows; i += TILE) {
            const long from = i / STRIP * STRIP;
            multiply(products.data() + i * rows + from, rows, a + i * words, words, b + from, rows, TILE, int(rows - from), int(words));
        }
        for (long i = STRIP; i < rows; i += LANES)
            for (long j = 0; j < i / STRIP * STRIP; j += LANES) turn_block(products.data() + j * rows + i, rows, products.data() + i * rows + j, rows);
    }

    // a x + (b g + c g g) x with g = x x^T.
    void step(float a, float b, float c) {
        const long words = columns / 2;
        for (long t = 0; t < rows; t += LANES)
            for (long w = 0; w < words; w += LANES) turn_some(t, w, words);
        interleave(x.data(), rows, int(columns), x_pairs.data());
        symmetric(x.data(), words, x_turned.data());
        Half* cells = reinterpret_cast<Half*>(g.data());
        for (long i = 0; i < rows * rows; i += LANES) store(cells + i, load(products.data() + i));
        interleave(g.data(), rows, int(rows), g_pairs.data());
        symmetric(g.data(), rows / 2, g_pairs.data());
        for (long i = 0; i < rows * rows; i += LANES)
            store(cells + i, _mm512_fmadd_ps(all(c), load(products.data() + i), _mm512_mul_ps(all(b), load(cells + i))));
        std::fill(products.begin(), products.end(), 0.0f);
        multiply(products.data(), columns, g.data(), rows / 2, x_pairs.data(), columns, int(rows), int(columns), int(rows / 2));
        Half* own = reinterpret_cast<Half*>(x.data());
        for (long i = 0; i < rows * columns; i += LANES) store(own + i, _mm512_fmadd_ps(all(a), load(own + i), load(products.data() + i)));
    }

    // Words w to w + 15 of rows t to t + 15; the last words of a row may be fewer.
    void turn_some(long t, long w, long words) {
        if (w + LANES <= words) return turn_block(x.data() + t * words + w, words, x_turned.data() + w * rows + t, rows);
        for (; w < words; w++) _mm512_storeu_si512(x_turned.data() + w * rows + t, column(x.data() + t * words + w, int(words)));
    }
};

inline long padded_to_lanes(long count) { return (count + LANES - 1) / LANES * LANES; }

// One matrix [rows, columns]: its numbers over their norm, then the iterations.
inline void orthogonalise(const float* from, float* to, long rows, long columns, int iterations, const float* coefficients, Orthogonal& work) {
    Lanes squares = _mm512_setzero_ps();
    for (long i = 0; i < rows * columns; i += LANES) {
        const Lanes some = load(from + i, first(rows * columns - i));
        squares = _mm512_fmadd_ps(some, some, squares);
    }
    const Lanes norm = all(__builtin_sqrtf(_mm512_reduce_add_ps(squares)) + 1e-7f);
    Half* x = reinterpret_cast<Half*>(work.x.data());
    std::fill(work.x.begin(), work.x.end(), 0);
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < columns; i += LANES) {
            const Mask mask = first(columns - i);
            store(x + row * work.columns + i, _mm512_div_ps(load(from + row * columns + i, mask), norm), mask);
        }
    for (int i = 0; i < iterations; i++) work.step(coefficients[0], coefficients[1], coefficients[2]);
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < columns; i += LANES) {
            const Mask mask = first(columns - i);
            store(to + row * columns + i, load(x + row * work.columns + i, mask), mask);
        }
}

inline void orthogonalise_all(const float* from, float* to, long count, long rows, long columns, int iterations, const float* coefficients, int threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Orthogonal work(padded_to_lanes(rows), padded_to_lanes(columns));
#pragma omp for schedule(static)
        for (long i = 0; i < count; i++)
            orthogonalise(from + i * rows * columns, to + i * rows * columns, rows, columns, iterations, coefficients, work);
    }
}

}  // namespace r1
