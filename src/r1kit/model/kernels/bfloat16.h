// bfloat16 with AVX-512: by its own instructions where the processor has them (AVX-512 BF16), else by float32's.
//
// A word is two bfloat16 numbers, and a bfloat16 number is the upper half of a float32. So without the instructions a product of words is two
// fused multiply-adds, the upper numbers' first, as the manual describes vdpbf16ps; rounding is to the nearest, ties to even, as vcvtneps2bf16 rounds.
// The instructions take numbers below 2^-126 as zero.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace r1 {

// A word in every lane, or words, as the two numbers of each.
struct WideWord {
    __m512 lower, upper;
};

inline WideWord wide(__m512i words) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(int(0xffff0000))))};
}

inline __m512 dot_halves(__m512 sum, WideWord a, __m512i b) {
    const WideWord numbers = wide(b);
    sum = _mm512_fmadd_ps(a.upper, numbers.upper, sum);
    return _mm512_fmadd_ps(a.lower, numbers.lower, sum);
}

#if defined(__AVX512BF16__) && !defined(R1_PLAIN)
constexpr bool DOTS_HALVES = true;  // whether a product of words is one instruction

inline __m512 dot_halves(__m512 sum, __m512i a, __m512i b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
inline __m256i round_halves(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

#else
constexpr bool DOTS_HALVES = false;

inline __m512 dot_halves(__m512 sum, __m512i a, __m512i b) { return dot_halves(sum, wide(a), b); }
inline __m256i round_halves(__m512 x) {
    const __m512i bits = _mm512_castps_si512(x), upper = _mm512_srli_epi32(bits, 16);
    const __m512i even = _mm512_add_epi32(_mm512_and_si512(upper, _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
    const __m512i nearest = _mm512_srli_epi32(_mm512_add_epi32(bits, even), 16);
    // What is not a number stays so: its upper half, with the bit that makes it quiet.
    const __mmask16 wrong = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(nearest, wrong, upper, _mm512_set1_epi32(0x40)));
}

#endif

// A row's word in every lane, from words, or from a row that was widened.
inline __m512i left_of(const uint32_t* row, long word) { return _mm512_set1_epi32(int(row[word])); }
inline WideWord left_of(const float* row, long word) { return {_mm512_set1_ps(row[2 * word]), _mm512_set1_ps(row[2 * word + 1])}; }

// ``count`` bfloat16 numbers as float32.
inline void widen_halves(const uint16_t* from, long count, float* to) {
    for (long i = 0; i < count; i += 16) {
        const __mmask16 mask = count - i >= 16 ? __mmask16(0xffff) : __mmask16((1u << (count - i)) - 1);
        const __m512i cells = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + i));
        _mm512_mask_storeu_ps(to + i, mask, _mm512_castsi512_ps(_mm512_slli_epi32(cells, 16)));
    }
}

// 32 numbers as 16 words, the first 16 in the first 8.
inline __m512i round_halves(__m512 first, __m512 second) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(round_halves(first)), round_halves(second), 1);
}

}  // namespace r1
