// Two number formats behind one set of operations.
//
// Every product here walks its inner dimension in 32-bit words: two bfloat16 numbers, which are multiplied and added in pairs, or
// one float32, for a fused multiply-add. So the kernels are written once, over words, and sums are float32 in both formats.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "../../model/kernels/bfloat16.h"

namespace r1 {

using Vector = __m512;
using Words = __m512i;
using Mask = __mmask16;
constexpr int LANES = 16;
constexpr float LOG2E = 1.44269504088896340736f;

inline int divide_up(int a, int b) { return (a + b - 1) / b; }
inline int round_up(int a, int b) { return divide_up(a, b) * b; }
inline Mask lanes(int count) { return count >= LANES ? Mask(0xffff) : Mask((1u << count) - 1); }

struct Half {
    using Cell = uint16_t;
    static constexpr int PAIR = 2;
    static Vector dot(Vector sum, Words a, Words b) { return dot_halves(sum, a, b); }
    static void store(Cell* to, Vector x, Mask mask) { _mm256_mask_storeu_epi16(to, mask, round_halves(x)); }
    static Vector load(const Cell* from, Mask mask) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
    }
    static Cell round(float x) {
        Cell cells[LANES];
        store(cells, _mm512_set1_ps(x), 0xffff);
        return cells[0];
    }
};

struct Full {
    using Cell = float;
    static constexpr int PAIR = 1;
    static Vector dot(Vector sum, Words a, Words b) { return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum); }
    static void store(Cell* to, Vector x, Mask mask) { _mm512_mask_storeu_ps(to, mask, x); }
    static Vector load(const Cell* from, Mask mask) { return _mm512_maskz_loadu_ps(mask, from); }
    static Cell round(float x) { return x; }
};

// 2^x with a relative error below 2e-7: 2^round(x) times the Taylor polynomial of the rest, which lies in [-1/2, 1/2].
inline Vector exp2(Vector x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-200.0f));
    const Vector whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Vector rest = _mm512_sub_ps(x, whole);
    constexpr float TERMS[] = {1.5252733804e-5f, 1.5403530393e-4f, 1.3333558146e-3f, 9.6181291076e-3f,
                               5.5504108664e-2f, 2.4022650695e-1f, 6.9314718055e-1f, 1.0f};
    Vector sum = _mm512_set1_ps(TERMS[0]);
    for (int i = 1; i < 8; i++) sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(TERMS[i]));
    return _mm512_scalef_ps(sum, whole);
}

inline Vector sigmoid(Vector x) {
    const Vector one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exp2(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2E)))));
}

// Memory on cache lines that keeps its address until it has to grow; its content is then lost.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }
    T* at_least(size_t count) {
        if (count > size_) {
            std::free(data_);
            size_ = count + count / 4;
            data_ = static_cast<T*>(std::aligned_alloc(64, (size_ * sizeof(T) + 127) / 64 * 64));
            if (!data_) throw std::bad_alloc();
            std::memset(data_, 0, size_ * sizeof(T));
        }
        return data_;
    }
    T* data() const { return data_; }

  private:
    T* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace r1
