// One forward pass over new positions, each with its place in the cache already assigned: a decoding step or a stretch of prompts.
//
// The residual stream is float32; what enters a matrix product is rounded to the format N, as autocast does. See decoder.py and attention.py for the
// equations.
#pragma once

#include <unistd.h>

#include "attention.h"
#include "experts.h"

namespace r1 {

struct Place {
    int32_t token;
    int position;
    Span span;       // after this position has been added
    Page page;         // where this position's key and value go
    int offset;
    int16_t* experts;  // where its experts are recorded, [sparse layers, A]; null: not recorded
};

template <class N>
void round_cells(const float* from, int count, typename N::Cell* to) {
    for (int i = 0; i < count; i += LANES) {
        const Mask mask = lanes(count - i);
        N::store(to + i, _mm512_maskz_loadu_ps(mask, from + i), mask);
    }
}

// x / rms(x) * weight, in place or elsewhere, float32.
inline void normalise(const float* x, const std::vector<float>& weight, float eps, float* to) {
    const int count = int(weight.size());
    const Vector scale = _mm512_set1_ps(1.0f / std::sqrt(dot_product(x, x, count) / count + eps));
    for (int i = 0; i < count; i += LANES) {
        const Mask mask = lanes(count - i);
        const Vector scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
        _mm512_mask_storeu_ps(to + i, mask, _mm512_mul_ps(scaled, _mm512_maskz_loadu_ps(mask, weight.data() + i)));
    }
}

template <class N>
class Decoder {
  public:
    using Cell = typename N::Cell;

    explicit Decoder(const Network<N>& network) : network_(network), s_(network.shape) {
        cache.layers = s_.layers;
        cache.heads = s_.latent ? 1 : s_.kv_heads;
        cache.key = s_.latent ? s_.kv_rank + s_.rope_dim : s_.head_dim;
        cache.value = s_.latent ? s_.kv_rank : s_.head_dim;
        cache.eight = network.eight();
        per_head_ = s_.heads / cache.heads;
    }

    CacheShape<N> cache;
    Ahead ahead;  // what the next attention will read

    // Run all layers; return the residual stream [places, D] before the final norm, valid until the next call.
    const float* operator()(const std::vector<Place>& places) {
        places_ = &places, rows_ = int(places.size());
        x_ = residual_.at_least(size_t(rows_) * s_.width);
        for (int r = 0; r < rows_; r++)
            std::memcpy(x_ + size_t(r) * s_.width, network_.embedding + size_t(places[r].token) * s_.width, s_.width * sizeof(float));
        for (layer_ = 0; layer_ < s_.layers; layer_++) {
            const Layer<N>& layer = network_.layers[layer_];
            enter(layer.input_norm);
            attention(layer);
            look_ahead((layer_ + 1) % s_.layers);
            enter(layer.post_norm);
            feed_forward(layer);
        }
        return x_;
    }

    // The final norm of one row of the residual stream, in the format of the head's product.
    void finish(const float* x, Cell* to) const {
        std::vector<float> normed(s_.width);
        normalise(x, network_.norm, s_.norm_eps, normed.data());
        round_cells<N>(normed.data(), s_.width, to);
    }

  private:
    // Expect the pages of a layer in the order in which attention reads them, as many as the third-level cache holds for three such processes.
    void look_ahead(int layer) {
        static const size_t most = std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)) / 3;
        ahead.forget();
        const size_t bytes = cache.heads * cache.head_size() * sizeof(uint32_t);
        const Pages* prompt = nullptr;
        for (const Place& place : *places_) {
            if (!place.span.own_length) return;  // a prompt's tokens share their pages
            if (place.span.prompt != prompt) expect(*(prompt = place.span.prompt), place.span.seen, layer, bytes);
            expect(*place.span.own, place.span.own_length, layer, bytes);
            if (ahead.total() > most) return;
        }
    }

    void expect(const Pages& pages, int length, int layer, size_t bytes) {
        for (int at = 0; at + PAGE / 2 <= length; at += PAGE) ahead.expect(cache.keys(pages[at / PAGE], layer, 0), bytes);
    }

    void enter(const std::vector<float>& norm) {
        Cell* normed = normed_.at_least(size_t(rows_) * s_.width);
        for (int r = 0; r < rows_; r++) {
            float* scratch = scratch_.at_least(s_.width);
            normalise(x_ + size_t(r) * s_.width, norm, s_.norm_eps, scratch);
            round_cells<N>(scratch, s_.width, normed + size_t(r) * s_.width);
        }
    }

    void attention(const Layer<N>& layer) {
        projected_ = projections_.at_least(size_t(rows_) * layer.qkv.outputs);
        product(normed_.data(), s_.width, rows_, layer.qkv, projected_, layer.qkv.outputs, false, s_.threads, &ahead);
        queries_.at_least(size_t(rows_) * s_.heads * round_up(cache.key, N::PAIR));
        if (s_.latent) latent_queries(layer), latent_keys(layer);
        else grouped(layer);
        attend();
        if (s_.latent) latent_values(layer);
        else collect(s_.head_dim);
        product(collected_.data(), network_.attended_width(), rows_, layer.out, x_, s_.width, true, s_.threads, &ahead);
    }

    // Queries lie by key-value head: [heads of the cache, rows, queries per head, key].
    Cell* query(int row, int head) {
        const size_t place = (size_t(head / per_head_) * rows_ + row) * per_head_ + head % per_head_;
        return queries_.data() + place * cache.key;
    }

    // Rotate entry i with entry i + I, or entry 2 i with 2 i + 1; the result is in halves (attention.py, Rotation).
    void rotate(const float* from, int position, bool pairs, Cell* to) const {
        const int half = network_.rotated();
        const float *cosines = &network_.cosines[size_t(position) * half], *sines = &network_.sines[size_t(position) * half];
        const int apart = pairs ? 1 : half, step = pairs ? 2 : 1;
        float turned[2 * 512];
        for (int i = 0; i < half; i++) {
            const float a = from[i * step], b = from[i * step + apart];
            turned[i] = a * cosines[i] - b * sines[i];
            turned[half + i] = b * cosines[i] + a * sines[i];
        }
        round_cells<N>(turned, 2 * half, to);
    }

    void grouped(const Layer<N>& layer) {
        const int K = s_.head_dim, H = s_.heads, J = s_.kv_heads;
        Cell* cells = key_.at_least(round_up(K, LANES));
        for (int r = 0; r < rows_; r++) {
            const Place& place = (*places_)[r];
            float* row = projected_ + size_t(r) * layer.qkv.outputs;
            for (int i = 0; i < int(layer.qkv_bias.size()); i++) row[i] += layer.qkv_bias[i];
            for (int h = 0; h < H; h++) {
                if (s_.head_norms) normalise(row + h * K, layer.q_norm, s_.norm_eps, row + h * K);
                rotate(row + h * K, place.position, false, query(r, h));
            }
            for (int j = 0; j < J; j++) {
                float *key = row + (H + j) * K, *value = key + J * K;
                if (s_.head_norms) normalise(key, layer.k_norm, s_.norm_eps, key);
                rotate(key, place.position, false, cells);
                cache.write_key(place.page, layer_, j, place.offset, cells);
                round_cells<N>(value, K, cells);
                cache.write_value(place.page, layer_, j, place.offset, cells);
            }
        }
    }

    void latent_queries(const Layer<N>& layer) {
        const int H = s_.heads, C = s_.kv_rank, nope = s_.nope_dim, per_head = nope + s_.rope_dim, width = network_.query_width();
        const float* queries = projected_;
        size_t step = layer.qkv.outputs;
        if (s_.q_rank) {
            Cell* compressed = plain_.at_least(size_t(rows_) * s_.q_rank);
            for (int r = 0; r < rows_; r++) {
                float* row = projected_ + size_t(r) * layer.qkv.outputs;
                normalise(row, layer.q_a_norm, s_.latent_eps, row);
                round_cells<N>(row, s_.q_rank, compressed + size_t(r) * s_.q_rank);
            }
            float* up = unfolded_.at_least(size_t(rows_) * width);
            product(compressed, s_.q_rank, rows_, layer.q_up, up, width, false, s_.threads);
            queries = up, step = width;
        }
        Cell* plain = plain_.at_least(size_t(rows_) * H * nope);
        for (int r = 0; r < rows_; r++)
            for (int h = 0; h < H; h++) {
                const float* from = queries + r * step + h * per_head;
                round_cells<N>(from, nope, plain + (size_t(r) * H + h) * nope);
                rotate(from + nope, (*places_)[r].position, true, query(r, h) + C);
            }
        float* latent = latents_.at_least(size_t(rows_) * C);
        for (int h = 0; h < H; h++) {
            product(plain + h * nope, size_t(H) * nope, rows_, *layer.key_up[h], latent, C, false, s_.threads);
            for (int r = 0; r < rows_; r++) round_cells<N>(latent + size_t(r) * C, C, query(r, h));
        }
    }

    void latent_keys(const Layer<N>& layer) {
        const int C = s_.kv_rank, first = layer.qkv.outputs - C - s_.rope_dim;
        Cell* cells = key_.at_least(cache.key);
        for (int r = 0; r < rows_; r++) {
            const Place& place = (*places_)[r];
            float* row = projected_ + size_t(r) * layer.qkv.outputs + first;
            normalise(row, layer.kv_a_norm, s_.latent_eps, row);
            round_cells<N>(row, C, cells);
            rotate(row + C, place.position, true, cells + C);
            cache.write_key(place.page, layer_, 0, place.offset, cells);
            cache.write_value(place.page, layer_, 0, place.offset, cells);
        }
    }

    void latent_values(const Layer<N>& layer) {
        const int H = s_.heads, C = s_.kv_rank, V = s_.v_dim;
        collect(C);
        Cell* latents = plain_.at_least(size_t(rows_) * H * C);
        std::memcpy(latents, collected_.data(), size_t(rows_) * H * C * sizeof(Cell));
        float* values = latents_.at_least(size_t(rows_) * V);
        Cell* to = collected_.at_least(size_t(rows_) * H * V);
        for (int h = 0; h < H; h++) {
            product(latents + h * C, size_t(H) * C, rows_, *layer.value_up[h], values, V, false, s_.threads);
            for (int r = 0; r < rows_; r++) round_cells<N>(values + size_t(r) * V, V, to + (size_t(r) * H + h) * V);
        }
    }

    void attend() {
        struct Item {
            int first, count, head;
        };
        const int most = std::max(1, QUERIES_AT_ONCE / per_head_), width = cache.value_words();
        std::vector<Item> items;
        for (int first = 0, next; first < rows_; first = next) {
            for (next = first + 1; next < rows_ && next - first < most && span(next).prompt == span(first).prompt;) next++;
            for (int j = 0; j < cache.heads; j++) items.push_back({first, next - first, j});
        }
        std::vector<Span> spans(rows_);
        for (int r = 0; r < rows_; r++) spans[r] = span(r);
        attended_.at_least(size_t(rows_) * s_.heads * width);
        const int count = int(items.size());
#pragma omp parallel for schedule(dynamic, 1) num_threads(s_.threads) if (s_.threads > 1)
        for (int i = 0; i < count; i++) {
            const Item& item = items[i];
            const auto* queries = reinterpret_cast<const uint32_t*>(query(item.first, item.head * per_head_));
            float* out = attended_.data() + (size_t(item.head) * rows_ + item.first) * per_head_ * width;
            HeadAttention<N>(cache, layer_, item.head, per_head_, s_.scale)(queries, &spans[item.first], item.count, out);
        }
    }

    const Span& span(int row) const { return (*places_)[row].span; }

    // From [heads of the cache, rows, queries per head, padded width] floats to [rows, heads, width] cells.
    void collect(int width) {
        const int padded = cache.value_words();
        Cell* to = collected_.at_least(size_t(rows_) * s_.heads * width);
        for (int r = 0; r < rows_; r++)
            for (int h = 0; h < s_.heads; h++) {
                const size_t place = (size_t(h / per_head_) * rows_ + r) * per_head_ + h % per_head_;
                round_cells<N>(attended_.data() + place * padded, width, to + (size_t(r) * s_.heads + h) * width);
            }
    }

    void feed_forward(const Layer<N>& layer) {
        if (const int F = layer.dense.down.inputs) {
            float* hidden = hidden_.at_least(size_t(rows_) * 2 * F);
            product(normed_.data(), s_.width, rows_, layer.dense.in, hidden, 2 * F, false, s_.threads, &ahead);
            Cell* active = active_.at_least(size_t(rows_) * F);
            for (int r = 0; r < rows_; r++) activate<N>(hidden + size_t(r) * 2 * F, F, 1.0f, active + size_t(r) * F);
            product(active, F, rows_, layer.dense.down, x_, s_.width, true, s_.threads, &ahead);
        }
        if (layer.experts.empty()) return;
        float* seen = routed_.at_least(size_t(rows_) * s_.width);
        const size_t count = size_t(rows_) * s_.width;
        for (size_t i = 0; i < count; i += LANES) {
            const Mask mask = lanes(int(std::min(count - i, size_t(LANES))));
            _mm512_mask_storeu_ps(seen + i, mask, N::load(normed_.data() + i, mask));
        }
        route(s_, layer, seen, rows_, routing_);
        record();
        mixture_(s_, layer, normed_.data(), rows_, routing_, x_);
    }

    void record() {
        const int A = s_.active_experts;
        for (int r = 0; r < rows_; r++)
            if (int16_t* to = (*places_)[r].experts)
                std::copy_n(routing_.chosen.begin() + size_t(r) * A, A, to + size_t(layer_ - s_.dense_layers) * A);
    }

    const Network<N>& network_;
    const Shape& s_;
    int per_head_ = 1, rows_ = 0, layer_ = 0;
    const std::vector<Place>* places_ = nullptr;
    float *x_ = nullptr, *projected_ = nullptr;
    Buffer<float> residual_, scratch_, projections_, unfolded_, latents_, attended_, hidden_, routed_;
    Buffer<Cell> normed_, queries_, key_, plain_, collected_, active_;
    Routing<N> routing_;
    Mixture<N> mixture_;
};

}  // namespace r1
