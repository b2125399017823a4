// Speeds of llama.cpp on request, in the words of `valve bench-serve`: each line of stdin asks, one line of stdout
// answers with tokens/s, and between the two the process leaves the cores alone.
//
//   pp N [alpha=X]                                           one prompt of N tokens from an empty cache
//   tg N [depth=D] [batch=B] [alpha=X | turn=X | mixed=X]    N single-token steps
//   quit
//
// depth: tokens in the cache before the clock starts. batch: sequences, which step together in one batch of B rows.
// alpha: the scale of the adapters. turn: another scale before every token. mixed: another scale for each sequence,
// which then step one after another, since a context has one scale at a time.
#include "peer.h"

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <sstream>

namespace {

struct Request {
    enum class Opening { Constant, Turned, Mixed };

    bool prefill = false;
    int tokens = 0, depth = 0, batch = 1;
    Opening opening = Opening::Constant;
    float alpha = 0;

    /// The scale of sequence `row` at its token `token`.
    float at(int token, int row) const {
        const int turns = 16;
        if (opening == Opening::Turned) return alpha * (1 + (float) (token % turns) / turns);
        if (opening == Opening::Mixed) return alpha * (1 + (float) row / (float) batch);
        return alpha;
    }
};

bool read_option(Request & r, const std::string & word) {
    const size_t eq = word.find('=');
    if (eq == std::string::npos) return false;
    const std::string name = word.substr(0, eq);
    std::istringstream value(word.substr(eq + 1));
    if (name == "depth") value >> r.depth;
    else if (name == "batch") value >> r.batch;
    else if (name == "alpha" || name == "turn" || name == "mixed") {
        value >> r.alpha;
        if (name == "turn") r.opening = Request::Opening::Turned;
        if (name == "mixed") r.opening = Request::Opening::Mixed;
    } else return false;
    return value && value.peek() == EOF;
}

Request read_request(const std::string & line) {
    Request r;
    std::istringstream words(line);
    std::string test;
    bool good = words >> test >> r.tokens && (test == "pp" || test == "tg") && r.tokens >= 1;
    r.prefill = test == "pp";
    for (std::string word; good && words >> word;) good = read_option(r, word);
    const bool constant = r.opening == Request::Opening::Constant, turned = r.opening == Request::Opening::Turned;
    const bool alone = r.depth == 0 && r.batch == 1 && constant;
    const bool together = r.batch == 1 || (r.depth == 0 && !turned);
    good = good && r.depth >= 0 && r.batch >= 1 && (!r.prefill || alone) && together;
    if (!good) fail("\"" + line + "\" is not pp N, tg N or quit, or its options are wrong");
    return r;
}

std::vector<llama_token> random_ids(const Peer & peer, int n) {
    static uint32_t state = 1;
    std::vector<llama_token> ids(n);
    for (auto & id : ids) {
        state = state * 1664525u + 1013904223u;
        id = (llama_token) (((uint64_t) state * (uint64_t) peer.n_vocab) >> 32);
    }
    return ids;
}

/// Starts the threads and builds the graph, untimed, and leaves the cache empty.
void warm(Peer & peer, const llama_token * ids, int n) {
    peer.clear();
    peer.decode(ids, n);
    peer.clear();
}

double prefill(Peer & peer, const Request & r) {
    const auto ids = random_ids(peer, r.tokens);
    peer.scale(r.alpha);
    warm(peer, ids.data(), std::min(r.tokens, 32));
    const double start = now_s();
    peer.decode(ids.data(), r.tokens);
    return r.tokens / (now_s() - start);
}

double decode(Peer & peer, const Request & r) {
    const auto ids = random_ids(peer, r.depth + r.tokens);
    peer.scale(r.at(0, 0));
    warm(peer, ids.data(), 1);
    if (r.depth > 0) peer.decode(ids.data(), r.depth);
    const double start = now_s();
    for (int i = 0; i < r.tokens; i++) {
        if (r.opening == Request::Opening::Turned) peer.scale(r.at(i, 0));
        peer.decode(&ids[r.depth + i], 1);
    }
    return r.tokens / (now_s() - start);
}

/// Gives `batch` the next token of each row from `first` on, `rows` of them, at position `pos`.
void fill(llama_batch & batch, const std::vector<llama_token> & ids, int first, int rows, int pos) {
    batch.n_tokens = rows;
    for (int i = 0; i < rows; i++) {
        batch.token[i] = ids[first + i];
        batch.pos[i] = pos;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = first + i;
        batch.logits[i] = 1;
    }
}

/// One step of all sequences.
void step(Peer & peer, const Request & r, llama_batch & batch, const std::vector<llama_token> & ids, int pos) {
    if (r.opening != Request::Opening::Mixed) {
        fill(batch, ids, 0, r.batch, pos);
        return peer.decode(batch);
    }
    for (int row = 0; row < r.batch; row++) {
        peer.scale(r.at(0, row));
        fill(batch, ids, row, 1, pos);
        peer.decode(batch);
    }
}

double decode_together(Peer & peer, const Request & r) {
    if (r.batch > peer.options.parallel) fail("batch: more sequences than --parallel");
    auto batch = llama_batch_init(r.batch, 0, 1);
    peer.scale(r.at(0, 0));
    peer.clear();
    step(peer, r, batch, random_ids(peer, r.batch), 0);  // as in `warm`
    peer.clear();
    const double start = now_s();
    for (int i = 0; i < r.tokens; i++) step(peer, r, batch, random_ids(peer, r.batch), i);
    const double rate = (double) r.tokens * r.batch / (now_s() - start);
    llama_batch_free(batch);
    return rate;
}

/// Tokens/s of all sequences together.
double measure(Peer & peer, const Request & r) {
    if (r.depth + r.tokens > peer.options.n_ctx) fail("more tokens than n_ctx");
    peer.wake();
    if (r.prefill) return prefill(peer, r);
    return r.batch == 1 ? decode(peer, r) : decode_together(peer, r);
}

}  // namespace

void bench_serve(Peer & peer) {
    for (std::string line; std::getline(std::cin, line) && line != "quit";) {
        const double rate = measure(peer, read_request(line));
        peer.park();
        std::printf("%.4f\n", rate);
        std::fflush(stdout);
    }
}
