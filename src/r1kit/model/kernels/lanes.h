// Sixteen float32 lanes, whatever the memory holds: float32, or bfloat16 widened at the load and rounded to nearest at the store.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16.h"

namespace r1 {

using Lanes = __m512;
using Mask = __mmask16;
using Half = uint16_t;
constexpr int LANES = 16;

inline Mask first(long count) { return count >= LANES ? Mask(0xffff) : Mask((1u << count) - 1); }

inline Lanes load(const float* from, Mask mask = 0xffff) { return _mm512_maskz_loadu_ps(mask, from); }
inline Lanes load(const Half* from, Mask mask = 0xffff) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}
inline void store(float* to, Lanes x, Mask mask = 0xffff) { _mm512_mask_storeu_ps(to, mask, x); }
inline void store(Half* to, Lanes x, Mask mask = 0xffff) { _mm256_mask_storeu_epi16(to, mask, round_halves(x)); }
inline Lanes all(float x) { return _mm512_set1_ps(x); }

// e^x with a relative error of a few float32 roundings: 2^whole times a Taylor polynomial of the rest. Not a number stays so: max and min
// return their second operand then.
inline Lanes exp(Lanes x) {
    x = _mm512_min_ps(all(100.0f), _mm512_max_ps(all(-138.0f), x));
    const Lanes whole = _mm512_roundscale_ps(_mm512_mul_ps(x, all(1.44269504088896340736f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    // The rest in two parts of ln 2, so that a large |x| loses no digits.
    Lanes rest = _mm512_fnmadd_ps(whole, all(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, all(-2.12194440e-4f), rest);
    constexpr float TERMS[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    Lanes sum = all(TERMS[0]);
    for (int i = 1; i < 8; i++) sum = _mm512_fmadd_ps(sum, rest, all(TERMS[i]));
    return _mm512_scalef_ps(sum, whole);
}

inline Lanes sigmoid(Lanes x) { return _mm512_div_ps(all(1.0f), _mm512_add_ps(all(1.0f), exp(_mm512_sub_ps(_mm512_setzero_ps(), x)))); }

}  // namespace r1
