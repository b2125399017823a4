//! Which rule a pre-tokenizer's name stands for. Names and rules are llama.cpp's, whose ids decide.

use super::sets;
use super::split::Pass;
use super::words::{Contraction, LLAMA3, Letters, Lines, Tail, Words};
use crate::error::{Error, Result};

/// How text becomes words and words become tokens.
pub(super) struct Rule {
    /// The names that mean this rule (`tokenizer.ggml.pre`), with spaces between them.
    names: &'static str,
    pub(super) passes: &'static [Pass],
    /// A word that is a token becomes that token, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether a text starts with `bos` where the file does not say.
    pub(super) add_bos: bool,
    /// Tokens are written as they are, with `▁` for a space, not in the alphabet of bytes.
    pub(super) plain: bool,
}

const RULE: Rule = Rule { names: "", passes: &[], whole_words: false, add_bos: false, plain: false };

const QWEN2: Words = Words { digits: 1, ..LLAMA3 };
const GPT4O: Words = Words {
    contraction: Contraction::Suffix,
    letters: Letters::Cased(sets::letter),
    tail: Tail::LinesAndSlashes,
    ..LLAMA3
};
const TEKKEN: Words = Words { contraction: Contraction::None, digits: 1, ..GPT4O };
/// Letters and marks in one run: llama.cpp reads `\p{Lu}`, `\p{Ll}` and their like as `\p{L}`.
const MARKED: Words = Words { letters: Letters::Run(sets::letter_or_mark), ..GPT4O };
const DEEPSEEK3: Words = Words {
    contraction: Contraction::None,
    tagged: true,
    lead: sets::lead_in_text,
    letters: Letters::Run(sets::letter_or_mark),
    digits: 0,
    other: sets::punctuation_or_symbol,
    ..LLAMA3
};
const EXAONE_MOE: Words = Words { letters: Letters::Phrase, tail: Tail::One, ..QWEN2 };
const NUMBERS_BY_THREE: Pass = Pass::Run { lead: None, of: sets::number, most: 3 };
const UNSTOPPED: Pass = Pass::led(sets::ascii_space, sets::unstopped);

const RULES: &[Rule] = &[
    Rule {
        names: "default",
        passes: &[Pass::run(sets::falls_apart), Pass::Gpt2, Pass::run(sets::number), Pass::Triples],
        ..RULE
    },
    Rule {
        names: "gpt-2 phi-2 mpt olmo jais exaone4 trillion granite-docling gigachat a.x-4.0 mellum modern-bert \
                roberta-bpe jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code",
        passes: &[Pass::Gpt2],
        ..RULE
    },
    Rule {
        names: "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
        passes: &[Pass::each(sets::number), Pass::Gpt2],
        ..RULE
    },
    Rule { names: "falcon", passes: &[Pass::run(sets::falls_apart_in_falcon), Pass::Gpt2, Pass::Triples], ..RULE },
    Rule {
        names: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
        passes: &[Pass::Words(LLAMA3)],
        whole_words: true,
        add_bos: true,
        ..RULE
    },
    Rule { names: "smaug-bpe dbrx glm4 chatglm-bpe", passes: &[Pass::Words(LLAMA3)], ..RULE },
    Rule {
        names: "minicpm5",
        passes: &[NUMBERS_BY_THREE, Pass::Words(Words { digits: usize::MAX, ..LLAMA3 })],
        whole_words: true,
        ..RULE
    },
    Rule { names: "jais-2", passes: &[Pass::Words(Words { halves: true, ..LLAMA3 })], ..RULE },
    Rule {
        names: "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 \
                llada-moe",
        passes: &[Pass::Words(QWEN2)],
        ..RULE
    },
    Rule { names: "seed-coder", passes: &[Pass::Words(Words { tail: Tail::None, ..QWEN2 })], ..RULE },
    Rule { names: "ufakzeka", passes: &[Pass::Words(Words { contraction: Contraction::None, ..QWEN2 })], ..RULE },
    Rule { names: "laguna", passes: &[Pass::Runs(LINES), Pass::Words(QWEN2)], ..RULE },
    Rule {
        names: "qwen35",
        passes: &[Pass::Words(Words {
            letters: Letters::Run(sets::letter_or_mark),
            other: sets::other_than_mark,
            ..QWEN2
        })],
        ..RULE
    },
    Rule { names: "exaone-moe", passes: &[Pass::Words(EXAONE_MOE)], ..RULE },
    Rule { names: "gpt-4o llama4 kanana2 talkie minimax-m2", passes: &[Pass::Words(GPT4O)], ..RULE },
    Rule { names: "tekken", passes: &[Pass::Words(TEKKEN)], whole_words: true, add_bos: true, ..RULE },
    Rule {
        names: "granite-embed-multi-97m",
        passes: &[Pass::Words(Words { letters: Letters::Cased(sets::letter_or_mark), ..GPT4O })],
        whole_words: true,
        ..RULE
    },
    Rule {
        names: "tiny_aya cohere2moe",
        passes: &[Pass::Thousands { of: sets::number, with_text: true }, Pass::Words(MARKED)],
        ..RULE
    },
    Rule {
        names: "youtu",
        passes: &[
            Pass::Runs(&[sets::hangul, sets::chinese_punctuation, sets::bopomofo, sets::ideograph_or_kana]),
            Pass::Words(Words { digits: 1, ..MARKED }),
        ],
        whole_words: true,
        ..RULE
    },
    Rule {
        names: "kimi-k2",
        passes: &[Pass::Words(Words {
            script: Some(sets::han),
            contraction: Contraction::Suffix,
            letters: Letters::Run(sets::letter_but_not_han),
            ..LLAMA3
        })],
        ..RULE
    },
    Rule {
        names: "deepseek-llm",
        passes: &[
            Pass::each(sets::line_break),
            Pass::led(sets::space, sets::deepseek_letter),
            Pass::led(sets::space, sets::deepseek_punctuation),
            Pass::Trailing,
            Pass::run(sets::east_asian),
            Pass::run(sets::number),
        ],
        ..RULE
    },
    Rule {
        names: "deepseek-coder",
        passes: &[
            Pass::each(sets::line_break),
            Pass::led(sets::space, sets::letter),
            Pass::led(sets::space, sets::punctuation),
            Pass::run(sets::east_asian),
            Pass::each(sets::number),
        ],
        ..RULE
    },
    Rule {
        names: "deepseek-v3 hunyuan-dense hy_v4 joyai-llm",
        passes: &[NUMBERS_BY_THREE, Pass::run(sets::ideograph_or_kana), Pass::Words(DEEPSEEK3)],
        ..RULE
    },
    Rule {
        names: "spark2_5",
        passes: &[
            NUMBERS_BY_THREE,
            Pass::run(sets::ideograph_or_kana),
            Pass::Words(Words { tail: Tail::None, lines: Lines::Single, ..DEEPSEEK3 }),
            Pass::each(sets::number),
        ],
        ..RULE
    },
    Rule {
        names: "afmoe",
        passes: &[
            Pass::Thousands { of: sets::number, with_text: true },
            Pass::run(sets::script_without_spaces),
            Pass::Words(DEEPSEEK3),
        ],
        ..RULE
    },
    Rule {
        names: "superbpe",
        passes: &[Pass::run(sets::number), Pass::Thousands { of: sets::ascii_digit, with_text: false }],
        ..RULE
    },
    Rule { names: "bloom poro-chat gpt3-finnish", passes: &[UNSTOPPED], ..RULE },
    Rule { names: "viking", passes: &[UNSTOPPED, Pass::each(sets::number)], ..RULE },
    Rule { names: "gemma4 granite-embed-multi-311m", passes: &[Pass::Runs(LINES)], add_bos: true, plain: true, ..RULE },
    Rule { names: "sarvam-moe", passes: &[Pass::Runs(LINES)], plain: true, ..RULE },
];

/// Line feeds, and what lies between them.
const LINES: &[sets::Set] = &[sets::line_feed, sets::not_line_feed];

impl Rule {
    /// The rule that `pre` names.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if none has that name.
    pub(super) fn named(pre: &str) -> Result<&'static Self> {
        RULES.iter().find(|rule| rule.names.split_whitespace().any(|name| name == pre)).ok_or_else(|| {
            Error::Tokenizer(format!(
                "the pre-tokenizer {pre:?} is not known; if the model cuts text like one that is, name that one with \
                 --override-kv tokenizer.ggml.pre=str:NAME"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_name_means_one_rule() {
        let names: Vec<&str> = RULES.iter().flat_map(|rule| rule.names.split_whitespace()).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_way_out() {
        let Err(error) = Rule::named("martian") else { panic!("martian is no pre-tokenizer") };
        let error = error.to_string();
        assert!(error.contains("\"martian\"") && error.contains("--override-kv tokenizer.ggml.pre=str:"), "{error}");
        assert!(Rule::named("").is_err() && Rule::named("gpt-2 phi-2").is_err());
    }
}
