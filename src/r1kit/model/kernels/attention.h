// softmax(scale q k^T) v over the keys that a query sees, in bfloat16 with float32 sums, and its gradient; blocks that no query attends to are not computed.
//
// A query at position t sees [own, t] and further ranges [from, to), of each beginning that it shares with others, or of what follows it where attention
// is bidirectional: one number a position, and two more for each range. Queries go in blocks, and for each block only the blocks of keys count that
// one of its queries sees; within two blocks, only the strips of 8 queries and 16 keys of which a query sees a key. What is left out are products
// with zero, so the bits are those of all. Slopes are found again from the log of each row's sum (Dao et al. 2205.14135, algorithm 4).
//
// Every product is C[m, n] += A[m, pairs] B[pairs, n], where a pair is two bfloat16 numbers of the inner dimension in one 32-bit word. Rows of q
// or P hold pairs as they lie in memory; "turned" is a matrix with one row a pair, which lies in memory block of positions by block, so that what one
// product reads is a few adjoining kilobytes however long the line is. dK and dV are summed transposed: so P and dS, whose rows are queries, become
// pairs of queries by interleaving two rows.
#pragma once

#include <array>
#include <limits>
#include <memory>

#include "lanes.h"

namespace r1 {

constexpr int BLOCK = 32;  // queries, and keys, of a block
constexpr int BEGINNINGS = 4;  // the most that a query sees

using Word = uint32_t;

constexpr int TILE = 8;        // rows of a product that are computed at once
constexpr int WIDENED = 64;    // pairs of them that are made float32 at a time, where a product of words is not one instruction

template <int COLUMNS, class Left>
inline void tile(float* c, long ldc, const Left* a, long lda, const Word* b, long ldb, int pairs) {
    Lanes sum[TILE][COLUMNS];
    for (int r = 0; r < TILE; r++)
        for (int n = 0; n < COLUMNS; n++) sum[r][n] = load(c + r * ldc + n * LANES);
    for (int p = 0; p < pairs; p++) {
        __m512i right[COLUMNS];
        for (int n = 0; n < COLUMNS; n++) right[n] = _mm512_loadu_si512(b + p * ldb + n * LANES);
        for (int r = 0; r < TILE; r++) {
            const auto left = left_of(a + r * lda, p);
            for (int n = 0; n < COLUMNS; n++) sum[r][n] = dot_halves(sum[r][n], left, right[n]);
        }
    }
    for (int r = 0; r < TILE; r++)
        for (int n = 0; n < COLUMNS; n++) store(c + r * ldc + n * LANES, sum[r][n]);
}

template <class Left>
inline void tiles(float* c, long ldc, const Left* a, long lda, const Word* b, long ldb, int n, int pairs) {
    for (int j = 0; j < n; j += 2 * LANES)
        if (n - j >= 2 * LANES)
            tile<2>(c + j, ldc, a, lda, b + j, ldb, pairs);
        else
            tile<1>(c + j, ldc, a, lda, b + j, ldb, pairs);
}

// m a multiple of 8, n of 16.
inline void multiply(float* c, long ldc, const Word* a, long lda, const Word* b, long ldb, int m, int n, int pairs) {
    for (int i = 0; i < m; i += TILE) {
        if constexpr (DOTS_HALVES) {
            tiles(c + i * ldc, ldc, a + i * lda, lda, b, ldb, n, pairs);
        } else {
            alignas(64) float wide[TILE * 2 * WIDENED];
            for (int p = 0; p < pairs; p += WIDENED) {
                const int some = std::min(WIDENED, pairs - p);
                for (int r = 0; r < TILE; r++) widen_halves(reinterpret_cast<const Half*>(a + (i + r) * lda + p), 2 * some, wide + r * 2 * WIDENED);
                tiles(c + i * ldc, ldc, wide, 2 * WIDENED, b + p * ldb, ldb, n, some);
            }
        }
    }
}

// The strided rows of one head: row t begins at data + t stride.
struct Rows {
    const Half* data;
    long stride;
    const Half* operator[](long t) const { return data + t * stride; }
};

// [rows, width] as 32-bit words of each row, rows beyond `rows` zero.
inline void copy_rows(Rows from, long rows, long padded, int width, Word* to) {
    for (long t = 0; t < rows; t++) std::memcpy(to + t * width / 2, from[t], width * sizeof(Half));
    std::memset(to + rows * width / 2, 0, (padded - rows) * width * sizeof(Half));
}

// 16 numbers of 32 bits, `stride` apart.
inline __m512i column(const void* from, long stride) {
    const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_i32gather_epi32(_mm512_mullo_epi32(places, _mm512_set1_epi32(stride)), from, 4);
}

// Of each STEP rows t, to[word, t] = from[t, word]; STEP and rows are multiples of 16.
template <int STEP>
inline void turn(const Word* from, long rows, long words, Word* to) {
    for (long t = 0; t < rows; t += LANES)
        for (long w = 0; w < words; w++) _mm512_storeu_si512(to + (t - t % STEP) * words + w * STEP + t % STEP, column(from + t * words + w, words));
}

// to[t / 2, i] = the pair (from[t, i], from[t + 1, i]); width a multiple of 16
inline void interleave(const Word* from, long rows, int width, Word* to) {
    const Half* cells = reinterpret_cast<const Half*>(from);
    for (long t = 0; t < rows; t += 2)
        for (int i = 0; i < width; i += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(cells + t * width + i)));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(cells + (t + 1) * width + i)));
            _mm512_storeu_si512(to + t / 2 * width + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}

struct Shape {
    long B, T, H, J;
    int K, V;
    int beginnings;
    float scale;
    long padded() const { return (T + BLOCK - 1) / BLOCK * BLOCK; }
};

// The numbers of one line, [1 + 2 beginnings, T].
struct Sight {
    const int32_t* own;
    long T;
    int beginnings;
    const int32_t* from(int i) const { return own + (1 + 2 * i) * T; }
    const int32_t* to(int i) const { return from(i) + T; }
};

// The blocks of keys that a block of queries sees.
inline void visible_blocks(const Sight& sight, long begin, long end, std::vector<long>& blocks) {
    const long own = *std::min_element(sight.own + begin, sight.own + end);
    std::array<long, BEGINNINGS> from, to;
    for (int i = 0; i < sight.beginnings; i++) {
        from[i] = end, to[i] = 0;
        for (long t = begin; t < end; t++)
            if (sight.from(i)[t] < sight.to(i)[t]) from[i] = std::min<long>(from[i], sight.from(i)[t]), to[i] = std::max<long>(to[i], sight.to(i)[t]);
    }
    blocks.clear();
    long last = end;
    for (int i = 0; i < sight.beginnings; i++) last = std::max(last, to[i]);
    for (long s = 0; s < last; s += BLOCK) {
        bool visible = s < end && s + BLOCK > own;
        for (int i = 0; i < sight.beginnings; i++) visible |= s < to[i] && s + BLOCK > from[i];
        if (visible) blocks.push_back(s);
    }
}

inline Mask seen(const Sight& sight, long t, long s) {
    const __m512i places = _mm512_add_epi32(_mm512_set1_epi32(s), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    Mask mask = _mm512_cmpge_epi32_mask(places, _mm512_set1_epi32(sight.own[t])) & _mm512_cmple_epi32_mask(places, _mm512_set1_epi32(t));
    for (int i = 0; i < sight.beginnings; i++)
        mask |= _mm512_cmpge_epi32_mask(places, _mm512_set1_epi32(sight.from(i)[t])) & _mm512_cmplt_epi32_mask(places, _mm512_set1_epi32(sight.to(i)[t]));
    return mask;
}

constexpr int HALVES = BLOCK / LANES;  // strips of keys in a block
constexpr int STRIPS = BLOCK / TILE;   // strips of queries

// What the queries of one block see of the keys of another.
struct Pattern {
    Mask masks[BLOCK][HALVES];
    bool any[STRIPS][HALVES];  // whether one of a strip's queries sees a key of that half

    Pattern(const Sight& sight, long begin, long end, long s) {
        for (int strip = 0; strip < STRIPS; strip++)
            for (int half = 0; half < HALVES; half++) {
                Mask found = 0;
                for (int r = strip * TILE; r < (strip + 1) * TILE; r++)
                    found |= masks[r][half] = begin + r < end ? seen(sight, begin + r, s + half * LANES) : Mask(0);
                any[strip][half] = found != 0;
            }
    }

    // The first strip of queries of which one sees a key of that half, and the first after the last one.
    int from(int half) const {
        int strip = 0;
        while (strip < STRIPS && !any[strip][half]) strip++;
        return strip;
    }
    int to(int half) const {
        int strip = STRIPS;
        while (strip > 0 && !any[strip - 1][half]) strip--;
        return strip;
    }
};
static_assert(HALVES == 2, "products are computed for the first half, the second, or both");

// c[query, key] += a[query, pairs] b[pairs, key] where a query of the strip sees a key of the half; the rows of b are BLOCK apart.
inline void multiply_seen(const Pattern& pattern, float* c, long ldc, const Word* a, long lda, const Word* b, int pairs) {
    for (int strip = 0; strip < STRIPS; strip++) {
        const bool *any = pattern.any[strip], both = any[0] && any[1];
        if (!any[0] && !any[1]) continue;
        const int from = any[0] ? 0 : LANES;
        multiply(c + strip * TILE * ldc + from, ldc, a + strip * TILE * lda, lda, b + from, BLOCK, TILE, both ? BLOCK : LANES, pairs);
    }
}

// c[query, n] += p[query, keys] v[keys, n] with the pairs of keys of which a query of the strip sees one.
inline void gather_seen(const Pattern& pattern, float* c, long ldc, const Word* p, long ldp, const Word* v, int n) {
    for (int strip = 0; strip < STRIPS; strip++) {
        const bool* any = pattern.any[strip];
        if (!any[0] && !any[1]) continue;
        const int from = any[0] ? 0 : LANES / 2, to = any[1] ? LANES : LANES / 2;
        multiply(c + strip * TILE * ldc, ldc, p + strip * TILE * ldp + from, ldp, v + from * n, n, TILE, n, to - from);
    }
}

// c[n, key] += across[n, queries] p[queries, key] with the pairs of queries that see a key of the half.
inline void spread_seen(const Pattern& pattern, float* c, const Word* across, const Word* p, int n) {
    constexpr int PAIRS = TILE / 2;
    const auto some = [&](int key, int keys, int from, int to) {
        if (from < to)
            multiply(c + key, BLOCK, across + from * PAIRS, BLOCK / 2, p + from * PAIRS * BLOCK + key, BLOCK, n, keys, (to - from) * PAIRS);
    };
    const int from[] = {pattern.from(0), pattern.from(1)}, to[] = {pattern.to(0), pattern.to(1)};
    if (from[0] == from[1] && to[0] == to[1]) return some(0, BLOCK, from[0], to[0]);
    for (int half = 0; half < HALVES; half++) some(half * LANES, LANES, from[half], to[half]);
}

inline void attend_head(const Word* q, const Word* k_turned, const Word* v_pairs, const Shape& shape, const Sight& sight, Half* out, float* logsum) {
    std::vector<long> blocks;
    std::vector<Pattern> patterns;
    std::vector<float> scores;
    std::vector<Half> chances;
    std::vector<float> sums(BLOCK * shape.V);
    for (long begin = 0; begin < shape.T; begin += BLOCK) {
        const long end = std::min(begin + BLOCK, shape.T);
        visible_blocks(sight, begin, end, blocks);
        patterns.clear();
        for (const long s : blocks) patterns.emplace_back(sight, begin, end, s);
        const long width = blocks.size() * BLOCK;
        scores.assign(BLOCK * width, 0.0f);
        chances.assign(BLOCK * width, 0);
        for (size_t i = 0; i < blocks.size(); i++)
            multiply_seen(patterns[i], scores.data() + i * BLOCK, width, q + begin * shape.K / 2, shape.K / 2, k_turned + blocks[i] * (shape.K / 2),
                          shape.K / 2);
        for (long t = begin; t < end; t++) {
            float* row = scores.data() + (t - begin) * width;
            Half* chance = chances.data() + (t - begin) * width;
            const auto each = [&](auto work) {  // work(sixteen scores, which of them are seen)
                float* some = row;
                for (const Pattern& pattern : patterns)
                    for (int half = 0; half < HALVES; half++, some += LANES) work(some, pattern.masks[t - begin][half]);
            };
            Lanes peak = all(-std::numeric_limits<float>::infinity()), sum = _mm512_setzero_ps();
            each([&](float* some, Mask mask) { peak = _mm512_mask_max_ps(peak, mask, peak, load(some)); });
            const float most = _mm512_reduce_max_ps(peak) * shape.scale;
            each([&](float* some, Mask mask) {
                const Lanes e = mask ? _mm512_maskz_mov_ps(mask, exp(_mm512_fmsub_ps(load(some), all(shape.scale), all(most)))) : _mm512_setzero_ps();
                store(some, e);
                sum = _mm512_add_ps(sum, e);
            });
            const float total = _mm512_reduce_add_ps(sum);
            logsum[t] = most + __builtin_logf(total);
            for (long i = 0; i < width; i += LANES) store(chance + i, _mm512_mul_ps(load(row + i), all(1.0f / total)));
        }
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (size_t i = 0; i < blocks.size(); i++)
            gather_seen(patterns[i], sums.data(), shape.V, reinterpret_cast<const Word*>(chances.data() + i * BLOCK), width / 2,
                        v_pairs + blocks[i] / 2 * shape.V, shape.V);
        for (long t = begin; t < end; t++)
            for (int i = 0; i < shape.V; i += LANES) store(out + t * shape.H * shape.V + i, load(sums.data() + (t - begin) * shape.V + i));
    }
}

// Keys and values of one key-value head in the layouts that the products want; those of the slopes only if asked for.
struct Keys {
    std::vector<Word> k_turned, v_pairs, k_pairs, v_turned;
    Keys(Rows k, Rows v, const Shape& shape, bool slopes) {
        const long rows = shape.padded();
        std::vector<Word> k_rows(rows * shape.K / 2), v_rows(rows * shape.V / 2);
        copy_rows(k, shape.T, rows, shape.K, k_rows.data());
        copy_rows(v, shape.T, rows, shape.V, v_rows.data());
        k_turned.resize(k_rows.size());
        turn<BLOCK>(k_rows.data(), rows, shape.K / 2, k_turned.data());
        if (!slopes) {
            v_pairs.resize(v_rows.size());
            interleave(v_rows.data(), rows, shape.V, v_pairs.data());
            return;
        }
        k_pairs.resize(k_rows.size());
        interleave(k_rows.data(), rows, shape.K, k_pairs.data());
        v_turned.resize(v_rows.size());
        turn<BLOCK>(v_rows.data(), rows, shape.V / 2, v_turned.data());
    }
};

// Rows of one query head, and the same transposed into pairs of rows: [width, BLOCK / 2] of each block.
struct Queries {
    std::vector<Word> rows, across;
    Queries(Rows from, const Shape& shape, int width, bool transposed) : rows(shape.padded() * width / 2) {
        copy_rows(from, shape.T, shape.padded(), width, rows.data());
        if (!transposed) return;
        std::vector<Word> pairs(rows.size());
        interleave(rows.data(), shape.padded(), width, pairs.data());
        across.resize(rows.size());
        turn<BLOCK / 2>(pairs.data(), shape.padded() / 2, width, across.data());
    }
};

struct Block {
    alignas(64) float chances[BLOCK * BLOCK], slopes[BLOCK * BLOCK];
    alignas(64) Word chance_rows[BLOCK * BLOCK / 2], slope_rows[BLOCK * BLOCK / 2], chance_pairs[BLOCK * BLOCK / 2], slope_pairs[BLOCK * BLOCK / 2];
};

inline void attend_head_slopes(const Queries& q, const Queries& g, const Keys& keys, const Shape& shape, const Sight& sight, const float* logsum,
                               const float* dots, Half* of_q, float* of_k_turned, float* of_v_turned, Block& block) {
    std::vector<long> blocks;
    std::vector<float> sums(BLOCK * shape.K);
    for (long begin = 0; begin < shape.T; begin += BLOCK) {
        const long end = std::min(begin + BLOCK, shape.T);
        visible_blocks(sight, begin, end, blocks);
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (const long s : blocks) {
            const Pattern pattern(sight, begin, end, s);
            std::memset(block.chances, 0, sizeof(block.chances));
            std::memset(block.slopes, 0, sizeof(block.slopes));
            multiply_seen(pattern, block.chances, BLOCK, q.rows.data() + begin * shape.K / 2, shape.K / 2, keys.k_turned.data() + s * (shape.K / 2),
                          shape.K / 2);
            multiply_seen(pattern, block.slopes, BLOCK, g.rows.data() + begin * shape.V / 2, shape.V / 2, keys.v_turned.data() + s * (shape.V / 2),
                          shape.V / 2);
            for (long t = begin; t < begin + BLOCK; t++) {
                const long row = (t - begin) * BLOCK;
                Half *chance = reinterpret_cast<Half*>(block.chance_rows) + row, *slope = reinterpret_cast<Half*>(block.slope_rows) + row;
                for (int i = 0; i < BLOCK; i += LANES) {
                    const Mask mask = pattern.masks[t - begin][i / LANES];
                    Lanes p = _mm512_setzero_ps(), d = p;
                    if (mask) {
                        p = _mm512_maskz_mov_ps(mask, exp(_mm512_fmsub_ps(load(block.chances + row + i), all(shape.scale), all(logsum[t]))));
                        d = _mm512_mul_ps(p, _mm512_sub_ps(load(block.slopes + row + i), all(dots[t])));
                    }
                    store(chance + i, p);
                    store(slope + i, d);
                }
            }
            interleave(block.chance_rows, BLOCK, BLOCK, block.chance_pairs);
            interleave(block.slope_rows, BLOCK, BLOCK, block.slope_pairs);
            gather_seen(pattern, sums.data(), shape.K, block.slope_rows, BLOCK / 2, keys.k_pairs.data() + s / 2 * shape.K, shape.K);
            spread_seen(pattern, of_k_turned + s * shape.K, q.across.data() + begin / 2 * shape.K, block.slope_pairs, shape.K);
            spread_seen(pattern, of_v_turned + s * shape.V, g.across.data() + begin / 2 * shape.V, block.chance_pairs, shape.V);
        }
        for (long t = begin; t < end; t++)
            for (int i = 0; i < shape.K; i += LANES)
                store(of_q + t * shape.H * shape.K + i, _mm512_mul_ps(load(sums.data() + (t - begin) * shape.K + i), all(shape.scale)));
    }
}

// A strided [B, T, heads, width] tensor.
struct Heads {
    const Half* data;
    long line, token, head;
    Rows operator()(long b, long h) const { return {data + b * line + h * head, token}; }
};

inline Sight sight_of(const int32_t* sights, const Shape& shape, long b) {
    return {sights + b * (1 + 2 * shape.beginnings) * shape.T, shape.T, shape.beginnings};
}

inline void attend(Heads q, Heads k, Heads v, const int32_t* sights, Half* out, float* logsum, const Shape& shape, int threads) {
    const long group = shape.H / shape.J;
#pragma omp parallel for num_threads(threads) collapse(2) schedule(dynamic) if (threads > 1)
    for (long b = 0; b < shape.B; b++)
        for (long j = 0; j < shape.J; j++) {
            const Keys keys(k(b, j), v(b, j), shape, false);
            for (long h = j * group; h < (j + 1) * group; h++) {
                const Queries queries(q(b, h), shape, shape.K, false);
                attend_head(queries.rows.data(), keys.k_turned.data(), keys.v_pairs.data(), shape, sight_of(sights, shape, b),
                            out + (b * shape.T * shape.H + h) * shape.V, logsum + (b * shape.H + h) * shape.T);
            }
        }
}

// sum_v g_v out_v of each query: the part of a softmax's slope that all keys share.
inline void dot_rows(Rows g, Rows out, const Shape& shape, float* dots) {
    for (long t = 0; t < shape.T; t++) {
        Lanes sum = _mm512_setzero_ps();
        for (int i = 0; i < shape.V; i += LANES) sum = _mm512_fmadd_ps(load(g[t] + i), load(out[t] + i), sum);
        dots[t] = _mm512_reduce_add_ps(sum);
    }
}

inline void write_turned(const float* from, const Shape& shape, int width, float factor, Half* to, long stride) {
    for (int block = 0; block < width; block += LANES)
        for (long t = 0; t < shape.T; t++)
            store(to + t * stride + block,
                  _mm512_mul_ps((Lanes)column(from + (t - t % BLOCK) * width + block * BLOCK + t % BLOCK, BLOCK), all(factor)));
}

// Slopes as contiguous [B, T, heads, width].
inline void attend_slopes(Heads q, Heads k, Heads v, const int32_t* sights, Heads out, const float* logsum, Heads g, Half* of_q, Half* of_k, Half* of_v,
                          const Shape& shape, int threads) {
    const long group = shape.H / shape.J;
#pragma omp parallel for num_threads(threads) collapse(2) schedule(dynamic) if (threads > 1)
    for (long b = 0; b < shape.B; b++)
        for (long j = 0; j < shape.J; j++) {
            const Keys keys(k(b, j), v(b, j), shape, true);
            std::vector<float> of_k_turned(shape.K * shape.padded()), of_v_turned(shape.V * shape.padded()), dots(shape.T);
            const auto block = std::make_unique<Block>();
            for (long h = j * group; h < (j + 1) * group; h++) {
                const Queries queries(q(b, h), shape, shape.K, true), slopes(g(b, h), shape, shape.V, true);
                dot_rows(g(b, h), out(b, h), shape, dots.data());
                attend_head_slopes(queries, slopes, keys, shape, sight_of(sights, shape, b), logsum + (b * shape.H + h) * shape.T, dots.data(),
                                   of_q + (b * shape.T * shape.H + h) * shape.K, of_k_turned.data(), of_v_turned.data(), *block);
            }
            write_turned(of_k_turned.data(), shape, shape.K, shape.scale, of_k + (b * shape.T * shape.J + j) * shape.K, shape.J * shape.K);
            write_turned(of_v_turned.data(), shape, shape.V, 1.0f, of_v + (b * shape.T * shape.J + j) * shape.V, shape.J * shape.V);
        }
}

}  // namespace r1
