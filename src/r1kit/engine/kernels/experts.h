// The router (experts.py, Gate) and the routed experts, each of which multiplies the rows that chose it.
#pragma once

#include <algorithm>
#include <cmath>

#include "network.h"

namespace r1 {

template <class N>
struct Routing {
    std::vector<int> chosen;    // [rows, A], ascending within a row
    std::vector<float> gates;   // [rows, A]
};

inline float dot_product(const float* a, const float* b, int count) {
    Vector sum = _mm512_setzero_ps();
    for (int i = 0; i < count; i += LANES) {
        const Mask mask = lanes(count - i);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, a + i), _mm512_maskz_loadu_ps(mask, b + i), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

// Close all groups of experts but those whose two best sum highest (DeepSeek-V3 section 2.1.2, released code), or, with
// ``single``, whose best is highest (DeepSeek-V2).
inline void limit_groups(float* biased, int experts, int groups, int kept, bool single) {
    const int size = experts / groups;
    std::vector<std::pair<float, int>> ranks;
    for (int g = 0; g < groups; g++) {
        float best = -INFINITY, second = -INFINITY;
        for (int e = g * size; e < (g + 1) * size; e++) {
            if (biased[e] > best) second = best, best = biased[e];
            else second = std::max(second, biased[e]);
        }
        ranks.emplace_back(single ? -best : -(best + second), g);
    }
    std::sort(ranks.begin(), ranks.end());
    for (int i = kept; i < groups; i++) std::fill_n(biased + ranks[i].second * size, size, -INFINITY);
}

// exp(x - max x) / sum, in place.
inline void softmax(float* x, int count) {
    const float most = *std::max_element(x, x + count);
    float sum = 0;
    for (int i = 0; i < count; i++) sum += x[i] = std::exp(x[i] - most);
    for (int i = 0; i < count; i++) x[i] /= sum;
}

// ``x``: rows of float32 numbers as the experts see them.
template <class N>
void route(const Shape& s, const Layer<N>& layer, const float* x, int rows, Routing<N>& routing) {
    const int A = s.active_experts;
    routing.chosen.resize(size_t(rows) * A), routing.gates.resize(size_t(rows) * A);
    std::vector<float> scores(round_up(s.experts, LANES)), biased(s.experts);
    std::vector<int> order(s.experts);
    for (int r = 0; r < rows; r++) {
        for (int e = 0; e < s.experts; e++) scores[e] = dot_product(x + size_t(r) * s.width, layer.gate.data() + size_t(e) * s.width, s.width);
        if (s.softmax_gates) softmax(scores.data(), s.experts);
        else for (int e = 0; e < s.experts; e += LANES) _mm512_storeu_ps(&scores[e], sigmoid(_mm512_loadu_ps(&scores[e])));
        for (int e = 0; e < s.experts; e++) biased[e] = scores[e] + (layer.gate_bias.empty() ? 0.0f : layer.gate_bias[e]), order[e] = e;
        if (s.groups_kept < s.groups) limit_groups(biased.data(), s.experts, s.groups, s.groups_kept, s.softmax_gates);
        std::partial_sort(order.begin(), order.begin() + A, order.end(),
                          [&](int a, int b) { return biased[a] > biased[b] || (biased[a] == biased[b] && a < b); });
        std::sort(order.begin(), order.begin() + A);
        float sum = 1e-20f;
        for (int a = 0; a < A; a++) sum += scores[order[a]];
        for (int a = 0; a < A; a++) {
            routing.chosen[size_t(r) * A + a] = order[a];
            routing.gates[size_t(r) * A + a] = scores[order[a]] / (s.normalise_gates ? sum : 1.0f) * s.route_scale;
        }
    }
}

// silu(gate) times up, times ``factor``, for one row of ``in``'s output.
template <class N>
void activate(const float* gate, int hidden, float factor, typename N::Cell* to) {
    for (int i = 0; i < hidden; i += LANES) {
        const Mask mask = lanes(hidden - i);
        const Vector g = _mm512_maskz_loadu_ps(mask, gate + i), up = _mm512_maskz_loadu_ps(mask, gate + hidden + i);
        N::store(to + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(g, sigmoid(g)), up), _mm512_set1_ps(factor)), mask);
    }
}

template <class N>
class Mixture {
  public:
    // Add every row's routed experts to ``out`` [rows, D], in the order of the experts whatever the other rows chose.
    void operator()(const Shape& s, const Layer<N>& layer, const typename N::Cell* x, int rows, const Routing<N>& routing, float* out) {
        for (int e = 0; e < s.experts; e++) {
            members_.clear(), gates_.clear();
            for (int i = 0; i < rows * s.active_experts; i++)
                if (routing.chosen[i] == e) members_.push_back(i / s.active_experts), gates_.push_back(routing.gates[i]);
            if (!members_.empty()) one(s, *layer.experts[e], x, out);
        }
    }

  private:
    void one(const Shape& s, const FeedForward<N>& expert, const typename N::Cell* x, float* out) {
        using Cell = typename N::Cell;
        const int count = int(members_.size()), D = s.width, F = s.expert_width;
        Cell* gathered = gathered_.at_least(size_t(count) * D);
        for (int i = 0; i < count; i++) std::memcpy(gathered + size_t(i) * D, x + size_t(members_[i]) * D, D * sizeof(Cell));
        float* hidden = hidden_.at_least(size_t(count) * 2 * F);
        product(gathered, D, count, expert.in, hidden, 2 * F, false, s.threads);
        Cell* active = active_.at_least(size_t(count) * F);
        for (int i = 0; i < count; i++) activate<N>(hidden + size_t(i) * 2 * F, F, gates_[i], active + size_t(i) * F);
        float* result = result_.at_least(size_t(count) * D);
        product(active, F, count, expert.down, result, D, false, s.threads);
        for (int i = 0; i < count; i++)
            for (int d = 0; d < D; d++) out[size_t(members_[i]) * D + d] += result[size_t(i) * D + d];
    }

    std::vector<int> members_;
    std::vector<float> gates_;
    Buffer<typename N::Cell> gathered_, active_;
    Buffer<float> hidden_, result_;
};

}  // namespace r1
