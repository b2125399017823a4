use super::bytes::ALPHABET;
use super::vocab::SPECIALS_MAX;
use super::*;
use std::time::{Duration, Instant};

/// All 256 bytes, a few merges, and one token of each kind.
struct Small {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<&'static str>,
}

impl Small {
    fn new() -> Self {
        let mut tokens: Vec<String> = (0..=255).map(|b| ALPHABET.char(b).to_string()).collect();
        let mut types = vec![1; 256];
        let merges = vec!["h e", "l l", "he ll", "hell o", "Ġ w", "Ġw o", "Ġ Ġ", "ĠĠ ĠĠ", "a a", "aa aa", "Ã ©"];
        for merge in &merges {
            tokens.push(merge.replacen(' ', "", 1));
            types.push(1);
        }
        for (text, kind) in [("<|im_start|>", 3), ("<|im_end|>", 3), ("TOOL", 4), ("<unk>", 2), ("", 5), ("<0x41>", 6)]
        {
            tokens.push(text.into());
            types.push(kind);
        }
        Self { tokens, types, merges }
    }

    /// Builds with `change` made to the description.
    fn build(&self, change: impl FnOnce(&mut Vocab<'_>)) -> Result<Tokenizer> {
        let tokens: Vec<&str> = self.tokens.iter().map(|t| &**t).collect();
        let mut vocab = Vocab {
            model: "gpt2",
            pre: "smollm",
            tokens: &tokens,
            token_types: &self.types,
            merges: &self.merges,
            bos: Some(self.id("<|im_start|>")),
            eos: Some(self.id("<|im_end|>")),
            unk: Some(self.id("<unk>")),
            ..Vocab::default()
        };
        change(&mut vocab);
        Tokenizer::new(&vocab)
    }

    fn tokenizer(&self) -> Tokenizer {
        self.build(|_| ()).unwrap()
    }

    fn id(&self, text: &str) -> u32 {
        self.tokens.iter().position(|t| t == text).unwrap() as u32
    }

    fn refusal(&self, change: impl FnOnce(&mut Vocab<'_>)) -> String {
        match self.build(change) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("a bad vocabulary was accepted"),
        }
    }
}

fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, true, false).unwrap();
    ids.iter().map(|id| tokenizer.piece(*id).unwrap().into_owned()).collect()
}

#[test]
fn merges_by_rank_then_from_left_to_right() {
    let tokenizer = Small::new().tokenizer();
    assert_eq!(pieces(&tokenizer, "hello world"), ["hello", " wo", "r", "l", "d"]);
    assert_eq!(pieces(&tokenizer, "aaaaa"), ["aaaa", "a"]);
    assert_eq!(pieces(&tokenizer, "aaaaaaa"), ["aaaa", "aa", "a"]);
    assert_eq!(pieces(&tokenizer, "lll"), ["ll", "l"]);
    assert_eq!(pieces(&tokenizer, "hé"), ["h", "é"]);
    assert_eq!(pieces(&tokenizer, ""), [""; 0]);
}

#[test]
fn special_tokens_in_text() {
    let small = Small::new();
    let tokenizer = small.tokenizer();
    let parsed = tokenizer.encode("<|im_start|>TOOL<unk>", true, false).unwrap();
    assert_eq!(parsed, [small.id("<|im_start|>"), small.id("TOOL"), small.id("<unk>")]);
    let plain = tokenizer.encode("<|im_start|>TOOL", false, false).unwrap();
    assert_eq!(plain.len(), 13, "the control token is text, the user-defined one is not");
    assert_eq!(plain.last(), Some(&small.id("TOOL")));
    assert_eq!(tokenizer.decode(&plain).unwrap(), "<|im_start|>TOOL");
}

#[test]
fn first_and_last_tokens_are_added_when_asked_for() {
    let small = Small::new();
    let (bos, eos, h) = (small.id("<|im_start|>"), small.id("<|im_end|>"), small.id("h"));
    assert_eq!(small.tokenizer().encode("h", true, true).unwrap(), [h]);
    let both = small.build(|v| (v.add_bos, v.add_eos) = (Some(true), true)).unwrap();
    assert_eq!(both.encode("h", true, true).unwrap(), [bos, h, eos]);
    assert_eq!(both.encode("h", true, false).unwrap(), [h]);
    assert_eq!(both.encode("", true, true).unwrap(), [bos, eos]);
}

#[test]
fn ends_of_generation() {
    let small = Small::new();
    let tokenizer = small.build(|v| (v.eos, v.eot) = (Some(3), Some(5))).unwrap();
    let ends: Vec<u32> = (0..300).filter(|id| tokenizer.is_end(*id)).collect();
    assert_eq!(ends, [3, 5, small.id("<|im_end|>")]);
    assert!(tokenizer.is_control(small.id("<|im_end|>")) && !tokenizer.is_control(small.id("TOOL")));
}

#[test]
fn bytes_of_each_kind_of_token() {
    let small = Small::new();
    let tokenizer = small.tokenizer();
    assert_eq!(tokenizer.token_bytes(0xFF).unwrap(), [0xFF]);
    assert_eq!(tokenizer.token_bytes(small.id("<0x41>")).unwrap(), b"A");
    assert_eq!(tokenizer.token_bytes(small.id("")).unwrap(), b"");
    assert_eq!(tokenizer.piece(0xFF).unwrap(), "\u{FFFD}");
    for id in [tokenizer.vocab_size() as u32, u32::MAX] {
        assert!(tokenizer.token_bytes(id).unwrap_err().to_string().contains(&id.to_string()));
        assert!(tokenizer.decode(&[id]).is_err());
        assert!(!tokenizer.is_end(id));
    }
}

#[test]
fn any_text_comes_back() {
    let tokenizer = Small::new().tokenizer();
    for text in ["hello  world\r\n\t", "日本語 ٣ é e\u{301}", "👩🏽\u{200D}🚀 \0\u{7F}\u{85}\u{3000}", "it's 1,234.5!"]
    {
        let ids = tokenizer.encode(text, false, false).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let mut decoder = Decoder::new();
        let streamed: String = ids.iter().map(|id| decoder.push(tokenizer.token_bytes(*id).unwrap())).collect();
        assert_eq!(streamed + &decoder.flush(), text);
    }
}

#[test]
fn a_byte_without_token_is_left_out() {
    let small = Small::new();
    let mut tokens: Vec<&str> = small.tokens.iter().map(|t| &**t).collect();
    tokens[0xF1] = "unreachable";
    let tokenizer = Tokenizer::new(&Vocab { tokens: &tokens, ..vocab_of(&small.merges) }).unwrap();
    let ids = tokenizer.encode("a\u{40000}b", false, false).unwrap();
    assert_eq!(ids, [0x61, 0x80, 0x80, 0x80, 0x62]);
}

fn vocab_of<'a>(merges: &'a [&'a str]) -> Vocab<'a> {
    Vocab { model: "gpt2", pre: "gpt-2", merges, ..Vocab::default() }
}

/// A merge whose result is no token still merges, and is then spelled in one-byte tokens.
#[test]
fn merges_that_name_absent_tokens() {
    let vocab = Vocab { tokens: &["x", "y", "z", "xyz"], ..vocab_of(&["x y", "xy z", "q r", "z z"]) };
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert_eq!(tokenizer.encode("xyz", false, false).unwrap(), [3]);
    assert_eq!(tokenizer.encode("xyx", false, false).unwrap(), [0, 1, 0]);
    assert_eq!(tokenizer.encode("qrzz", false, false).unwrap(), [2, 2]);
}

#[test]
fn hostile_vocabularies_are_refused_by_name() {
    let small = Small::new();
    assert!(small.refusal(|v| v.model = "martian").contains("martian"));
    assert!(small.refusal(|v| v.pre = "venusian").contains("venusian"));
    assert!(small.refusal(|v| v.tokens = &["a", "b", "a"]).contains("token types"));
    let twice = small.refusal(|v| (v.tokens, v.token_types) = (&["a", "b", "a"], &[]));
    assert!(twice.contains("tokens 0 and 2"), "{twice}");
    assert!(small.refusal(|v| (v.tokens, v.token_types) = (&[], &[])).contains("0 tokens"));
    assert!(small.refusal(|v| v.eot = Some(9999)).contains("eot token 9999"));
    assert!(small.refusal(|v| (v.bos, v.add_bos) = (None, Some(true))).contains("bos"));
    assert!(small.refusal(|v| v.merges = &["h e", "nopair"]).contains("merge 1"));
    assert!(small.refusal(|v| v.merges = &[""]).contains("merge 0"));
    for token in ["<0xZZ>", "<0x+1>", "0x41"] {
        let vocab = Vocab { tokens: &[token], token_types: &[6], ..vocab_of(&[]) };
        assert!(Tokenizer::new(&vocab).is_err_and(|e| e.to_string().contains(token)));
    }
}

#[test]
fn empty_and_odd_merges_do_no_harm() {
    let vocab = Vocab { tokens: &["a", "", "", " "], ..vocab_of(&["a ", "  a", "a  b"]) };
    let tokenizer = Tokenizer::new(&vocab).unwrap();
    assert_eq!(tokenizer.encode("aa ", true, false).unwrap(), [0, 0]);
}

#[test]
fn kinds_that_are_not_supported_are_named() {
    for model in ["bert", "t5", "rwkv", "plamo2", "no_vocab", "none", "hybriddna", "whitespace", "test", ""] {
        let error = Tokenizer::new(&Vocab { model, tokens: &["a"], ..Vocab::default() }).err().unwrap().to_string();
        assert!(error.contains(&format!("{model:?}")), "{error}");
    }
}

/// Gemma 4: characters merge, not bytes; what no token or merge has is written in bytes.
#[test]
fn merges_of_characters() {
    let mut tokens: Vec<String> = (0..=255).map(bytes::byte_token).collect();
    let mut types = vec![6; 256];
    tokens.extend(["a", "b", "▁", "é", "▁a", "éb", "\n", "\n\n", "<bos>"].map(String::from));
    types.extend([1, 1, 1, 1, 1, 1, 1, 1, 3]);
    let tokens: Vec<&str> = tokens.iter().map(|t| &**t).collect();
    let merges = ["▁ a", "é b", "é a", "c c"];
    let vocab = Vocab { model: "gemma4", tokens: &tokens, token_types: &types, merges: &merges, ..Vocab::default() };
    let tokenizer = Tokenizer::new(&Vocab { bos: Some(264), ..vocab }).unwrap();
    assert_eq!(pieces(&tokenizer, "a éb"), ["a", " ", "éb"]);
    assert_eq!(pieces(&tokenizer, "b a\n\n\na"), ["b", " a", "\n", "\n", "\n", "a"], "no merges of line feeds");
    assert_eq!(pieces(&tokenizer, "\n\n"), ["\n\n"], "but a token for two");
    assert_eq!(tokenizer.encode("猫", false, true).unwrap(), [264, 0xE7, 0x8C, 0xAB]);
    assert_eq!(tokenizer.encode("éa", false, false).unwrap(), [0xC3, 0xA9, 0x61], "merged, but no token");
    assert_eq!(tokenizer.encode("cc", false, false).unwrap(), [0x63, 0x63]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("a 猫\n", false, false).unwrap()).unwrap(), "a 猫\n");
}

/// Llama 3: a word that is a token is that token, also where no merges lead to it.
#[test]
fn whole_words_come_before_merges() {
    let vocab = Vocab { tokens: &["a", "b", "ab", "abab", "Ġ"], ..vocab_of(&["a b"]) };
    let merged = Tokenizer::new(&vocab).unwrap();
    assert_eq!(merged.encode("abab", false, false).unwrap(), [2, 2]);
    let whole = Tokenizer::new(&Vocab { pre: "llama-bpe", ..vocab }).unwrap();
    assert_eq!(whole.encode("abab abab", false, false).unwrap(), [3, 4, 2, 2]);
}

/// Tokens of code models that a file names, and those that are known by their text.
#[test]
fn starts_of_files_end_a_generation() {
    let small = Small::new();
    let tokenizer = small.build(|v| v.file_ends = [Some(7), None, Some(9)]).unwrap();
    assert!(tokenizer.is_end(7) && tokenizer.is_end(9) && !tokenizer.is_end(8));
    assert!(small.refusal(|v| v.file_ends[1] = Some(9999)).contains("fim_rep token 9999"));
}

/// A rule that looks twice at each of many characters would take minutes.
#[test]
fn no_rule_takes_quadratic_time() {
    let names =
        ["default", "llama-bpe", "jais-2", "gpt-4o", "exaone-moe", "deepseek-llm", "afmoe", "superbpe", "youtu"];
    for pre in names.into_iter().chain(["kimi-k2", "spark2_5", "tiny_aya", "viking", "falcon", "laguna"]) {
        let rule = Rule::named(pre).unwrap();
        for unit in [" ", "\n ", "\u{3000}", "é", "éA", "A", "1", "'", "a ", "\0", "。", "\u{301}", "'s"] {
            let text = unit.repeat(300_000 / unit.len());
            let (start, mut words, mut len) = (Instant::now(), 0, 0);
            split::split(rule.passes, &text, &mut |word| (words, len) = (words + 1, len + word.len()));
            assert!(len == text.len() && words > 0);
            assert!(start.elapsed() < Duration::from_secs(10), "{pre}, {unit:?}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn too_many_special_tokens_are_refused() {
    let tokens: Vec<String> = (0..=SPECIALS_MAX).map(|i| format!("<{i}>")).collect();
    let tokens: Vec<&str> = tokens.iter().map(|t| &**t).collect();
    let types = vec![3; tokens.len()];
    let vocab = Vocab { tokens: &tokens, token_types: &types, ..vocab_of(&[]) };
    assert!(Tokenizer::new(&vocab).is_err());
}

/// One word of a million characters: a merge loop that looks at every pair after each merge would take hours.
#[test]
fn long_words_take_no_quadratic_time() {
    let tokenizer = Small::new().tokenizer();
    for unit in ["a", " ", "é", "lhel", "'", "1"] {
        let text = unit.repeat(1_000_000 / unit.len());
        let start = Instant::now();
        let ids = tokenizer.encode(&text, true, false).unwrap();
        let time = start.elapsed();
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert!(time < Duration::from_secs(10), "{unit:?}: {time:?}");
    }
}
