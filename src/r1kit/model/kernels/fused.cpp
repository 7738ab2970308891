// The C interface of the learner's kernels. Rows are shared among threads; every sum has a fixed order, whatever their number.
#include "attention.h"
#include "head.h"
#include "orthogonal.h"
#include "rowwise.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace r1;

namespace {

constexpr long GRAIN = 128;  // rows of a chunk

// Calls work(begin, end) on chunks of `count` that are multiples of `grain` long.
template <class Work>
void in_chunks(long count, long grain, int threads, Work work) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long begin = 0; begin < count; begin += grain) work(begin, std::min(begin + grain, count));
}

template <class In, class Out>
void norm_backward(const void* x, const float* weight, const float* scales, const void* slope, const void* through, void* of_x, void* of_added,
                   float* of_weight, long rows, long width, int threads) {
    const long chunks = (rows + GRAIN - 1) / GRAIN;
    std::vector<float> parts(chunks * width, 0.0f);
    in_chunks(rows, GRAIN, threads, [&](long begin, long end) {
        norm_slopes((const In*)x, weight, scales, (const Out*)slope, (const In*)through, (In*)of_x, (Out*)of_added, parts.data() + begin / GRAIN * width,
                    begin, end, width);
    });
    std::fill(of_weight, of_weight + width, 0.0f);
    for (long chunk = 0; chunk < chunks; chunk++)
        for (long i = 0; i < width; i++) of_weight[i] += parts[chunk * width + i];
}

}  // namespace

EXPORT void r1_swiglu(int half, const void* gate, const void* up, void* out, long count, int threads) {
    in_chunks(count, 1 << 16, threads, [&](long begin, long end) {
        if (half)
            swiglu((const Half*)gate, (const Half*)up, (Half*)out, begin, end);
        else
            swiglu((const float*)gate, (const float*)up, (float*)out, begin, end);
    });
}

EXPORT void r1_swiglu_slopes(int half, const void* gate, const void* up, const void* slope, void* of_gate, void* of_up, long count, int threads) {
    in_chunks(count, 1 << 16, threads, [&](long begin, long end) {
        if (half)
            swiglu_slopes((const Half*)gate, (const Half*)up, (const Half*)slope, (Half*)of_gate, (Half*)of_up, begin, end);
        else
            swiglu_slopes((const float*)gate, (const float*)up, (const float*)slope, (float*)of_gate, (float*)of_up, begin, end);
    });
}

EXPORT void r1_round(const float* from, float* to, long count, int threads) {
    in_chunks(count, 1 << 16, threads, [&](long begin, long end) { round_to_half(from, to, begin, end); });
}

// `kinds`: 1 if x is bfloat16, plus 2 if the result is; of the three that are used.
EXPORT void r1_norm(int kinds, const void* x, const void* added, void* sum, const float* weight, float eps, void* y, float* scales, long rows, long width,
                    int threads) {
    in_chunks(rows, GRAIN, threads, [&](long begin, long end) {
        if (kinds == 0)
            norm((const float*)x, (const float*)added, (float*)sum, weight, eps, (float*)y, scales, begin, end, width);
        else if (kinds == 2)
            norm((const float*)x, (const Half*)added, (float*)sum, weight, eps, (Half*)y, scales, begin, end, width);
        else
            norm((const Half*)x, (const Half*)added, (Half*)sum, weight, eps, (Half*)y, scales, begin, end, width);
    });
}

EXPORT void r1_norm_slopes(int kinds, const void* x, const float* weight, const float* scales, const void* slope, const void* through, void* of_x,
                           void* of_added, float* of_weight, long rows, long width, int threads) {
    const auto call = kinds == 0 ? norm_backward<float, float> : kinds == 2 ? norm_backward<float, Half> : norm_backward<Half, Half>;
    call(x, weight, scales, slope, through, of_x, of_added, of_weight, rows, width, threads);
}

EXPORT void r1_rotate(int half, const void* x, long token_stride, long head_stride, void* y, const float* cos, const float* sin, long angles, long tokens,
                      long heads, long pairs, int neighbours_in, int neighbours_out, float turn, int threads) {
    in_chunks(tokens, GRAIN, threads, [&](long begin, long end) {
        if (half)
            rotate((const Half*)x, token_stride, head_stride, (Half*)y, cos, sin, angles, heads, pairs, neighbours_in, neighbours_out, turn, begin, end);
        else
            rotate((const float*)x, token_stride, head_stride, (float*)y, cos, sin, angles, heads, pairs, neighbours_in, neighbours_out, turn, begin, end);
    });
}

// `half`: the weights are bfloat16; else float32.
EXPORT void r1_logits(int half, const void* x, const void* w, float* out, long rows, long vocabulary, long width, int threads) {
    if (half)
        logits((const Half*)x, (const Half*)w, out, rows, vocabulary, width, threads);
    else
        logits((const Half*)x, (const float*)w, out, rows, vocabulary, width, threads);
}

EXPORT void r1_normalise(const float* logits, const int64_t* targets, float* normaliser, float* logprobs, float* entropy, long rows, long vocabulary,
                         int threads) {
    in_chunks(rows, 16, threads, [&](long begin, long end) { normalise(logits, targets, normaliser, logprobs, entropy, begin, end, vocabulary); });
}

EXPORT void r1_head_slopes(float* logits, const int64_t* targets, const float* normaliser, const float* entropy, const float* of_logprob,
                           const float* of_entropy, const float* temperatures, long rows, long vocabulary, int threads) {
    in_chunks(rows, 16, threads, [&](long begin, long end) {
        head_slopes(logits, targets, normaliser, entropy, of_logprob, of_entropy, temperatures, begin, end, vocabulary);
    });
}

// `sizes`: B, T, H, J, K, W, beginnings. `strides`: of line, token and head, of q, k and v, and in the slopes of the result and its slope.
EXPORT void r1_attend(const void* q, const void* k, const void* v, const long* strides, const int32_t* sights, void* out, float* logsum, const long* sizes,
                      float scale, int threads) {
    const Shape shape{sizes[0], sizes[1], sizes[2], sizes[3], int(sizes[4]), int(sizes[5]), int(sizes[6]), scale};
    const auto heads = [&](const void* data, int i) { return Heads{(const Half*)data, strides[3 * i], strides[3 * i + 1], strides[3 * i + 2]}; };
    attend(heads(q, 0), heads(k, 1), heads(v, 2), sights, (Half*)out, logsum, shape, threads);
}

EXPORT void r1_attend_slopes(const void* q, const void* k, const void* v, const void* out, const void* slope, const long* strides, const int32_t* sights,
                             const float* logsum, void* of_q, void* of_k, void* of_v, const long* sizes, float scale, int threads) {
    const Shape shape{sizes[0], sizes[1], sizes[2], sizes[3], int(sizes[4]), int(sizes[5]), int(sizes[6]), scale};
    const auto heads = [&](const void* data, int i) { return Heads{(const Half*)data, strides[3 * i], strides[3 * i + 1], strides[3 * i + 2]}; };
    attend_slopes(heads(q, 0), heads(k, 1), heads(v, 2), sights, heads(out, 3), logsum, heads(slope, 4), (Half*)of_q, (Half*)of_k, (Half*)of_v, shape,
                  threads);
}

// `count` matrices [rows, columns] with rows <= columns; `coefficients`: a, b, c.
EXPORT void r1_orthogonalise(const float* from, float* to, long count, long rows, long columns, int iterations, const float* coefficients, int threads) {
    orthogonalise_all(from, to, count, rows, columns, iterations, coefficients, threads);
}
