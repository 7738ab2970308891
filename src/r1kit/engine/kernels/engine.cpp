// The functions that compiled.py calls: plain C, arrays and sizes. A model or session is of one of two formats; nothing throws across this border.

#include "session.h"

using namespace r1;

namespace {

struct AnyNetwork {
    std::unique_ptr<Network<Half>> half;
    std::unique_ptr<Network<Full>> full;
};

struct AnySession {
    std::unique_ptr<Session<Half>> half;
    std::unique_ptr<Session<Full>> full;
};

template <class Any, class Do>
auto with(Any* any, Do act) {
    return any->half ? act(*any->half) : act(*any->full);
}

constexpr int OUT_OF_MEMORY = -2;

template <class Do>
int guarded(Do act) {
    try {
        return act();
    } catch (const std::bad_alloc&) {
        return OUT_OF_MEMORY;
    }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// ``format``: 0 is float32, 1 bfloat16, 2 the same with weights in 8 bits.
void* r1_network(const Shape* shape, int format) {
    auto* network = new (std::nothrow) AnyNetwork;
    const int status = guarded([&] {
        if (format) network->half = std::make_unique<Network<Half>>(*shape, format == 2);
        else network->full = std::make_unique<Network<Full>>(*shape);
        return 0;
    });
    if (status) delete network, network = nullptr;
    return network;
}

void r1_network_free(AnyNetwork* network) { delete network; }

int r1_take(AnyNetwork* network, int layer, const char* name, int part, const float* from, int rows, int columns) {
    return with(network, [&](auto& net) { return guarded([&] { return net.take(layer, name, part, from, rows, columns) ? 0 : -1; }); });
}

void r1_rotation(AnyNetwork* network, const float* cosines, const float* sines, int64_t count) {
    with(network, [&](auto& net) {
        net.cosines.assign(cosines, cosines + count);
        net.sines.assign(sines, sines + count);
    });
}

void* r1_session(AnyNetwork* network, const Drawing* drawing, const Record* record, const int32_t* stops, int stop_count, int speculate) {
    auto* session = new (std::nothrow) AnySession;
    const int status = guarded([&] {
        std::vector<int32_t> ids(stops, stops + stop_count);
        if (network->half) session->half = std::make_unique<Session<Half>>(*network->half, *drawing, *record, ids, speculate);
        else session->full = std::make_unique<Session<Full>>(*network->full, *drawing, *record, ids, speculate);
        return 0;
    });
    if (status) delete session, session = nullptr;
    return session;
}

void r1_session_free(AnySession* session) { delete session; }

int r1_prompt(AnySession* session, const int32_t* tokens, int length, int rollouts, int16_t* experts, int like, int shared) {
    return with(session, [&](auto& s) { return guarded([&] { return s.prompt(tokens, length, rollouts, experts, like, shared); }); });
}

void r1_hold(AnySession* session, int prompt, int change) {
    with(session, [&](auto& s) { s.hold(prompt, change); });
}

int64_t r1_page_bytes(AnySession* session) {
    return with(session, [&](auto& s) { return int64_t(s.page_bytes()); });
}

int r1_admit(AnySession* session, int count, const int32_t* rollouts, const int32_t* prompts, const uint64_t* keys) {
    return with(session, [&](auto& s) { return guarded([&] { return s.admit(count, rollouts, prompts, keys) ? s.live() : -1; }); });
}

int r1_decode(AnySession* session, int steps, int enough) {
    return with(session, [&](auto& s) { return guarded([&] { return s.decode(steps, enough); }); });
}

int r1_end(AnySession* session) {
    return with(session, [&](auto& s) { return s.end(); });
}

}  // extern "C"
#pragma GCC visibility pop
