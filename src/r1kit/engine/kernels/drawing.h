// One token from the logits of one row: filters, the inverse of the cumulative distribution, and the log-probability, with one exponential each.
//
// The same rule as random_draws.py: the token is the first in order of ids whose cumulative weight exceeds the uniform number times the sum over
// what the filters keep; the log-probability is that before the filters. The uniform number is a hash of the rollout's key and the token's place.
#pragma once

#include <algorithm>
#include <cmath>

#include "numbers.h"

namespace r1 {

struct Drawing {
    float temperature, top_p, min_p;
    int32_t top_k;  // 0: all
};

struct Drawn {
    int32_t token;
    float logprob;
    double total;  // of the weights that take the place of the logits
};

// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
inline uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

inline double uniform(uint64_t key, uint64_t step) { return double(mix(key + mix(step)) >> 11) * 0x1p-53; }

constexpr int STRETCH = 256;  // weights are summed by stretches, so that the search looks into one of them only

// The largest logit; NaN where a logit is not finite.
inline float top_logit(const float* logits, int vocabulary) {
    Vector top = _mm512_set1_ps(-INFINITY);
    Mask bad = 0;
    for (int i = 0; i < vocabulary; i += LANES) {
        const Mask mask = lanes(vocabulary - i);
        const Vector x = _mm512_maskz_loadu_ps(mask, logits + i);
        bad |= _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(INFINITY), _CMP_NLT_UQ);
        top = _mm512_mask_max_ps(top, mask, top, x);
    }
    return bad ? NAN : _mm512_reduce_max_ps(top);
}

// Replace logits by weights exp((logit - top) / temperature); leave the sum of every stretch in ``sums`` and return the sum of all.
inline double weigh_logits(float* logits, int vocabulary, float top, float temperature, std::vector<double>& sums) {
    const Vector tops = _mm512_set1_ps(top), factor = _mm512_set1_ps(LOG2E / temperature);
    sums.clear();
    double total = 0;
    for (int begin = 0; begin < vocabulary; begin += STRETCH) {
        Vector sum = _mm512_setzero_ps();
        for (int i = begin; i < std::min(begin + STRETCH, vocabulary); i += LANES) {
            const Mask mask = lanes(vocabulary - i);
            const Vector x = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, logits + i), tops), factor);
            const Vector weight = _mm512_maskz_mov_ps(mask, exp2(x));
            _mm512_mask_storeu_ps(logits + i, mask, weight);
            sum = _mm512_add_ps(sum, weight);
        }
        sums.push_back(_mm512_reduce_add_ps(sum));
        total += sums.back();
    }
    return total;
}

inline int invert(const float* weights, int vocabulary, const std::vector<double>& sums, double target) {
    double before = 0;
    int token = -1;
    for (size_t stretch = 0; stretch < sums.size(); stretch++) {
        if (before + sums[stretch] > target || stretch + 1 == sums.size()) {
            double cumulative = before;
            for (int i = int(stretch) * STRETCH; i < std::min(int(stretch + 1) * STRETCH, vocabulary); i++) {
                cumulative += weights[i];
                if (weights[i] > 0) token = i;
                if (cumulative > target) return i;
            }
            // Rounding of the stretch's sum: the last possible token so far stands just before the target.
            if (token >= 0) return token;
        }
        before += sums[stretch];
    }
    for (int i = vocabulary; i-- > 0;)
        if (weights[i] > 0) return i;
    return 0;
}

struct Candidate {
    float weight;
    int32_t token;
    bool operator<(const Candidate& other) const { return weight > other.weight || (weight == other.weight && token < other.token); }
};

// Every token of at least ``floor`` weight, in order of ids; return their mass.
inline double gather(const float* weights, int vocabulary, float floor, std::vector<Candidate>& kept) {
    double mass = 0;
    kept.clear();
    for (int i = 0; i < vocabulary; i += LANES) {
        const Mask mask = lanes(vocabulary - i);
        const Mask heavy = _mm512_mask_cmp_ps_mask(mask, _mm512_maskz_loadu_ps(mask, weights + i), _mm512_set1_ps(floor), _CMP_GE_OQ);
        for (unsigned rest = heavy; rest; rest &= rest - 1) {
            const int token = i + __builtin_ctz(rest);
            kept.push_back({weights[token], token});
            mass += weights[token];
        }
    }
    return mass;
}

// The tokens that top-k, then top-p of the rest, then min-p leave, in order of ids; the likeliest token (weight 1) always stays.
inline void keep(const float* weights, int vocabulary, double total, const Drawing& how, std::vector<Candidate>& kept) {
    const bool by_count = how.top_k > 0 && how.top_k < vocabulary, by_mass = how.top_p < 1;
    const size_t most = by_count ? how.top_k : vocabulary;
    // Few tokens carry most of the mass: look at ever lighter ones until those that matter are surely among them.
    float floor = by_count || by_mass ? 0.05f : how.min_p;
    double mass = gather(weights, vocabulary, floor, kept);
    while (floor > 1e-37f && ((by_count && kept.size() < most) || (by_mass && !by_count && mass < how.top_p * total)))
        mass = gather(weights, vocabulary, floor *= 0.05f, kept);
    if (kept.size() > most) {
        std::nth_element(kept.begin(), kept.begin() + most, kept.end());
        kept.resize(most);
    }
    if (by_mass) {
        double whole = by_count ? 0 : total, reached = 0;
        for (size_t i = 0; by_count && i < kept.size(); i++) whole += kept[i].weight;
        std::sort(kept.begin(), kept.end());
        size_t count = 0;
        while (count < kept.size() && reached < how.top_p * whole) reached += kept[count++].weight;
        kept.resize(count);
    }
    kept.erase(std::remove_if(kept.begin(), kept.end(), [&](const Candidate& c) { return c.weight < how.min_p; }), kept.end());
    std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
}

// Draw from ``logits``, which are overwritten. The token is -1 where a logit is not finite.
inline Drawn draw(float* logits, int vocabulary, const Drawing& how, double number) {
    static thread_local std::vector<double> sums;
    static thread_local std::vector<Candidate> kept;
    const float top = top_logit(logits, vocabulary);
    if (std::isnan(top)) return {-1, 0, 0};
    const bool greedy = how.temperature == 0;
    int token = greedy ? int(std::find(logits, logits + vocabulary, top) - logits) : 0;
    const double total = weigh_logits(logits, vocabulary, top, greedy ? 1.0f : how.temperature, sums);
    if (greedy) return {token, float(-std::log(total)), total};
    if (how.top_p >= 1 && how.min_p <= 0 && (how.top_k <= 0 || how.top_k >= vocabulary)) {
        token = invert(logits, vocabulary, sums, number * total);
    } else {
        keep(logits, vocabulary, total, how, kept);
        double whole = 0, cumulative = 0;
        for (const auto& candidate : kept) whole += candidate.weight;
        token = kept.back().token;
        for (const auto& candidate : kept)
            if ((cumulative += candidate.weight) > number * whole) {
                token = candidate.token;
                break;
            }
    }
    return {token, float(std::log(double(logits[token]) / total)), total};
}

// The ``count`` likeliest tokens after ``draw`` has turned logits into weights, likeliest first, the lower id of equal ones; -1 where there are fewer.
inline void likeliest(const float* weights, int vocabulary, double total, int count, int32_t* tokens, float* logprobs) {
    static thread_local std::vector<Candidate> kept;
    float floor = 0.05f;
    gather(weights, vocabulary, floor, kept);
    while (floor > 1e-37f && int(kept.size()) < count) gather(weights, vocabulary, floor *= 0.05f, kept);
    const size_t most = std::min(kept.size(), size_t(count));
    std::partial_sort(kept.begin(), kept.begin() + most, kept.end());
    for (size_t i = 0; i < size_t(count); i++) {
        tokens[i] = i < most ? kept[i].token : -1;
        logprobs[i] = i < most ? float(std::log(double(kept[i].weight) / total)) : 0;
    }
}

}  // namespace r1
