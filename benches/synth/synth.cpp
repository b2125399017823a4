// A model of random weights, byte for byte that of `valve synth`, for machines with a C++ compiler and no Rust.
//
//   c++ -O2 -std=c++17 synth.cpp -o synth && ./synth --size 8B --type q4_k_m --rank 16
//
// src/model/synth says what is drawn and why; here is only how. tests/synth.rs compares the files.

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

using std::string;
using std::to_string;
using std::vector;
using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;

struct Shape {
    const char *name;
    u32 layers, embed, ffn, heads, kv_heads, head_dim, vocab;
    bool tied;
    float rope_base;
    u32 context;
};

const Shape SHAPES[] = {
    {"tiny", 2, 256, 512, 4, 2, 64, 512, true, 1e4f, 512},
    {"135M", 30, 576, 1536, 9, 3, 64, 49152, true, 1e5f, 8192},
    {"1B", 16, 2048, 8192, 32, 8, 64, 128256, true, 5e5f, 131072},
    {"3B", 28, 3072, 8192, 24, 8, 128, 128256, true, 5e5f, 131072},
    {"8B", 32, 4096, 14336, 32, 8, 128, 128256, false, 5e5f, 8192},
    {"32B", 64, 5120, 27648, 40, 8, 128, 152064, false, 1e6f, 32768},
};

enum Draw { FLOAT, BLOCK, EXPONENT };
enum Subs { RANDOM, NIBBLES, SIX };

// A tensor type: `d` is where a block's scale lies; `added` and `taken` are shifts of the minimum, 0 for none.
struct Type {
    const char *name;
    u32 id, block_len, block_bytes;
    Draw draw;
    u64 square;
    u32 mantissa, spare;
    int bias;
    u32 d;
    int added, taken;
    Subs subs;
};

const Type TYPES[] = {
    {"f32", 0, 1, 4, FLOAT, 4, 23, 8, 127, 0, 0, 0, RANDOM},
    {"f16", 1, 1, 2, FLOAT, 4, 10, 5, 15, 0, 0, 0, RANDOM},
    {"bf16", 30, 1, 2, FLOAT, 4, 7, 8, 127, 0, 0, 0, RANDOM},
    {"q4_0", 2, 32, 18, BLOCK, 150, 0, 0, 0, 0, 0, 0, RANDOM},
    {"q4_1", 3, 32, 20, BLOCK, 150, 0, 0, 0, 0, 3, 0, RANDOM},
    {"q5_0", 6, 32, 22, BLOCK, 598, 0, 0, 0, 0, 0, 0, RANDOM},
    {"q5_1", 7, 32, 24, BLOCK, 598, 0, 0, 0, 0, 4, 0, RANDOM},
    {"q8_0", 8, 32, 34, BLOCK, 38230, 0, 0, 0, 0, 0, 0, RANDOM},
    {"q2_K", 10, 256, 84, BLOCK, 813, 0, 0, 0, 80, 0, 1, NIBBLES},
    {"q3_K", 11, 256, 110, BLOCK, 13150, 0, 0, 0, 108, 0, 0, RANDOM},
    {"q4_K", 12, 256, 144, BLOCK, 352000, 0, 0, 0, 0, 0, 3, SIX},
    {"q5_K", 13, 256, 176, BLOCK, 1400000, 0, 0, 0, 0, 0, 4, SIX},
    {"q6_K", 14, 256, 210, BLOCK, 13060000, 0, 0, 0, 208, 0, 0, RANDOM},
    {"iq4_nl", 20, 32, 18, BLOCK, 31836, 0, 0, 0, 0, 0, 0, RANDOM},
    {"iq4_xs", 23, 256, 136, BLOCK, 10870000, 0, 0, 0, 0, 0, 0, RANDOM},
    {"mxfp4", 39, 32, 17, EXPONENT, 257, 0, 0, 0, 0, 0, 0, RANDOM},
};

// A type or mix of types, as llama-quantize names and numbers it, and the type that most matrices get.
struct FileType {
    const char *name;
    u32 id;
    const char *base;
};

const FileType FILE_TYPES[] = {
    {"F32", 0, "f32"},       {"F16", 1, "f16"},       {"Q4_0", 2, "q4_0"},      {"Q4_1", 3, "q4_1"},
    {"Q8_0", 7, "q8_0"},     {"Q5_0", 8, "q5_0"},     {"Q5_1", 9, "q5_1"},      {"Q2_K", 10, "q2_K"},
    {"Q3_K_S", 11, "q3_K"},  {"Q3_K_M", 12, "q3_K"},  {"Q3_K_L", 13, "q3_K"},   {"Q4_K_S", 14, "q4_K"},
    {"Q4_K_M", 15, "q4_K"},  {"Q5_K_S", 16, "q5_K"},  {"Q5_K_M", 17, "q5_K"},   {"Q6_K", 18, "q6_K"},
    {"Q2_K_S", 21, "q2_K"},  {"IQ4_NL", 25, "iq4_nl"}, {"IQ4_XS", 30, "iq4_xs"}, {"BF16", 32, "bf16"},
    {"MXFP4_MOE", 38, "mxfp4"},
};

string lower(string text) {
    for (char &c : text) c = c >= 'A' && c <= 'Z' ? c + 32 : c;
    return text;
}

template <class T, size_t N> const T &named(const T (&table)[N], const string &name, const char *what) {
    for (const T &entry : table)
        if (lower(entry.name) == lower(name)) return entry;
    throw std::runtime_error(string(what) + " " + name + " is not known");
}

const Type &type_of(const string &name) { return named(TYPES, name, "tensor type"); }

// The mixes of llama-quantize for a llama model without experts.

bool favored(u32 i, u32 n) { return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2; }

string value_type(const string &mix, const string &base, u32 i, const Shape &s) {
    bool shared = s.heads / s.kv_heads >= 4;
    if (mix == "Q2_K") return shared ? "q4_K" : "q3_K";
    if (mix == "Q2_K_S" && shared) return "q4_K";
    if (mix == "Q3_K_M") return i < 2 ? "q5_K" : "q4_K";
    if (mix == "Q3_K_L") return "q5_K";
    if (base.substr(0, 3) == "iq4" && shared) return "q5_K";
    if ((mix == "Q4_K_M" || mix == "Q5_K_M") && favored(i, s.layers)) return "q6_K";
    return mix == "Q4_K_S" && i < 4 ? "q5_K" : base;
}

string down_type(const string &mix, const string &base, u32 i, const Shape &s) {
    u32 n = s.layers;
    bool first = i < n / 8;
    if (mix == "Q2_K") return "q3_K";
    if (mix == "Q2_K_S" && first) return "q4_K";
    if (mix == "Q3_K_M") return i < n / 16 ? "q5_K" : "q4_K";
    if (mix == "Q3_K_L") return "q5_K";
    if ((mix == "Q4_K_M" || mix == "Q5_K_M") && favored(i, n)) return "q6_K";
    return (base.substr(0, 3) == "iq4" || mix == "Q4_K_S") && first ? "q5_K" : base;
}

string output_type(const FileType &mix, u32 cols) {
    string name = mix.name;
    if (name == "MXFP4_MOE" || name == "Q8_0" || cols % type_of(mix.base).block_len) return "q8_0";
    return "q6_K";
}

const Type &planned(const FileType &mix, bool pure, const string &part, u32 layer, u32 cols, const Shape &s) {
    string name = mix.name, base = mix.base, ty = base;
    if (type_of(base).block_len > 1 && !pure) {
        if (part == "output" || (part == "token_embd" && s.tied)) ty = output_type(mix, cols);
        else if (name == "MXFP4_MOE") ty = "q8_0";
        else if (part == "attn_v") ty = value_type(name, base, layer, s);
        else if (part == "ffn_down") ty = down_type(name, base, layer, s);
        else if (part == "attn_output" && name == "Q2_K") ty = "q3_K";
        else if (part == "attn_output" && name == "Q3_K_M") ty = "q4_K";
        else if (part == "attn_output" && name == "Q3_K_L") ty = "q5_K";
    }
    if (cols % type_of(ty).block_len == 0) return type_of(ty);
    const char *instead[][2] = {{"iq4_xs", "iq4_nl"}, {"q2_K", "q4_0"}, {"q3_K", "q4_0"},
                                {"q4_K", "q5_0"},     {"q5_K", "q5_1"}, {"q6_K", "q8_0"}};
    for (auto &pair : instead)
        if (ty == pair[0]) return type_of(pair[1]);
    return type_of("f16");
}

// Random numbers: SplitMix64, a stream for each tensor.

struct Rng {
    u64 state;
    u64 next() {
        u64 z = state += 0x9e3779b97f4a7c15;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
        z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
        return z ^ (z >> 31);
    }
};

Rng stream(u64 seed, const string &name) {
    u64 hash = 0xcbf29ce484222325;
    for (char c : name) hash = (hash ^ u8(c)) * 0x100000001b3;
    return {Rng{seed ^ hash}.next()};
}

void put(u8 *out, u64 bits, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) out[i] = u8(bits >> (8 * i));
}

int halvings(u64 triple) {
    int k = 0;
    for (u64 power = 3; power < triple; power *= 4) k++;
    return k;
}

u32 draw_float(u32 bits, const Type &t, int exponent) {
    u32 spare = (bits >> t.mantissa & ((1u << t.spare) - 1)) | 1u << t.spare, low = 0;
    while (!(spare >> low & 1)) low++;
    u32 sign = bits >> (t.mantissa + t.spare) << (t.mantissa + t.spare);
    return sign | u32(std::max(t.bias + exponent - int(low), 1)) << t.mantissa | (bits & ((1u << t.mantissa) - 1));
}

u16 scale(u64 head, int exponent) {
    u16 sign = u16((head & 1) << 15), mantissa = u16((head >> 1 & 63) << 4);
    int field = exponent + 15;
    if (field >= 1) return u16(sign | std::min(field, 30) << 10 | mantissa);
    return u16(sign | (1 - field < 16 ? (1 << 10 | mantissa) >> (1 - field) : 0));
}

void six_bits(u64 bits, u8 *packed) {
    for (int j = 0; j < 4; j++) {
        u8 low = 32 | (bits >> (5 * j) & 31), high = 32 | (bits >> (5 * (j + 4)) & 31);
        packed[j] = packed[j + 4] = u8(low | high >> 4 << 6);
        packed[j + 8] = u8((high & 15) * 17);
    }
}

void draw_block(const Type &t, int exponent, Rng &rng, u8 *block) {
    u64 head = rng.next();
    for (u32 i = 0; i < t.block_bytes; i += 8) put(block + i, rng.next(), std::min(8u, t.block_bytes - i));
    if (t.draw == EXPONENT) {
        block[0] = u8(std::clamp(128 + exponent + int(head & 1), 0, 254));
        return;
    }
    put(block + t.d, scale(head, exponent), 2);
    if (t.added) put(block + t.d + 2, scale(head, exponent + t.added) ^ 0x8000, 2);
    if (t.taken) put(block + t.d + 2, scale(head, exponent + t.taken), 2);
    if (t.subs == NIBBLES)
        for (int i = 0; i < 16; i++) block[i] = u8((block[i] & 15) * 17);
    if (t.subs == SIX) six_bits(head >> 7, block + 4);
}

void draw_piece(const Type &t, int exponent, Rng &rng, vector<u8> &piece) {
    if (t.draw != FLOAT) {
        for (size_t at = 0; at < piece.size(); at += t.block_bytes) draw_block(t, exponent, rng, &piece[at]);
        return;
    }
    u32 bytes = t.block_bytes;
    for (size_t at = 0; at < piece.size(); at += 8) {
        u64 bits = rng.next();
        for (size_t i = at; i < std::min(at + 8, piece.size()); i += bytes, bits >>= 8 * bytes)
            put(&piece[i], draw_float(u32(bits) & (0xffffffffu >> (32 - 8 * bytes)), t, exponent), bytes);
    }
}

// The container.

struct Tensor {
    string name;
    vector<u64> dims;
    const Type *type;
    int gain;
    u64 bytes() const {
        u64 values = dims[0] * (dims.size() > 1 ? dims[1] : 1);
        return values / type->block_len * type->block_bytes;
    }
};

struct Gguf {
    string keys;
    u64 count = 0;
    vector<Tensor> tensors;

    static string raw(u64 value, size_t bytes) {
        string out(bytes, '\0');
        put(reinterpret_cast<u8 *>(&out[0]), value, bytes);
        return out;
    }
    static string text(const string &value) { return raw(value.size(), 8) + value; }
    void set(const string &key, u32 type, const string &value) {
        keys += text(key) + raw(type, 4) + value;
        count++;
    }
    void set(const string &key, const string &value) { set(key, 8, text(value)); }
    void set(const string &key, u32 value) { set(key, 4, raw(value, 4)); }
    void set_float(const string &key, float value) {
        u32 bits;
        memcpy(&bits, &value, 4);
        set(key, 6, raw(bits, 4));
    }
    void set_array(const string &key, u32 item, size_t length, const string &items) {
        set(key, 9, raw(item, 4) + raw(length, 8) + items);
    }

    void write(const string &path, u64 seed, bool header_only) const;
};

void padded(FILE *file, u64 size) {
    const char zeros[32] = {};
    fwrite(zeros, 1, (32 - size % 32) % 32, file);
}

void write_tensor(const Tensor &t, u64 seed, FILE *file) {
    Rng rng = stream(seed, t.name);
    u64 step = (1u << 20) / (8 * t.type->block_bytes) * 8 * t.type->block_bytes;
    int exponent = t.gain - halvings(t.type->square * t.dims[0]);
    vector<u8> piece;
    for (u64 at = 0; at < t.bytes(); at += piece.size()) {
        piece.resize(std::min(step, t.bytes() - at));
        if (t.dims.size() > 1) draw_piece(*t.type, exponent, rng, piece);
        else
            for (size_t i = 0; i < piece.size(); i += 4) put(&piece[i], 0x3f800000 | (rng.next() & 0x1fffff), 4);
        fwrite(piece.data(), 1, piece.size(), file);
    }
    padded(file, t.bytes());
}

void Gguf::write(const string &path, u64 seed, bool header_only) const {
    string part = path + ".part", head = "GGUF" + raw(3, 4) + raw(tensors.size(), 8) + raw(count, 8) + keys;
    u64 offset = 0;
    for (const Tensor &t : tensors) {
        head += text(t.name) + raw(t.dims.size(), 4);
        for (u64 d : t.dims) head += raw(d, 8);
        head += raw(t.type->id, 4) + raw(offset, 8);
        offset += (t.bytes() + 31) / 32 * 32;
    }
    FILE *file = fopen(part.c_str(), "wb");
    if (!file) throw std::runtime_error(part + ": " + strerror(errno));
    fwrite(head.data(), 1, head.size(), file);
    padded(file, head.size());
    if (!header_only)
        for (const Tensor &t : tensors) write_tensor(t, seed, file);
    bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed || rename(part.c_str(), path.c_str()) != 0)
        throw std::runtime_error(path + ": " + strerror(errno));
}

string utf8(u32 c) { return c < 128 ? string(1, char(c)) : string{char(0xc0 | c >> 6), char(0x80 | (c & 63))}; }

void set_vocabulary(Gguf &file, u32 size) {
    vector<string> tokens{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}, letters;
    u32 stand_in = 256;
    for (u32 b = 0; b < 256; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        tokens.push_back(utf8(printable ? b : stand_in++));
    }
    for (char c : string("etaoinshrdlucmfwypvbgkjqxz")) letters.push_back(string(1, c));
    string merges, texts, types;
    u32 fixed = u32(tokens.size());
    auto merge = [&](const string &a, const string &b) {
        if (tokens.size() >= size) return;
        tokens.push_back(a + b);
        merges += Gguf::text(a + " " + b);
    };
    vector<string> firsts{utf8(0x120)}, twos;
    firsts.insert(firsts.end(), letters.begin(), letters.end());
    for (auto &a : firsts)
        for (auto &b : letters) merge(a, b), twos.push_back(a + b);
    for (auto &a : twos)
        for (auto &b : letters) merge(a, b);
    for (auto &a : twos)
        for (size_t i = letters.size(); i < twos.size(); i++) merge(a, twos[i]);
    for (auto &token : tokens) texts += Gguf::text(token);
    for (u32 i = 0; i < size; i++) types += Gguf::raw(i < 3 ? 3 : 1, 4);
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.pre", "smollm");
    file.set_array("tokenizer.ggml.tokens", 8, size, texts);
    file.set_array("tokenizer.ggml.token_type", 5, size, types);
    file.set_array("tokenizer.ggml.merges", 8, size - fixed, merges);
    file.set("tokenizer.ggml.bos_token_id", 1u);
    file.set("tokenizer.ggml.eos_token_id", 2u);
    file.set("tokenizer.ggml.unknown_token_id", 0u);
    file.set("tokenizer.ggml.padding_token_id", 2u);
    file.set("tokenizer.ggml.add_bos_token", 7, string(1, '\0'));
    file.set("tokenizer.chat_template",
             "{% for message in messages %}"
             "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
             "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}");
}

using Each = std::function<void(const string &part, u32 layer, u64 n_in, u64 n_out)>;

void for_linears(const Shape &s, u32 layer, bool attention, const Each &each) {
    u64 kv = u64(s.kv_heads) * s.head_dim;
    if (attention) {
        each("attn_q", layer, s.embed, s.embed), each("attn_k", layer, s.embed, kv);
        each("attn_v", layer, s.embed, kv), each("attn_output", layer, s.embed, s.embed);
    } else {
        each("ffn_gate", layer, s.embed, s.ffn), each("ffn_up", layer, s.embed, s.ffn);
        each("ffn_down", layer, s.ffn, s.embed);
    }
}

Gguf model(const Shape &s, const FileType &mix, bool pure, u64 seed, u32 context) {
    Gguf file;
    file.set("general.architecture", "llama");
    file.set("general.type", "model");
    file.set("general.name", string("synth ") + s.name + " " + mix.name + " seed " + to_string(seed));
    file.set("general.file_type", mix.id);
    file.set("general.quantization_version", 2u);
    file.set("llama.block_count", s.layers);
    file.set("llama.context_length", context ? context : s.context);
    file.set("llama.embedding_length", s.embed);
    file.set("llama.feed_forward_length", s.ffn);
    file.set("llama.attention.head_count", s.heads);
    file.set("llama.attention.head_count_kv", s.kv_heads);
    for (const char *key : {"attention.key_length", "attention.value_length", "rope.dimension_count"})
        file.set(string("llama.") + key, s.head_dim);
    file.set("llama.vocab_size", s.vocab);
    file.set_float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    file.set_float("llama.rope.freq_base", s.rope_base);
    set_vocabulary(file, s.vocab);
    auto matrix = [&](const string &prefix, const string &part, u32 layer, u64 n_in, u64 n_out, int gain) {
        const Type &type = planned(mix, pure, part, layer, u32(n_in), s);
        file.tensors.push_back({prefix + part + ".weight", {n_in, n_out}, &type, gain});
    };
    auto norm = [&](const string &name) { file.tensors.push_back({name, {s.embed}, &type_of("f32"), 0}); };
    matrix("", "token_embd", 0, s.embed, s.vocab, s.tied ? 2 : 1);
    for (u32 layer = 0; layer < s.layers; layer++) {
        string prefix = "blk." + to_string(layer) + ".";
        for (bool attention : {true, false}) {
            norm(prefix + (attention ? "attn_norm.weight" : "ffn_norm.weight"));
            for_linears(s, layer, attention, [&](const string &part, u32 at, u64 n_in, u64 n_out) {
                matrix(prefix, part, at, n_in, n_out, part == "attn_output" || part == "ffn_down" ? 3 : 1);
            });
        }
    }
    norm("output_norm.weight");
    if (!s.tied) matrix("", "output", 0, s.embed, s.vocab, 2);
    return file;
}

Gguf adapter(const Shape &s, u32 rank, u64 seed) {
    Gguf file;
    file.set("general.type", "adapter");
    file.set("general.architecture", "llama");
    file.set("general.name", "synth rank " + to_string(rank) + " seed " + to_string(seed));
    file.set("adapter.type", "lora");
    file.set_float("adapter.lora.alpha", float(rank));
    for (u32 layer = 0; layer < s.layers; layer++)
        for (bool attention : {true, false})
            for_linears(s, layer, attention, [&](const string &part, u32 at, u64 n_in, u64 n_out) {
                if (rank == 0 || rank > std::min(n_in, n_out)) throw std::runtime_error("--rank is out of range");
                string name = "blk." + to_string(at) + "." + part + ".weight.lora_";
                file.tensors.push_back({name + "a", {n_in, rank}, &type_of("f16"), 0});
                file.tensors.push_back({name + "b", {rank, n_out}, &type_of("f16"), -1});
            });
    return file;
}

u64 number(const string &flag, const string &text) {
    char *end;
    errno = 0;
    u64 value = strtoull(text.c_str(), &end, 10);
    if (text.empty() || *end || text[0] < '0' || text[0] > '9' || errno)
        throw std::runtime_error(flag + " " + text + " is not a number");
    return value;
}

int run(const vector<string> &args) {
    string size = "1B", type = "q4_k_m", out;
    u64 seed = 0, rank = 0, context = 0;
    bool pure = false, adapter_only = false, header = false;
    for (size_t i = 0; i < args.size(); i++) {
        const string &flag = args[i];
        if (flag == "--pure") pure = true;
        else if (flag == "--adapter-only") adapter_only = true;
        else if (flag == "--header-only") header = true;
        else if (i + 1 == args.size()) throw std::runtime_error(flag + " is not a flag, or lacks its value");
        else if (flag == "--size") size = args[++i];
        else if (flag == "--type") type = args[++i];
        else if (flag == "--out") out = args[++i];
        else if (flag == "--seed") seed = number(flag, args[++i]);
        else if (flag == "--rank") rank = number(flag, args[++i]);
        else if (flag == "--ctx") context = number(flag, args[++i]);
        else throw std::runtime_error(flag + " is not a flag");
    }
    const Shape &shape = named(SHAPES, size, "--size");
    const FileType &mix = named(FILE_TYPES, type, "--type");
    if (context > UINT32_MAX || rank > UINT32_MAX) throw std::runtime_error("--ctx or --rank is too large");
    if (out.empty()) out = string("synth-") + shape.name + "-" + lower(mix.name) + ".gguf";
    if (!adapter_only) model(shape, mix, pure, seed, u32(context)).write(out, seed, header);
    if (rank || adapter_only) {
        size_t name = out.find_last_of('/') + 1, dot = out.rfind('.');
        string stem = out.substr(0, dot == string::npos || dot <= name ? out.size() : dot);
        string beside = stem + "-rank" + to_string(rank) + ".gguf";
        adapter(shape, u32(rank), seed).write(adapter_only ? out : beside, seed, header);
    }
    return 0;
}

int main(int argc, char **argv) try {
    return run(vector<string>(argv + 1, argv + argc));
} catch (const std::exception &error) {
    fprintf(stderr, "synth: %s\n", error.what());
    return 1;
}
