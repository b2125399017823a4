// llama.cpp driven through its public C API, with every setting that matters stated on the command line.
//
//   peer SUBCOMMAND -m MODEL [settings] [arguments]
//
//   logits      --ids FILE --out FILE.npy          logits of every position, f32 [positions, vocab]; no BOS is added
//   greedy      --prompts FILE.jsonl -n N [--eog]  one {"ids": [...], "margins": [...]} a prompt; --eog stops there
//   tokenize    --text FILE [--whole] [--special]  one JSON array of ids a line, or one of the whole file
//   bench       [--pp N] [--tg N]                  tokens/s of one prefill of N and of N single-token steps
//   bench-serve                                    the same, asked for on stdin: "pp N", "tg N", "quit"
//   load        -p TEXT                            the first greedy token after TEXT, as soon as it is known
//   requantize  --out FILE --type T --embd T       T: f32 f16 q4_0 q4_1 q5_0 q5_1 q8_0 q4_k_m
//                                                  q5_k_m q6_k; norms stay f32
//
// Settings: -t THREADS (2)  --fa on|off|auto (auto)  --kv f32|f16 (f16)  -c N_CTX (1024)  -b N_BATCH (2048)
//   -ub N_UBATCH (512)  --repack on|off (on)  --lora FILE=SCALE (repeatable)
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string & what) { throw std::runtime_error(what); }

double now_s() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Options {
    std::string command, model, ids, prompts, text, out, type, embd;
    int threads = 2, n_ctx = 1024, n_batch = 2048, n_ubatch = 512, n = 64, pp = 512, tg = 128;
    bool eog = false, whole = false, special = false, repack = true;
    llama_flash_attn_type fa = LLAMA_FLASH_ATTN_TYPE_AUTO;
    ggml_type kv = GGML_TYPE_F16;
    std::vector<std::pair<std::string, float>> loras;
};

int positive(const std::string & flag, const std::string & value) {
    char * end = nullptr;
    const long n = std::strtol(value.c_str(), &end, 10);
    if (*end || n < 1 || n > 1 << 24) fail(flag + ": not a positive number: " + value);
    return static_cast<int>(n);
}

template <class T>
T choice(const std::string & flag, const std::string & value, std::vector<std::pair<const char *, T>> choices) {
    for (auto & [name, result] : choices) if (value == name) return result;
    fail(flag + ": unknown value " + value);
}

std::pair<std::string, float> parse_lora(const std::string & value) {
    const size_t eq = value.rfind('=');
    if (eq == std::string::npos) fail("--lora: expected FILE=SCALE");
    return {value.substr(0, eq), std::stof(value.substr(eq + 1))};
}

Options parse(int argc, char ** argv) {
    if (argc < 2) fail("usage: peer logits|greedy|tokenize|bench|bench-serve|load|requantize -m MODEL ...");
    Options o;
    o.command = argv[1];
    for (int i = 2; i < argc; i++) {
        const std::string flag = argv[i];
        if (flag == "--eog") { o.eog = true; continue; }
        if (flag == "--whole") { o.whole = true; continue; }
        if (flag == "--special") { o.special = true; continue; }
        if (++i == argc) fail(flag + ": a value is missing");
        const std::string v = argv[i];
        if (flag == "-m") o.model = v;
        else if (flag == "-t") o.threads = positive(flag, v);
        else if (flag == "-c") o.n_ctx = positive(flag, v);
        else if (flag == "-b") o.n_batch = positive(flag, v);
        else if (flag == "-ub") o.n_ubatch = positive(flag, v);
        else if (flag == "-n") o.n = positive(flag, v);
        else if (flag == "--pp") o.pp = positive(flag, v);
        else if (flag == "--tg") o.tg = positive(flag, v);
        else if (flag == "-p" || flag == "--text") o.text = v;
        else if (flag == "--ids") o.ids = v;
        else if (flag == "--prompts") o.prompts = v;
        else if (flag == "--out") o.out = v;
        else if (flag == "--type") o.type = v;
        else if (flag == "--embd") o.embd = v;
        else if (flag == "--lora") o.loras.push_back(parse_lora(v));
        else if (flag == "--repack") o.repack = choice<bool>(flag, v, {{"on", true}, {"off", false}});
        else if (flag == "--kv") o.kv = choice<ggml_type>(flag, v, {{"f32", GGML_TYPE_F32}, {"f16", GGML_TYPE_F16}});
        else if (flag == "--fa") o.fa = choice<llama_flash_attn_type>(flag, v, {
            {"on", LLAMA_FLASH_ATTN_TYPE_ENABLED},
            {"off", LLAMA_FLASH_ATTN_TYPE_DISABLED},
            {"auto", LLAMA_FLASH_ATTN_TYPE_AUTO}});
        else fail("unknown flag " + flag);
    }
    if (o.model.empty()) fail("-m: a model is needed");
    return o;
}

std::string read_file(const std::string & path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) fail(path + ": cannot be read");
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
}

/// Every integer in `text`: a JSON array of ids, or ids separated by blanks.
std::vector<llama_token> integers(const std::string & text) {
    std::vector<llama_token> ids;
    for (size_t i = 0; i < text.size();) {
        if (!std::isdigit(static_cast<unsigned char>(text[i]))) { i++; continue; }
        size_t used = 0;
        ids.push_back(std::stoi(text.substr(i, 12), &used));
        i += used;
    }
    return ids;
}

void print_ids(const std::vector<llama_token> & ids) {
    std::printf("[");
    for (size_t i = 0; i < ids.size(); i++) std::printf(i ? ", %d" : "%d", ids[i]);
    std::printf("]");
}

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

    /// Decodes `ids` after what the cache holds; logits of the last one only.
    void decode(const llama_token * ids, int n) {
        std::vector<llama_token> copy(ids, ids + n);
        if (llama_decode(ctx, llama_batch_get_one(copy.data(), n))) fail("llama_decode failed");
        llama_synchronize(ctx);
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
        params.n_ctx = options.n_ctx;
        params.n_batch = options.n_batch;
        params.n_ubatch = options.n_ubatch;
        params.n_threads = params.n_threads_batch = options.threads;
        params.flash_attn_type = options.fa;
        params.type_k = params.type_v = options.kv;
        ctx = llama_init_from_model(model, params);
        if (!ctx) fail("no context with these settings");
        std::vector<llama_adapter_lora *> adapters;
        std::vector<float> scales;
        for (auto & [path, scale] : options.loras) {
            adapters.push_back(llama_adapter_lora_init(model, path.c_str()));
            if (!adapters.back()) fail(path + ": not loaded");
            scales.push_back(scale);
        }
        if (!adapters.empty() && llama_set_adapters_lora(ctx, adapters.data(), adapters.size(), scales.data()))
            fail("llama_set_adapters_lora failed");
        start_pool();
    }
};

void write_npy_header(FILE * f, size_t rows, size_t cols) {
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) + ", " +
                         std::to_string(cols) + "), }";
    header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10 - 1, ' ');
    header += '\n';
    const uint16_t n = (uint16_t) header.size();
    std::fwrite("\x93NUMPY\x01\x00", 1, 8, f);
    std::fwrite(&n, 2, 1, f);
    std::fwrite(header.data(), 1, header.size(), f);
}

void logits(Peer & peer) {
    const auto ids = integers(read_file(peer.options.ids));
    const int n = (int) ids.size();
    if (n == 0 || n > peer.options.n_ctx) fail("--ids: 1 to n_ctx ids are needed");
    FILE * f = std::fopen(peer.options.out.c_str(), "wb");
    if (!f) fail("--out: cannot be written: " + peer.options.out);
    write_npy_header(f, n, peer.n_vocab);
    const int step = std::min(peer.options.n_batch, n);
    llama_batch batch = llama_batch_init(step, 0, 1);
    for (int start = 0; start < n; start += step) {
        batch.n_tokens = std::min(step, n - start);
        for (int i = 0; i < batch.n_tokens; i++) {
            batch.token[i] = ids[start + i];
            batch.pos[i] = start + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(peer.ctx, batch)) fail("llama_decode failed");
        for (int i = 0; i < batch.n_tokens; i++)
            std::fwrite(llama_get_logits_ith(peer.ctx, i), sizeof(float), peer.n_vocab, f);
    }
    llama_batch_free(batch);
    if (std::fclose(f)) fail("--out: cannot be written: " + peer.options.out);
}

void greedy(Peer & peer) {
    std::istringstream lines(read_file(peer.options.prompts));
    for (std::string line; std::getline(lines, line);) {
        const auto prompt = integers(line);
        if (prompt.empty()) continue;
        std::vector<llama_token> ids;
        std::vector<float> margins;
        peer.clear();
        peer.decode(prompt.data(), (int) prompt.size());
        for (int i = 0; i < peer.options.n; i++) {
            const auto [id, margin] = peer.best();
            ids.push_back(id);
            margins.push_back(margin);
            if (i + 1 == peer.options.n || (peer.options.eog && llama_vocab_is_eog(peer.vocab, id))) break;
            peer.decode(&id, 1);
        }
        std::printf("{\"ids\": ");
        print_ids(ids);
        std::printf(", \"margins\": [");
        for (size_t i = 0; i < margins.size(); i++) std::printf(i ? ", %.6g" : "%.6g", margins[i]);
        std::printf("]}\n");
    }
}

void tokenize(const Peer & peer) {
    const std::string text = read_file(peer.options.text);
    if (peer.options.whole) {
        print_ids(peer.tokenize(text));
        std::printf("\n");
        return;
    }
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        print_ids(peer.tokenize(line));
        std::printf("\n");
    }
}

/// Tokens/s of one test, from an empty cache: "pp" decodes n ids at once, "tg" one after another.
double tokens_per_s(Peer & peer, const std::string & test, int n) {
    if (n > peer.options.n_ctx) fail("more tokens than n_ctx");
    std::vector<llama_token> ids(n);
    uint32_t state = 1;
    for (auto & id : ids) {
        state = state * 1664525u + 1013904223u;
        id = (llama_token) (((uint64_t) state * (uint64_t) peer.n_vocab) >> 32);
    }
    peer.wake();
    peer.clear();
    peer.decode(ids.data(), test == "pp" ? std::min(n, 32) : 1);  // starts the threads and builds the graph, untimed
    peer.clear();
    const double start = now_s();
    if (test == "pp") peer.decode(ids.data(), n);
    else for (auto & id : ids) peer.decode(&id, 1);
    return n / (now_s() - start);
}

void bench(Peer & peer) {
    std::printf("pp%d %.3f\n", peer.options.pp, tokens_per_s(peer, "pp", peer.options.pp));
    std::printf("tg%d %.3f\n", peer.options.tg, tokens_per_s(peer, "tg", peer.options.tg));
}

void bench_serve(Peer & peer) {
    for (std::string line; std::getline(std::cin, line) && line != "quit";) {
        std::istringstream words(line);
        std::string test;
        int n = 0;
        const bool read = words >> test >> n && (test == "pp" || test == "tg") && n >= 1;
        if (!read) fail("expected pp N, tg N or quit: " + line);
        const double rate = tokens_per_s(peer, test, n);
        peer.park();
        std::printf("%.4f\n", rate);
        std::fflush(stdout);
    }
}

void load(Peer & peer) {
    const auto ids = peer.tokenize(peer.options.text);
    if (ids.empty()) fail("-p: no text");
    peer.decode(ids.data(), (int) ids.size());
    const auto [id, margin] = peer.best();
    char piece[256];
    const int n = llama_token_to_piece(peer.vocab, id, piece, sizeof piece, 0, true);
    std::printf("%.*s\n", std::max(n, 0), piece);
    std::fflush(stdout);
}

void requantize(const Options & o) {
    const std::vector<std::pair<const char *, std::pair<llama_ftype, ggml_type>>> types = {
        {"f32", {LLAMA_FTYPE_ALL_F32, GGML_TYPE_F32}},
        {"f16", {LLAMA_FTYPE_MOSTLY_F16, GGML_TYPE_F16}},
        {"q4_0", {LLAMA_FTYPE_MOSTLY_Q4_0, GGML_TYPE_Q4_0}},
        {"q4_1", {LLAMA_FTYPE_MOSTLY_Q4_1, GGML_TYPE_Q4_1}},
        {"q5_0", {LLAMA_FTYPE_MOSTLY_Q5_0, GGML_TYPE_Q5_0}},
        {"q5_1", {LLAMA_FTYPE_MOSTLY_Q5_1, GGML_TYPE_Q5_1}},
        {"q8_0", {LLAMA_FTYPE_MOSTLY_Q8_0, GGML_TYPE_Q8_0}},
        {"q4_k_m", {LLAMA_FTYPE_MOSTLY_Q4_K_M, GGML_TYPE_Q6_K}},
        {"q5_k_m", {LLAMA_FTYPE_MOSTLY_Q5_K_M, GGML_TYPE_Q6_K}},
        {"q6_k", {LLAMA_FTYPE_MOSTLY_Q6_K, GGML_TYPE_Q6_K}},
    };
    auto params = llama_model_quantize_default_params();
    params.nthread = o.threads;
    params.ftype = choice<std::pair<llama_ftype, ggml_type>>("--type", o.type, types).first;
    params.token_embedding_type = choice<std::pair<llama_ftype, ggml_type>>("--embd", o.embd, types).second;
    params.allow_requantize = true;
    params.pure = false;
    if (llama_model_quantize(o.model.c_str(), o.out.c_str(), &params)) fail("llama_model_quantize failed");
}

void run(const Options & o) {
    if (o.command == "requantize") return requantize(o);
    Peer peer(o, o.command == "tokenize");
    if (o.command == "logits") logits(peer);
    else if (o.command == "greedy") greedy(peer);
    else if (o.command == "tokenize") tokenize(peer);
    else if (o.command == "bench") bench(peer);
    else if (o.command == "bench-serve") bench_serve(peer);
    else if (o.command == "load") load(peer);
    else fail("unknown subcommand " + o.command);
}

void log_errors(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR || std::getenv("PEER_VERBOSE")) std::fputs(text, stderr);
}

}  // namespace

int main(int argc, char ** argv) try {
    const Options o = parse(argc, argv);
    llama_log_set(log_errors, nullptr);
    ggml_backend_load_all_from_path(PEER_LIB_DIR);
    llama_backend_init();
    run(o);
    llama_backend_free();
    return 0;
} catch (const std::exception & e) {
    std::fprintf(stderr, "peer: %s\n", e.what());
    return 1;
}
