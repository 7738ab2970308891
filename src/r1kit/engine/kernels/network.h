// The decoder's weights, packed for decoding, under the names of decoder.py's parameters.
#pragma once

#include <memory>
#include <string>

#include "matrix.h"

namespace r1 {

// What model/config.py says, resolved; compiled.py fills it. Zero where a family has no such part.
struct Shape {
    int32_t latent, vocabulary, width, layers, heads, kv_heads, head_dim, ffn_width;
    int32_t q_rank, kv_rank, nope_dim, rope_dim, v_dim;
    int32_t dense_layers, experts, active_experts, shared_width, expert_width, groups, groups_kept, normalise_gates, softmax_gates;
    int32_t head_norms, threads;
    float norm_eps, latent_eps, scale, route_scale;
};

template <class N>
struct FeedForward {
    Matrix<N> in, down;  // ``in``: gate above up
    void shape(int width, int hidden, bool eight, Arena& memory) {
        in.shape(2 * hidden, width, eight, memory), down.shape(width, hidden, eight, memory);
    }
};

template <class N>
struct Layer {
    std::vector<float> input_norm, post_norm, q_norm, k_norm, q_a_norm, kv_a_norm, qkv_bias;
    Matrix<N> qkv, out;            // grouped: q, k, v; latent: q (or its compression), then latent and rotated key
    Matrix<N> q_up;                // latent with q_rank
    std::vector<std::unique_ptr<Matrix<N>>> key_up, value_up;  // latent, by head: query into latent, latent into value
    FeedForward<N> dense;          // or the shared experts; width 0 without any
    std::vector<float> gate, gate_bias;  // [E, D] float32, [E]
    std::vector<std::unique_ptr<FeedForward<N>>> experts;
};

template <class N>
class Network {
  public:
    Shape shape;
    std::vector<Layer<N>> layers;
    Matrix<N> head;
    std::vector<float> norm;
    const float* embedding = nullptr;    // [V, D], the model's own memory
    std::vector<float> cosines, sines;   // [positions, I]

    // ``eight``: all weights are in 8 bits but those by which latent attention is folded, which are small and many; so are keys and values.
    explicit Network(const Shape& s, bool eight = false) : shape(s), layers(s.layers), memory_(16 * Arena::HUGE_PAGE), eight_(eight) {
        for (int i = 0; i < s.layers; i++) build(layers[i], i >= s.dense_layers);
        head.shape(s.vocabulary, s.width, eight, memory_);
    }

    bool eight() const { return eight_; }
    int rotated() const { return (shape.latent ? shape.rope_dim : shape.head_dim) / 2; }
    int query_width() const { return shape.heads * (shape.latent ? shape.nope_dim + shape.rope_dim : shape.head_dim); }
    int attended_width() const { return shape.heads * (shape.latent ? shape.v_dim : shape.head_dim); }

    // Take one parameter, float32 [rows, columns]; ``part`` is the expert, or the first of these rows of the head. Return false for a name that is not known.
    bool take(int index, const std::string& name, int part, const float* from, int rows, int columns) {
        if (index < 0) {
            if (name == "lm_head.weight") return head.fill(part, rows, from, columns), true;
            if (name == "norm.weight") return norm.assign(from, from + rows), true;
            return name == "embed_tokens.weight" && (embedding = from, true);
        }
        Layer<N>& layer = layers[index];
        if (std::vector<float>* numbers = vector_of(layer, name)) return numbers->assign(from, from + size_t(rows) * columns), true;
        if (name == "self_attn.kv_b_proj.weight") return unfold(layer, from, columns), true;
        const auto [matrix, first] = place_of(layer, name, part);
        if (matrix) return matrix->fill(first, rows, from, columns), true;
        return take_bias(layer, name, from, rows);
    }

  private:
    void build(Layer<N>& layer, bool sparse) {
        const Shape& s = shape;
        if (s.latent) {
            layer.qkv.shape((s.q_rank ? s.q_rank : query_width()) + s.kv_rank + s.rope_dim, s.width, eight_, memory_);
            if (s.q_rank) layer.q_up.shape(query_width(), s.q_rank, eight_, memory_);
            for (int h = 0; h < s.heads; h++) {
                layer.key_up.push_back(std::make_unique<Matrix<N>>());
                layer.value_up.push_back(std::make_unique<Matrix<N>>());
                layer.key_up[h]->shape(s.kv_rank, s.nope_dim, false, memory_);
                layer.value_up[h]->shape(s.v_dim, s.kv_rank, false, memory_);
            }
        } else {
            layer.qkv.shape((s.heads + 2 * s.kv_heads) * s.head_dim, s.width, eight_, memory_);
        }
        layer.out.shape(s.width, attended_width(), eight_, memory_);
        layer.dense.shape(s.width, sparse ? s.shared_width : s.ffn_width, eight_, memory_);
        for (int e = 0; sparse && e < s.experts; e++) {
            layer.experts.push_back(std::make_unique<FeedForward<N>>());
            layer.experts[e]->shape(s.width, s.expert_width, eight_, memory_);
        }
    }

    std::vector<float>* vector_of(Layer<N>& layer, const std::string& name) {
        if (name == "input_layernorm.weight") return &layer.input_norm;
        if (name == "post_attention_layernorm.weight") return &layer.post_norm;
        if (name == "self_attn.q_norm.weight") return &layer.q_norm;
        if (name == "self_attn.k_norm.weight") return &layer.k_norm;
        if (name == "self_attn.q_a_layernorm.weight") return &layer.q_a_norm;
        if (name == "self_attn.kv_a_layernorm.weight") return &layer.kv_a_norm;
        if (name == "mlp.gate.weight") return &layer.gate;
        if (name == "mlp.gate.e_score_correction_bias") return &layer.gate_bias;
        return nullptr;
    }

    std::pair<Matrix<N>*, int> place_of(Layer<N>& layer, const std::string& name, int part) {
        const Shape& s = shape;
        const int queries = s.latent && s.q_rank ? s.q_rank : query_width();
        if (name == "self_attn.q_proj.weight" || name == "self_attn.q_a_proj.weight") return {&layer.qkv, 0};
        if (name == "self_attn.k_proj.weight" || name == "self_attn.kv_a_proj_with_mqa.weight") return {&layer.qkv, queries};
        if (name == "self_attn.v_proj.weight") return {&layer.qkv, queries + s.kv_heads * s.head_dim};
        if (name == "self_attn.q_b_proj.weight") return {&layer.q_up, 0};
        if (name == "self_attn.o_proj.weight") return {&layer.out, 0};
        if (name == "mlp.gate_proj.weight" || name == "mlp.shared_experts.gate_proj.weight") return {&layer.dense.in, 0};
        if (name == "mlp.up_proj.weight" || name == "mlp.shared_experts.up_proj.weight") return {&layer.dense.in, layer.dense.down.inputs};
        if (name == "mlp.down_proj.weight" || name == "mlp.shared_experts.down_proj.weight") return {&layer.dense.down, 0};
        if (name == "mlp.experts.gate_proj") return {&layer.experts[part]->in, 0};
        if (name == "mlp.experts.up_proj") return {&layer.experts[part]->in, s.expert_width};
        if (name == "mlp.experts.down_proj") return {&layer.experts[part]->down, 0};
        return {nullptr, 0};
    }

    // W_UK folds into the query and W_UV into the output (attention.py, "absorbed"): from [H (nope + v), C].
    void unfold(Layer<N>& layer, const float* from, int columns) {
        for (int h = 0; h < shape.heads; h++) {
            const float* keys = from + size_t(h) * (shape.nope_dim + shape.v_dim) * columns;
            layer.key_up[h]->fill(0, shape.kv_rank, keys, 1, columns);
            layer.value_up[h]->fill(0, shape.v_dim, keys + size_t(shape.nope_dim) * columns, columns);
        }
    }

    bool take_bias(Layer<N>& layer, const std::string& name, const float* from, int rows) {
        const int queries = shape.heads * shape.head_dim, keys = shape.kv_heads * shape.head_dim;
        const int first = name == "self_attn.q_proj.bias" ? 0 : name == "self_attn.k_proj.bias" ? queries : queries + keys;
        if (first == queries + keys && name != "self_attn.v_proj.bias") return false;
        layer.qkv_bias.resize(queries + 2 * keys);
        std::copy(from, from + rows, layer.qkv_bias.begin() + first);
        return true;
    }

    Arena memory_;
    bool eight_;
};

}  // namespace r1
