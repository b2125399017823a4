// What llama.cpp makes of texts: its token ids, as hashes. make_ids.py beside this file compiles and runs it.
//
//   peer_vocab MODEL [PRE]    texts on stdin, each as its length (u32, little endian) and its bytes; PRE overrides
//                             tokenizer.ggml.pre. One line of facts, then for each text one line of three hashes:
//                             ids without and with special tokens parsed, and the text of the latter ids; after them
//                             the ids without special tokens where COTVALVE_PEER_IDS is set.
#include "llama.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// FNV-1a, 32 bits.
struct Hash {
    uint32_t state = 2166136261u;

    void bytes(const char * data, size_t size) {
        for (size_t i = 0; i < size; i++) state = (state ^ (uint8_t) data[i]) * 16777619u;
    }

    void u32(uint32_t value) {
        for (int shift = 0; shift < 32; shift += 8) {
            const char byte = (char) (value >> shift);
            bytes(&byte, 1);
        }
    }
};

uint32_t hash_ids(const std::vector<llama_token> & ids) {
    Hash hash;
    for (const llama_token id : ids) hash.u32((uint32_t) id);
    return hash.state;
}

struct Peer {
    llama_model * model = nullptr;
    const llama_vocab * vocab = nullptr;

    Peer(const char * path, const char * pre) {
        llama_log_set([](ggml_log_level level, const char * text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        }, nullptr);
        llama_model_kv_override overrides[2] = {};
        auto params = llama_model_default_params();
        params.vocab_only = true;
        if (pre) {
            overrides[0].tag = LLAMA_KV_OVERRIDE_TYPE_STR;
            std::snprintf(overrides[0].key, sizeof overrides[0].key, "tokenizer.ggml.pre");
            std::snprintf(overrides[0].val_str, sizeof overrides[0].val_str, "%s", pre);
            params.kv_overrides = overrides;
        }
        model = llama_model_load_from_file(path, params);
        if (!model) throw std::runtime_error(std::string(path) + ": cannot be loaded");
        vocab = llama_model_get_vocab(model);
    }

    ~Peer() { llama_model_free(model); }

    std::vector<llama_token> tokenize(const std::string & text, bool add, bool special) const {
        std::vector<llama_token> ids(2 * text.size() + 16);
        const int n = llama_tokenize(vocab, text.data(), (int) text.size(), ids.data(), (int) ids.size(), add, special);
        if (n < 0) throw std::runtime_error("llama_tokenize failed");
        ids.resize(n);
        return ids;
    }

    std::string text(const std::vector<llama_token> & ids) const {
        std::string out(64, '\0');
        for (;;) {
            const int room = (int) out.size();
            const int n = llama_detokenize(vocab, ids.data(), (int) ids.size(), out.data(), room, false, true);
            if (n >= 0) {
                out.resize(n);
                return out;
            }
            out.resize(-n);
        }
    }

    void facts() const {
        const int count = llama_vocab_n_tokens(vocab);
        Hash control, pieces;
        std::string ends;
        char piece[65536];
        for (llama_token id = 0; id < count; id++) {
            const int hidden = LLAMA_TOKEN_ATTR_CONTROL | LLAMA_TOKEN_ATTR_UNKNOWN;
            if (llama_vocab_get_attr(vocab, id) & hidden) control.u32((uint32_t) id);
            if (llama_vocab_is_eog(vocab, id)) ends += (ends.empty() ? "" : ", ") + std::to_string(id);
            const int n = llama_token_to_piece(vocab, id, piece, sizeof piece, 0, true);
            pieces.u32((uint32_t) n);
            pieces.bytes(piece, n > 0 ? n : 0);
        }
        std::string added;
        for (const llama_token id : tokenize("a", true, true)) {
            added += (added.empty() ? "" : ", ") + std::to_string(id);
        }
        std::printf("{\"tokens\": %d, \"ends\": [%s], \"control\": %u, \"pieces\": %u, \"added\": [%s]}\n", count,
                    ends.c_str(), control.state, pieces.state, added.c_str());
    }
};

bool read_text(std::string & text) {
    unsigned char head[4];
    if (std::fread(head, 1, 4, stdin) != 4) return false;
    text.resize(head[0] | head[1] << 8 | head[2] << 16 | (size_t) head[3] << 24);
    return std::fread(text.data(), 1, text.size(), stdin) == text.size();
}

void run(const Peer & peer) {
    peer.facts();
    const bool show = std::getenv("COTVALVE_PEER_IDS");
    for (std::string text; read_text(text);) {
        const auto plain = peer.tokenize(text, false, false);
        const auto special = peer.tokenize(text, false, true);
        const std::string back = peer.text(special);
        Hash hash;
        hash.bytes(back.data(), back.size());
        std::printf("%08x %08x %08x", hash_ids(plain), hash_ids(special), hash.state);
        if (show) for (const llama_token id : plain) std::printf(" %d", id);
        std::printf("\n");
    }
}

}  // namespace

int main(int argc, char ** argv) {
    try {
        if (argc < 2) throw std::runtime_error("usage: peer_vocab MODEL [PRE]");
        run(Peer(argv[1], argc > 2 ? argv[2] : nullptr));
        return 0;
    } catch (const std::exception & error) {
        std::fprintf(stderr, "peer_vocab: %s\n", error.what());
        return 1;
    }
}
