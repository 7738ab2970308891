// Products in 8 bits: each row of weights and each row of x has one scale, the largest absolute number / 127, and whole numbers from -127 to 127.
//
//     sum_i x_i w_i  ~  scale_x scale_w sum_i q_i p_i
//
// The instruction multiplies unsigned by signed bytes, so q + 128 is stored, and 128 sum_i p_i, known per row of weights, is taken off again. Sums are
// whole 32-bit numbers and exact for up to 2^16 inputs: no order of them, no number of rows and no instruction changes a bit.
#pragma once

#include <cmath>
#include <limits>

#include "numbers.h"

namespace r1 {

struct Eight {
    static constexpr int PAIR = 4;  // numbers of a word
    static constexpr float MOST = 127.0f;
    static constexpr int ZERO = 128;  // how 0 of x is stored

#if defined(__AVX512VNNI__) && !defined(R1_PLAIN)
    static Words dot(Words sum, Words x, Words w) { return _mm512_dpbusd_epi32(sum, x, w); }
#else
    // Two 16-bit numbers a word at a time: first the even bytes, then the odd ones.
    static Words dot(Words sum, Words x, Words w) {
        const Words even = _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi32(0x00ff00ff)), _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8));
        const Words odd = _mm512_madd_epi16(_mm512_srli_epi16(x, 8), _mm512_srai_epi16(w, 8));
        return _mm512_add_epi32(sum, _mm512_add_epi32(even, odd));
    }
#endif
};

// Round ``count`` weights, ``step`` apart, to bytes; return their scale, and what sums of x + 128 with them have too much. A weight that is not
// finite makes the scale, and with it every result, not a number.
inline float round_weights(const float* from, size_t step, int count, int8_t* to, int32_t& too_much) {
    float most = 0;
    for (int i = 0; i < count; i++) {
        const float size = std::fabs(from[i * step]);
        if (size > most || size != size) most = size;
    }
    too_much = 0;
    if (!(most <= std::numeric_limits<float>::max())) return std::numeric_limits<float>::quiet_NaN();
    const float scale = most / Eight::MOST;
    for (int i = 0; i < count; i++) {
        to[i] = scale > 0 ? int8_t(std::max(-Eight::MOST, std::min(Eight::MOST, std::nearbyint(from[i * step] / scale)))) : 0;
        too_much += Eight::ZERO * to[i];
    }
    return scale;
}

// Round a row to bytes, ``zero`` added to each; return its scale, which is not a number where a number of the row is not finite.
template <class N>
float round_row(const typename N::Cell* from, int count, uint8_t* to, int zero = Eight::ZERO) {
    Vector most = _mm512_setzero_ps();
    Mask wrong = 0;
    for (int i = 0; i < count; i += LANES) {
        const Vector x = N::load(from + i, lanes(count - i));
        wrong |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        most = _mm512_max_ps(most, _mm512_abs_ps(x));
    }
    const float largest = _mm512_reduce_max_ps(most);
    if (wrong || !(largest <= std::numeric_limits<float>::max())) {
        std::memset(to, zero, count);
        return std::numeric_limits<float>::quiet_NaN();
    }
    const Vector factor = _mm512_set1_ps(largest > 0 ? Eight::MOST / largest : 0.0f);
    for (int i = 0; i < count; i += LANES) {
        const Mask mask = lanes(count - i);
        const Words whole = _mm512_cvtps_epi32(_mm512_mul_ps(N::load(from + i, mask), factor));
        _mm_mask_storeu_epi8(to + i, mask, _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, _mm512_set1_epi32(zero))));
    }
    return largest / Eight::MOST;
}

template <class N>
float round_cells_to_bytes(const typename N::Cell* from, int count, int8_t* to) {
    return round_row<N>(from, count, reinterpret_cast<uint8_t*>(to), 0);
}

// Sixteen signed bytes as numbers.
inline Vector widen(const int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}

}  // namespace r1
