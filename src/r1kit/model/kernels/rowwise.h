// What a decoder layer and the head do between their products, each in one pass over memory, and each one's slopes in another.
#pragma once

#include "lanes.h"

namespace r1 {

template <class Cell>
void swiglu(const Cell* gate, const Cell* up, Cell* out, long begin, long end) {
    for (long i = begin; i < end; i += LANES) {
        const Mask mask = first(end - i);
        const Lanes a = load(gate + i, mask);
        store(out + i, _mm512_mul_ps(_mm512_mul_ps(a, sigmoid(a)), load(up + i, mask)), mask);
    }
}

template <class Cell>
void swiglu_slopes(const Cell* gate, const Cell* up, const Cell* slope, Cell* of_gate, Cell* of_up, long begin, long end) {
    for (long i = begin; i < end; i += LANES) {
        const Mask mask = first(end - i);
        const Lanes a = load(gate + i, mask), g = load(slope + i, mask), s = sigmoid(a);
        const Lanes inner = _mm512_fmadd_ps(a, _mm512_sub_ps(all(1.0f), s), all(1.0f));
        store(of_gate + i, _mm512_mul_ps(_mm512_mul_ps(g, load(up + i, mask)), _mm512_mul_ps(s, inner)), mask);
        store(of_up + i, _mm512_mul_ps(g, _mm512_mul_ps(a, s)), mask);
    }
}

// Numbers as bfloat16 would keep them, in float32.
inline void round_to_half(const float* from, float* to, long begin, long end) {
    for (long i = begin; i < end; i += LANES) {
        const Mask mask = first(end - i);
        const __m512i half = _mm512_cvtepu16_epi32(round_halves(load(from + i, mask)));
        store(to + i, _mm512_castsi512_ps(_mm512_slli_epi32(half, 16)), mask);
    }
}

// y = x w / rms(x) of rows [begin, end); `added`, if there is any, is added to x first, and the sum is stored too.
template <class In, class Out>
void norm(const In* x, const Out* added, In* sum, const float* weight, float eps, Out* y, float* scales, long begin, long end, long width) {
    for (long row = begin; row < end; row++) {
        const In* from = x + row * width;
        Lanes squares = _mm512_setzero_ps();
        for (long i = 0; i < width; i += LANES) {
            const Mask mask = first(width - i);
            Lanes value = load(from + i, mask);
            if (added) {
                value = _mm512_add_ps(value, load(added + row * width + i, mask));
                store(sum + row * width + i, value, mask);
            }
            squares = _mm512_fmadd_ps(value, value, squares);
        }
        if (added) from = sum + row * width;
        const float scale = 1.0f / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / width + eps);
        scales[row] = scale;
        for (long i = 0; i < width; i += LANES) {
            const Mask mask = first(width - i);
            store(y + row * width + i, _mm512_mul_ps(_mm512_mul_ps(load(from + i, mask), all(scale)), load(weight + i, mask)), mask);
        }
    }
}

// Slopes of x, and of the weight summed over these rows. `through`, if there is any, is the slope that reaches x past the norm; what was
// added to x has the same slope, stored once more in its own format.
template <class In, class Out>
void norm_slopes(const In* x, const float* weight, const float* scales, const Out* slope, const In* through, In* of_x, Out* of_added,
                 float* of_weight, long begin, long end, long width) {
    for (long row = begin; row < end; row++) {
        const In* from = x + row * width;
        const Out* g = slope + row * width;
        const Lanes scale = all(scales[row]);
        Lanes along = _mm512_setzero_ps();
        for (long i = 0; i < width; i += LANES) {
            const Mask mask = first(width - i);
            const Lanes product = _mm512_mul_ps(load(g + i, mask), _mm512_mul_ps(load(from + i, mask), scale));
            store(of_weight + i, _mm512_add_ps(load(of_weight + i, mask), product), mask);
            along = _mm512_fmadd_ps(product, load(weight + i, mask), along);
        }
        const Lanes mean = all(_mm512_reduce_add_ps(along) / width);
        for (long i = 0; i < width; i += LANES) {
            const Mask mask = first(width - i);
            const Lanes normed = _mm512_mul_ps(load(from + i, mask), scale), straight = _mm512_mul_ps(load(g + i, mask), load(weight + i, mask));
            Lanes found = _mm512_mul_ps(scale, _mm512_fnmadd_ps(normed, mean, straight));
            if (through) found = _mm512_add_ps(found, load(through + row * width + i, mask));
            store(of_x + row * width + i, found, mask);
            if (of_added) store(of_added + row * width + i, found, mask);
        }
    }
}

// Where the two numbers of a rotated pair lie in memory: side by side, or half a head apart.
template <class Cell>
void read_pairs(const Cell* from, long i, long half, bool neighbours, Mask mask, Lanes& a, Lanes& b) {
    if (!neighbours) {
        a = load(from + i, mask);
        b = load(from + half + i, mask);
        return;
    }
    const long left = 2 * (half - i);
    const Lanes low = load(from + 2 * i, first(left)), high = load(from + 2 * i + LANES, first(std::max(left - LANES, 0L)));
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    a = _mm512_permutex2var_ps(low, even, high);
    b = _mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high);
}

template <class Cell>
void write_pairs(Cell* to, long i, long half, bool neighbours, Mask mask, Lanes a, Lanes b) {
    if (!neighbours) {
        store(to + i, a, mask);
        store(to + half + i, b, mask);
        return;
    }
    const long left = 2 * (half - i);
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    store(to + 2 * i, _mm512_permutex2var_ps(a, low, b), first(left));
    if (left > LANES)
        store(to + 2 * i + LANES, _mm512_permutex2var_ps(a, _mm512_add_epi32(low, _mm512_set1_epi32(8)), b), first(left - LANES));
}

// (a, b) -> (a cos - b sin, b cos + a sin) with `turn` 1, and back with -1. Tokens repeat the angles' rows.
template <class Cell>
void rotate(const Cell* x, long token_stride, long head_stride, Cell* y, const float* cos, const float* sin, long angles, long heads, long half,
            bool neighbours_in, bool neighbours_out, float turn, long begin, long end) {
    for (long token = begin; token < end; token++)
        for (long head = 0; head < heads; head++) {
            const Cell* from = x + token * token_stride + head * head_stride;
            Cell* to = y + (token * heads + head) * 2 * half;
            for (long i = 0; i < half; i += LANES) {
                const Mask mask = first(half - i);
                const Lanes c = load(cos + token % angles * half + i, mask);
                const Lanes s = _mm512_mul_ps(load(sin + token % angles * half + i, mask), all(turn));
                Lanes a, b;
                read_pairs(from, i, half, neighbours_in, mask, a, b);
                write_pairs(to, i, half, neighbours_out, mask, _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)),
                            _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
            }
        }
}

// Of each row of logits: log sum exp, the target's log-probability and, if asked for, the entropy.
inline void normalise(const float* logits, const int64_t* targets, float* normaliser, float* logprobs, float* entropy, long begin, long end,
                      long vocabulary) {
    for (long row = begin; row < end; row++) {
        const float* l = logits + row * vocabulary;
        Lanes peak = all(-__builtin_inff());
        for (long i = 0; i < vocabulary; i += LANES) {
            const Mask mask = first(vocabulary - i);
            peak = _mm512_mask_max_ps(peak, mask, peak, load(l + i, mask));
        }
        const float most = _mm512_reduce_max_ps(peak);
        Lanes sum = _mm512_setzero_ps(), weighted = _mm512_setzero_ps();
        for (long i = 0; i < vocabulary; i += LANES) {
            const Mask mask = first(vocabulary - i);
            const Lanes below = _mm512_sub_ps(load(l + i, mask), all(most)), e = _mm512_maskz_mov_ps(mask, exp(below));
            sum = _mm512_add_ps(sum, e);
            if (entropy) weighted = _mm512_fmadd_ps(e, below, weighted);
        }
        const float total = _mm512_reduce_add_ps(sum);
        normaliser[row] = most + __builtin_logf(total);
        logprobs[row] = l[targets[row]] - normaliser[row];
        if (entropy) entropy[row] = __builtin_logf(total) - _mm512_reduce_add_ps(weighted) / total;
    }
}

// Logits become slopes, in place: g (onehot - p) - k p (log p + H), over the temperature. Absent slopes and temperatures are null.
inline void head_slopes(float* logits, const int64_t* targets, const float* normaliser, const float* entropy, const float* of_logprob,
                        const float* of_entropy, const float* temperatures, long begin, long end, long vocabulary) {
    for (long row = begin; row < end; row++) {
        float* l = logits + row * vocabulary;
        const float over = temperatures ? 1.0f / temperatures[row] : 1.0f;
        const float g = of_logprob ? of_logprob[row] * over : 0.0f, k = of_entropy ? of_entropy[row] * over : 0.0f;
        const float constant = -g - k * entropy[row];
        for (long i = 0; i < vocabulary; i += LANES) {
            const Mask mask = first(vocabulary - i);
            const Lanes log_p = _mm512_sub_ps(load(l + i, mask), all(normaliser[row]));
            store(l + i, _mm512_mul_ps(exp(log_p), _mm512_fnmadd_ps(all(k), log_p, all(constant))), mask);
        }
        l[targets[row]] += g;
    }
}

}  // namespace r1
