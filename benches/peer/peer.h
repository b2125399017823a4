// llama.cpp behind its public C API: a model, a context and its thread pool, with settings that are all stated.
#pragma once

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

[[noreturn]] inline void fail(const std::string & what) { throw std::runtime_error(what); }

inline double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Options {
    std::string command, model, ids, prompts, text, out, type, embd, isa;
    // `n_ctx` is that of one sequence.
    int threads = 2, n_ctx = 1024, n_batch = 2048, n_ubatch = 512, n = 64, parallel = 1;
    bool eog = false, whole = false, special = false, repack = true;
    llama_flash_attn_type fa = LLAMA_FLASH_ATTN_TYPE_AUTO;
    ggml_type kv = GGML_TYPE_F16;
    // Adapters with their scales.
    std::vector<std::pair<std::string, float>> loras;
};

class Peer {
public:
    explicit Peer(const Options & o, bool vocab_only = false) : options(o) {
        auto params = llama_model_default_params();
        params.n_gpu_layers = 0;
        params.use_extra_bufts = o.repack;
        params.vocab_only = vocab_only;
        model = llama_model_load_from_file(o.model.c_str(), params);
        if (!model) fail(o.model + ": not loaded");
        vocab = llama_model_get_vocab(model);
        n_vocab = llama_vocab_n_tokens(vocab);
        if (!vocab_only) open_context();
    }
    ~Peer() {
        if (ctx) {
            llama_free(ctx);
            stop_pool(pool);
        }
        llama_model_free(model);
    }
    Peer(const Peer &) = delete;
    Peer & operator=(const Peer &) = delete;

    /// Gives the context its thread pool, as llama-bench does; without one, ggml starts threads for every graph.
    void wake() { llama_attach_threadpool(ctx, pool, nullptr); }

    /// The pool polls for about 0.1 s after a graph. Computing one token without it pauses it at once, so that a
    /// waiting process leaves the cores alone.
    void park() {
        llama_detach_threadpool(ctx);
        const llama_token id = 0;
        clear();
        decode(&id, 1);
    }

    void clear() { llama_memory_clear(llama_get_memory(ctx), false); }

    /// Decodes `ids` after what the cache holds, at most n_batch at once; logits of the last one of each part only.
    void decode(const llama_token * ids, int n) {
        std::vector<llama_token> copy(ids, ids + n);
        for (int start = 0; start < n; start += options.n_batch) {
            const auto batch = llama_batch_get_one(copy.data() + start, std::min(options.n_batch, n - start));
            if (llama_decode(ctx, batch)) fail("llama_decode failed");
        }
        llama_synchronize(ctx);
    }

    void decode(const llama_batch & batch) {
        if (llama_decode(ctx, batch)) fail("llama_decode failed");
        llama_synchronize(ctx);
    }

    /// Sets every adapter to `scale`; at 0 none is attached, and the base model computes alone.
    void scale(float scale) {
        std::vector<float> scales(adapters.size(), scale);
        set_adapters(scale == 0 ? 0 : adapters.size(), scales.data());
    }

    std::vector<llama_token> tokenize(const std::string & text) const {
        std::vector<llama_token> ids(text.size() + 8);
        const int room = (int) ids.size();
        const int n = llama_tokenize(vocab, text.data(), (int) text.size(), ids.data(), room, false, options.special);
        if (n < 0) fail("llama_tokenize failed");
        ids.resize(n);
        return ids;
    }

    /// The best id of the last logits, and how far the second best lies below it.
    std::pair<llama_token, float> best() const {
        const float * logits = llama_get_logits_ith(ctx, -1);
        const llama_token top = (llama_token) (std::max_element(logits, logits + n_vocab) - logits);
        float second = -INFINITY;
        for (int i = 0; i < n_vocab; i++) if (i != top) second = std::max(second, logits[i]);
        return {top, logits[top] - second};
    }

    const Options & options;
    llama_model * model = nullptr;
    llama_context * ctx = nullptr;
    const llama_vocab * vocab = nullptr;
    int n_vocab = 0;

private:
    ggml_threadpool * pool = nullptr;
    decltype(ggml_threadpool_free) * stop_pool = nullptr;
    std::vector<llama_adapter_lora *> adapters;

    void set_adapters(size_t n, float * scales) {
        if (llama_set_adapters_lora(ctx, adapters.data(), n, scales)) fail("llama_set_adapters_lora failed");
    }

    void start_pool() {
        auto * reg = ggml_backend_dev_backend_reg(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU));
        auto * start = (decltype(ggml_threadpool_new) *) ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_new");
        stop_pool = (decltype(ggml_threadpool_free) *) ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_free");
        if (!start || !stop_pool) fail("the CPU backend shows no thread pool");
        auto params = ggml_threadpool_params_default(options.threads);
        pool = start(&params);
        wake();
    }

    void open_context() {
        auto params = llama_context_default_params();
        params.n_ctx = options.n_ctx * options.parallel;
        params.n_seq_max = options.parallel;
        params.kv_unified = false;
        params.n_batch = options.n_batch;
        params.n_ubatch = options.n_ubatch;
        params.n_threads = params.n_threads_batch = options.threads;
        params.flash_attn_type = options.fa;
        params.type_k = params.type_v = options.kv;
        ctx = llama_init_from_model(model, params);
        if (!ctx) fail("no context with these settings");
        std::vector<float> scales;
        for (auto & [path, scale] : options.loras) {
            adapters.push_back(llama_adapter_lora_init(model, path.c_str()));
            if (!adapters.back()) fail(path + ": not loaded");
            scales.push_back(scale);
        }
        if (!adapters.empty()) set_adapters(adapters.size(), scales.data());
        start_pool();
    }
};

/// Speeds, asked for on stdin; see serve.cpp.
void bench_serve(Peer & peer);
