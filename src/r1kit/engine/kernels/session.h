// Rollouts in flight: prompts computed once for their group, a row for every live rollout, and nothing for those that have ended. Rollouts join
// between two calls of ``decode``; a caller that serves requests gives the place of one that has ended to the next.
//
// What is drawn is written straight into the caller's arrays. A row's result does not depend on the other rows: products and attention have an
// order of their own for each row, and the uniform numbers come from the rollout's key.
//
// Few rows may try tokens ahead (``speculate``): what followed their last tokens where those stood before, in the prompt or in what they drew. One
// pass computes the tried tokens too. The token of each place is drawn as always, from the logits after the tokens before it and with that place's
// uniform number; where it is the one that was tried, the next place of the same pass is valid, and where it is not, the rest of the pass is
// dropped. So what is drawn, and every bit of its log-probability, is what would be drawn one token at a time.
#pragma once

#include <deque>

#include "decoder.h"
#include "drawing.h"

namespace r1 {

enum Finish : int8_t { LIVE = 0, STOP = 1, FULL = 2 };

// The caller's arrays, R rollouts of at most ``most`` tokens.
struct Record {
    int32_t* tokens;     // [R, most]
    float* logprobs;     // [R, most]
    int32_t* lengths;    // [R]
    int8_t* finished;    // [R]
    int16_t* experts;    // [R, most, sparse layers, A] or null
    int32_t most;
    // What differs between rollouts, [R] each; null: ``most`` tokens, the session's way of drawing, no likeliest tokens.
    const int32_t* limits;
    const Drawing* drawings;
    const int32_t* tops;   // how many of the likeliest tokens are recorded with each token, at most ``most_tops``
    int32_t* top_tokens;   // [R, most, most_tops]
    float* top_logprobs;   // [R, most, most_tops]
    int32_t most_tops;
};

template <class N>
class Session {
  public:
    using Cell = typename N::Cell;

    // ``speculate``: the most tokens that a row tries ahead, fewer than ROWS_AT_HEAD.
    Session(const Network<N>& network, const Drawing& drawing, const Record& record, std::vector<int32_t> stops, int speculate)
        : network_(network), decoder_(network), drawing_(drawing), record_(record), stops_(std::move(stops)), speculate_(speculate),
          pool_(decoder_.cache.page_size()) {}

    // Note a prompt, which then serves ``rollouts`` rollouts; return its number. It is computed with all others that wait, by the next ``admit``.
    // ``experts`` as in Place, for each of its positions. The first ``shared`` positions, whole pages, are those of the prompt ``like``, which is
    // held; -1: none.
    int prompt(const int32_t* tokens, int length, int rollouts, int16_t* experts, int like, int shared) {
        if (shared && !prompts_[like].tokens.empty()) compute();
        Prompt& prompt = new_prompt();
        prompt.length = length, prompt.users = rollouts;
        prompt.tokens.assign(tokens, tokens + length);
        if (speculate_) prompt.text = prompt.tokens;
        prompt.experts = experts, prompt.done = shared;
        prompt.hidden.resize(network_.shape.width);
        for (int page = 0; page < shared / PAGE; page++) {
            prompt.pages.push_back(pool_.take());
            std::memcpy(prompt.pages.back(), prompts_[like].pages[page], decoder_.cache.page_size() * sizeof(uint32_t));
        }
        uncomputed_.push_back(prompt.number);
        return prompt.number;
    }

    // Count so many users of a prompt more or fewer, such as a cache; one without users is forgotten.
    void hold(int number, int change) { release(prompts_[number], -change); }

    size_t page_bytes() const { return decoder_.cache.page_size() * sizeof(uint32_t); }

    // Give these rollouts of computed prompts a row each and draw their first tokens. Return false where logits are not finite.
    bool admit(int count, const int32_t* rollouts, const int32_t* prompts, const uint64_t* keys) {
        compute();
        const size_t before = rows_.size();
        Cell* hidden = hidden_.at_least(size_t(count) * network_.shape.width);
        for (int i = 0; i < count; i++) {
            Prompt& prompt = prompts_[prompts[i]];
            rows_.push_back({rollouts[i], &prompt, keys[i], {}, {}});
            std::copy(prompt.hidden.begin(), prompt.hidden.end(), hidden + size_t(i) * network_.shape.width);
        }
        const bool finite = draw_rows(before, hidden);
        leave();
        std::stable_sort(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) { return a.prompt->number < b.prompt->number; });
        return finite;
    }

    // Run at most ``steps`` steps, until at most ``enough`` rows are left; return how many are, or -1 where logits are not finite.
    int decode(int steps, int enough) {
        for (; steps > 0 && int(rows_.size()) > enough; steps--)
            if (!step()) return -1;
        return int(rows_.size());
    }

    int live() const { return int(rows_.size()); }

    // Drop rows that the caller has marked as finished; return how many are left.
    int end() {
        leave();
        return live();
    }

  private:
    struct Prompt {
        int number = 0, length = 0, users = 0, done = 0;  // ``done``: positions that are computed
        Pages pages;
        std::vector<int32_t> tokens;  // empty once it is computed
        std::vector<int32_t> text;    // the same, kept where rows try tokens ahead
        int16_t* experts = nullptr;
        std::vector<Cell> hidden;  // of the last position, after the final norm
    };
    struct Row {
        int32_t rollout;
        Prompt* prompt;
        uint64_t key;
        Pages pages;
        std::vector<int32_t> tried;  // ahead of the last token drawn, by the running step
    };
    static constexpr int STRETCH_OF_PROMPT = 256, ROWS_AT_HEAD = 48;
    static constexpr int PLACES_TRIED = 12;       // of a step in which rows try tokens ahead, at most
    static constexpr int SAME_MOST = 3, SAME_LEAST = 2;  // tokens that have stood before, for their continuation to be tried

    Prompt& new_prompt() {
        if (forgotten_.empty()) {
            prompts_.emplace_back();
            prompts_.back().number = int(prompts_.size()) - 1;
            return prompts_.back();
        }
        const int number = forgotten_.back();
        forgotten_.pop_back();
        return prompts_[number];
    }

    void release(Prompt& prompt, int users) {
        if ((prompt.users -= users) > 0) return;
        if (!prompt.tokens.empty()) uncomputed_.erase(std::find(uncomputed_.begin(), uncomputed_.end(), prompt.number));
        prompt.tokens = {}, prompt.text = {};
        pool_.give_back(prompt.pages);
        prompt.hidden = {};
        forgotten_.push_back(prompt.number);
    }

    // Compute the prompts that wait, several short ones in one pass: a row's result does not depend on the others.
    void compute() {
        for (size_t first = 0; first < uncomputed_.size();) {
            places_.clear();
            std::vector<std::pair<Prompt*, size_t>> ends;
            for (size_t i = first; i < uncomputed_.size() && places_.size() < STRETCH_OF_PROMPT; i++) {
                Prompt& prompt = prompts_[uncomputed_[i]];
                const int to = std::min(prompt.length, prompt.done + STRETCH_OF_PROMPT - int(places_.size()));
                for (; prompt.done < to; prompt.done++) place(prompt, prompt.done);
                if (to < prompt.length) break;
                ends.push_back({&prompt, places_.size() - 1});
            }
            const float* x = decoder_(places_);
            for (auto [prompt, row] : ends) decoder_.finish(x + row * network_.shape.width, prompt->hidden.data()), prompt->tokens = {};
            first += ends.size();
        }
        uncomputed_.clear();
    }

    void place(Prompt& prompt, int t) {
        if (t % PAGE == 0) prompt.pages.push_back(pool_.take());
        int16_t* recorded = prompt.experts ? prompt.experts + size_t(t) * choices() : nullptr;
        places_.push_back({prompt.tokens[t], t, {&prompt.pages, t + 1, &prompt.pages, 0}, prompt.pages.back(), t % PAGE, recorded});
    }

    size_t choices() const { return size_t(network_.shape.layers - network_.shape.dense_layers) * network_.shape.active_experts; }

    // What a row tries ahead, ``most`` tokens or none: those that followed the latest earlier place of its last tokens, and on from there.
    void guess(Row& row, int most) const {
        row.tried.clear();
        const int32_t* drawn = record_.tokens + size_t(row.rollout) * record_.most;
        const int seen = row.prompt->length, all = seen + record_.lengths[row.rollout];
        const auto token = [&](int place) {
            return place < seen ? row.prompt->text[place] : place < all ? drawn[place - seen] : row.tried[place - all];
        };
        for (int same = SAME_MOST; most > 0 && same >= SAME_LEAST; same--)
            for (int end = all - 1; end >= same; end--) {
                int equal = 0;
                while (equal < same && token(end - 1 - equal) == token(all - 1 - equal)) equal++;
                if (equal < same) continue;
                while (int(row.tried.size()) < most) row.tried.push_back(token(end++));
                return;
            }
    }

    int limit(int rollout) const { return record_.limits ? record_.limits[rollout] : record_.most; }

    bool step() {
        const int D = network_.shape.width, most = int(rows_.size()) * (1 + speculate_) <= PLACES_TRIED ? speculate_ : 0;
        places_.clear();
        for (Row& row : rows_) {
            const int done = record_.lengths[row.rollout] - 1;  // the last token drawn is fed at this place of its own
            if (speculate_) guess(row, std::min(most, limit(row.rollout) - done - 2));
            for (int i = 0; i <= int(row.tried.size()); i++) {
                const int place = done + i;
                if (place / PAGE == int(row.pages.size())) row.pages.push_back(pool_.take());
                const size_t at = size_t(row.rollout) * record_.most + place;
                int16_t* recorded = record_.experts ? record_.experts + at * choices() : nullptr;
                const int32_t token = i ? row.tried[i - 1] : record_.tokens[at];
                places_.push_back({token, row.prompt->length + place, {&row.prompt->pages, row.prompt->length, &row.pages, place + 1},
                                   row.pages[place / PAGE], place % PAGE, recorded});
            }
        }
        const float* x = decoder_(places_);
        Cell* hidden = hidden_.at_least(places_.size() * D);
        for (size_t r = 0; r < places_.size(); r++) decoder_.finish(x + r * D, hidden + r * D);
        const bool finite = draw_rows(0, hidden);
        leave();
        return finite;
    }

    // Draw tokens for the rows from ``first`` on: one, and one for each token tried before it that was drawn. ``hidden`` begins with the first row's.
    bool draw_rows(size_t first, const Cell* hidden) {
        const int V = network_.shape.vocabulary, D = network_.shape.width, padded = round_up(V, LANES), threads = network_.shape.threads;
        bool finite = true;
        for (size_t from = first, to; from < rows_.size(); from = to) {
            std::vector<int> begins(1, 0);
            for (to = from; to < rows_.size(); to++) {
                const int after = begins.back() + 1 + int(rows_[to].tried.size());
                if (after > ROWS_AT_HEAD) break;
                begins.push_back(after);
            }
            const int count = begins.back();
            float* logits = logits_.at_least(size_t(count) * padded);
            product(hidden, D, count, network_.head, logits, padded, false, threads, &decoder_.ahead);
            hidden += size_t(count) * D;
            std::vector<char> fine(to - from);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
            for (int i = 0; i < int(to - from); i++) fine[i] = draw_row(rows_[from + i], logits + size_t(begins[i]) * padded, padded);
            for (char one : fine) finite = finite && one;
        }
        return finite;
    }

    // Draw from the logits after a row's last token, and from those after each tried token as long as that is what was drawn.
    bool draw_row(const Row& row, float* logits, int padded) {
        const int V = network_.shape.vocabulary;
        const Drawing& how = record_.drawings ? record_.drawings[row.rollout] : drawing_;
        for (size_t i = 0;; i++, logits += padded) {
            const int place = record_.lengths[row.rollout];
            const Drawn drawn = draw(logits, V, how, uniform(row.key, place));
            if (drawn.token >= 0 && record_.tops && record_.tops[row.rollout]) {
                const size_t at = (size_t(row.rollout) * record_.most + place) * record_.most_tops;
                likeliest(logits, V, drawn.total, record_.tops[row.rollout], record_.top_tokens + at, record_.top_logprobs + at);
            }
            if (!write(row.rollout, drawn)) return false;
            if (record_.finished[row.rollout] != LIVE || i == row.tried.size() || row.tried[i] != drawn.token) return true;
        }
    }

    bool write(int rollout, const Drawn& drawn) {
        if (drawn.token < 0) return false;
        const int place = record_.lengths[rollout]++;
        record_.tokens[size_t(rollout) * record_.most + place] = drawn.token;
        record_.logprobs[size_t(rollout) * record_.most + place] = drawn.logprob;
        const bool stopped = std::find(stops_.begin(), stops_.end(), drawn.token) != stops_.end();
        record_.finished[rollout] = stopped ? STOP : place + 1 == limit(rollout) ? FULL : LIVE;
        return true;
    }

    // Finished rows give back their pages, and the last rollout of a prompt those of the prompt.
    void leave() {
        size_t kept = 0;
        for (Row& row : rows_) {
            if (record_.finished[row.rollout] == LIVE) {
                if (&rows_[kept] != &row) rows_[kept] = std::move(row);
                kept++;
                continue;
            }
            pool_.give_back(row.pages);
            release(*row.prompt, 1);
        }
        rows_.resize(kept);
    }

    const Network<N>& network_;
    Decoder<N> decoder_;
    Drawing drawing_;
    Record record_;
    std::vector<int32_t> stops_;
    int speculate_;
    Pool pool_;
    std::deque<Prompt> prompts_;  // a deque: rows hold their addresses
    std::vector<int> uncomputed_;  // numbers of prompts that wait to be computed
    std::vector<int> forgotten_;  // numbers of prompts without users, to be given again
    std::vector<Row> rows_;
    std::vector<Place> places_;
    Buffer<Cell> hidden_;
    Buffer<float> logits_;
};

}  // namespace r1
