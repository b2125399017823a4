// llama.cpp driven through its public C API, with every setting that matters stated on the command line.
//
//   peer SUBCOMMAND -m MODEL [settings] [arguments]
//
//   logits      --ids FILE --out FILE.npy          logits of every position, f32 [positions, vocab]; no BOS is added
//   greedy      --prompts FILE.jsonl -n N [--eog]  one {"ids": [...], "margins": [...]} a prompt; --eog stops there
//   tokenize    --text FILE [--whole] [--special]  one JSON array of ids a line, or one of the whole file
//   bench-serve [--parallel N]                     speeds as asked for on stdin, in the words of `valve bench-serve`
//   load        -p TEXT                            the first greedy token after TEXT, as soon as it is known
//   requantize  --out FILE --type T --embd T       T: f32 f16 q4_0 q4_1 q5_0 q5_1 q8_0 q4_k_m q5_k_m q6_k q2_k q3_k_m
//                                                  iq4_nl iq4_xs mxfp4; norms stay f32
//
// Settings: -t THREADS (2)  --fa on|off|auto (auto)  --kv f32|f16 (f16)  -c N_CTX (1024)  -b N_BATCH (2048)
//   -ub N_UBATCH (512)  --repack on|off (on)  --lora FILE=SCALE (repeatable)  --valve FILE (an adapter that bench-serve
//   turns)  --isa NAME (of a library libggml-cpu-NAME.so; without it llama.cpp chooses)
#include "peer.h"

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>

namespace {

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
    if (argc < 2) fail("usage: peer logits|greedy|tokenize|bench-serve|load|requantize -m MODEL ...");
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
        else if (flag == "-p" || flag == "--text") o.text = v;
        else if (flag == "--ids") o.ids = v;
        else if (flag == "--prompts") o.prompts = v;
        else if (flag == "--out") o.out = v;
        else if (flag == "--type") o.type = v;
        else if (flag == "--embd") o.embd = v;
        else if (flag == "--parallel") o.parallel = positive(flag, v);
        else if (flag == "--isa") o.isa = v;
        else if (flag == "--valve") o.loras.emplace_back(v, 0.0f);
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
        {"q2_k", {LLAMA_FTYPE_MOSTLY_Q2_K, GGML_TYPE_Q2_K}},
        {"q3_k_m", {LLAMA_FTYPE_MOSTLY_Q3_K_M, GGML_TYPE_Q3_K}},
        {"iq4_nl", {LLAMA_FTYPE_MOSTLY_IQ4_NL, GGML_TYPE_IQ4_NL}},
        {"iq4_xs", {LLAMA_FTYPE_MOSTLY_IQ4_XS, GGML_TYPE_IQ4_XS}},
        {"mxfp4", {LLAMA_FTYPE_MOSTLY_MXFP4_MOE, GGML_TYPE_MXFP4}},
    };
    auto params = llama_model_quantize_default_params();
    params.nthread = o.threads;
    params.ftype = choice<std::pair<llama_ftype, ggml_type>>("--type", o.type, types).first;
    params.token_embedding_type = choice<std::pair<llama_ftype, ggml_type>>("--embd", o.embd, types).second;
    params.allow_requantize = true;
    // The mix of that name gives MXFP4 to experts alone.
    params.pure = o.type == "mxfp4";
    if (llama_model_quantize(o.model.c_str(), o.out.c_str(), &params)) fail("llama_model_quantize failed");
}

void run(const Options & o) {
    if (o.command == "requantize") return requantize(o);
    Peer peer(o, o.command == "tokenize");
    if (o.command == "logits") logits(peer);
    else if (o.command == "greedy") greedy(peer);
    else if (o.command == "tokenize") tokenize(peer);
    else if (o.command == "bench-serve") bench_serve(peer);
    else if (o.command == "load") load(peer);
    else fail("unknown subcommand " + o.command);
}

void log_errors(ggml_log_level level, const char * text, void *) {
    if (level == GGML_LOG_LEVEL_ERROR || std::getenv("PEER_VERBOSE")) std::fputs(text, stderr);
}

void load_backend(const Options & o) {
    if (o.isa.empty()) return ggml_backend_load_all_from_path(PEER_LIB_DIR);
    const std::string path = PEER_LIB_DIR "/libggml-cpu-" + o.isa + ".so";
    if (!ggml_backend_load(path.c_str())) fail("--isa: not loaded: " + path);
}

}  // namespace

int main(int argc, char ** argv) try {
    const Options o = parse(argc, argv);
    llama_log_set(log_errors, nullptr);
    load_backend(o);
    llama_backend_init();
    run(o);
    llama_backend_free();
    return 0;
} catch (const std::exception & e) {
    std::fprintf(stderr, "peer: %s\n", e.what());
    return 1;
}
