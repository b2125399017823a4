//! Every pre-tokenizer, token for token with llama.cpp, on a vocabulary that needs no file.

mod support;

use cotvalve::tokenizer::{Tokenizer, Vocab};
use support::alphabet::byte_alphabet;
use support::peer_ids::{Peer, Texts};

/// The vocabulary `pairs` of tests/data/tokenizer/make_ids.py: all bytes, and all pairs of bytes in a mixed order, so
/// that hardly an end of a word goes unseen.
struct Pairs {
    tokens: Vec<String>,
    merges: Vec<String>,
}

impl Pairs {
    fn new() -> Self {
        let chars = byte_alphabet();
        let numbers: Vec<usize> = (0..65_536).map(|i| 40_503 * i % 65_536).collect();
        let join = |between: &str, n: &usize| format!("{}{between}{}", chars[n >> 8], chars[n & 255]);
        let merges = numbers.iter().map(|n| join(" ", n)).collect();
        let tokens = chars.iter().map(char::to_string).chain(numbers.iter().map(|n| join("", n))).collect();
        Self { tokens, merges }
    }

    fn tokenizer(&self, pre: &str) -> Tokenizer {
        let tokens: Vec<&str> = self.tokens.iter().map(|t| &**t).collect();
        let merges: Vec<&str> = self.merges.iter().map(|m| &**m).collect();
        let (bos, eos) = (Some(0), Some(0));
        Tokenizer::new(&Vocab { model: "gpt2", pre, tokens: &tokens, merges: &merges, bos, eos, ..Vocab::default() })
            .unwrap()
    }
}

#[test]
fn every_pre_tokenizer_cuts_as_llama_cpp() {
    let (peer, pairs) = (Peer::read(), Pairs::new());
    let (mut table, mut problems) = (String::new(), Vec::new());
    let cases: Vec<_> = peer.cases.iter().filter(|case| case.vocab == "pairs").collect();
    for case in &cases {
        let tokenizer = pairs.tokenizer(case.pre.as_deref().unwrap());
        problems.extend(peer.compare(case, &tokenizer, Texts::Cleaned, &mut table).into_iter().take(5));
    }
    println!("{table}");
    assert!(cases.len() > 70, "{} pre-tokenizers", cases.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
