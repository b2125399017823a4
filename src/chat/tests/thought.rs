//! Thought and answer, told apart.

use super::*;
use crate::rng::Rng;

fn tags(source: &str) -> ThoughtTags {
    ThoughtTags::of(source).unwrap()
}

/// What was thought and what was said, when `text` comes in pieces cut at `cuts`.
fn split(tags: &ThoughtTags, prompt: &str, text: &str, cuts: &[usize]) -> (String, String) {
    let mut splitter = ThoughtSplitter::new(Some(tags), prompt);
    let (mut thought, mut answer) = (String::new(), String::new());
    let mut add = |part, piece: &str| {
        assert!(!piece.is_empty());
        match part {
            Part::Thought => thought += piece,
            Part::Answer => answer += piece,
        }
    };
    let mut from = 0;
    for cut in cuts.iter().chain([&text.len()]) {
        splitter.push(&text[from..*cut], &mut add);
        from = *cut;
    }
    splitter.finish(&mut add);
    (thought, answer)
}

fn whole(tags: &ThoughtTags, prompt: &str, text: &str) -> (String, String) {
    split(tags, prompt, text, &[])
}

fn pair(thought: &str, answer: &str) -> (String, String) {
    (thought.into(), answer.into())
}

#[test]
fn a_thought_is_split_from_the_answer() {
    let think = tags("... <think> ...");
    assert_eq!(whole(&think, "", "<think>\na\n</think>\n\nb"), pair("\na\n", "\n\nb"));
    assert_eq!(whole(&think, "", " \n<think>a</think>b<think>c"), pair("a", " \nb<think>c"));
    assert_eq!(whole(&think, "", "<think>a</think>\n<think>b</think>c"), pair("ab", "\nc"));
    assert_eq!(whole(&think, "", "no thought"), pair("", "no thought"));
    assert_eq!(whole(&think, "", "tags are <think> and </think>"), pair("", "tags are <think> and </think>"));
    assert_eq!(whole(&think, "", "<thin"), pair("", "<thin"), "what is held back is given in the end");
    assert_eq!(whole(&think, "", "<<think>"), pair("", "<<think>"));
}

#[test]
fn a_prompt_may_have_opened_the_thought() {
    let think = tags("<think>");
    for prompt in ["<|assistant|><think>", "<|assistant|><think>\n", "<think>\n \n"] {
        assert!(think.opened_by(prompt));
        assert_eq!(whole(&think, prompt, "a</think>b"), pair("a", "b"));
        assert_eq!(whole(&think, prompt, "a <think> </thin"), pair("a <think> </thin", ""), "never closed");
    }
    for prompt in ["<think>\n\n</think>\n\n", "<think>?", "", "think>"] {
        assert!(!think.opened_by(prompt), "{prompt}");
        assert_eq!(whole(&think, prompt, "a</think>b"), pair("", "a</think>b"));
    }
}

/// The same split by tokens: which token of a prompt completes the tag.
#[test]
fn a_prompt_of_tokens_opens_the_thought_like_its_text() {
    let think = tags("<think>");
    let tokens = |tokens: &[&str]| {
        let bytes: Vec<&[u8]> = tokens.iter().map(|t| t.as_bytes()).collect();
        let opened = think.opened_by_tokens(bytes.into_iter());
        assert_eq!(opened.is_some(), think.opened_by(&tokens.concat()));
        opened
    };
    assert_eq!(tokens(&["a", "<think>"]), Some(1));
    assert_eq!(tokens(&["a<", "think", ">\n", "\n "]), Some(2));
    assert_eq!(tokens(&["<th", "ink", "", ">", "\n"]), Some(3));
    assert_eq!(tokens(&["hink>"]), None);
    assert_eq!(tokens(&["<think>", "x"]), None);
    assert_eq!(tokens(&[]), None);
}

#[test]
fn tags_are_those_of_the_template() {
    for (source, open, close) in [
        ("{{ '<think>\\n' }}", "<think>", "</think>"),
        ("content.split('</think>')", "<think>", "</think>"),
        ("'[THINK]' + block['thinking']", "[THINK]", "[/THINK]"),
        ("set t = '<seed:think>'", "<seed:think>", "</seed:think>"),
        ("◁think▷", "◁think▷", "◁/think▷"),
        ("<|START_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>", "<|end|>"),
    ] {
        let tags = tags(source);
        assert_eq!((tags.open(), tags.close()), (open, close));
        assert_eq!(whole(&tags, "", &format!("{open}a{close}b")), pair("a", "b"));
    }
    assert_eq!(ThoughtTags::of(SMOLLM2), None);
    let mut all = ThoughtSplitter::new(None, "<think>");
    let mut pieces = Vec::new();
    all.push("</think>a", &mut |part, text| pieces.push((part, text.to_owned())));
    all.finish(&mut |_, _| panic!("nothing is held back"));
    assert_eq!(pieces, [(Part::Answer, "</think>a".to_owned())]);
}

#[test]
fn channels_are_split_and_their_markup_is_dropped() {
    let harmony = tags("<|channel|>analysis");
    let text = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b <|end|>";
    assert_eq!(whole(&harmony, "<|start|>assistant", text), pair("a", "b <|end|>"));
    assert_eq!(whole(&harmony, "", "<|channel|>final<|message|>b"), pair("", "b"));
    let calls = "<|channel|>commentary to=f<|message|>{}";
    assert_eq!(whole(&harmony, "", calls), pair("", calls), "what is neither is left as it is");
}

/// Any cut of any text gives the same split, and no text is lost.
#[test]
fn the_split_does_not_depend_on_the_pieces() {
    let mut rng = Rng::new(7);
    let mut below = |n: usize| rng.below(n);
    for tags in [tags("<think>"), tags("<|channel|>analysis"), tags("◁think▷")] {
        let (open, close) = (tags.open().to_owned(), tags.close().to_owned());
        let start: String = open.chars().take(4).collect();
        let bits = [&*open, &*close, &*start, "◀", "<", "|>", "/", "\n", "a", "é", "<|start|>assistant"];
        for round in 0..3000 {
            let text: String = (0..below(9)).map(|_| bits[below(bits.len())]).collect();
            let prompt = if round % 2 == 0 { "" } else { &*open };
            let expected = whole(&tags, prompt, &text);
            let mut cuts: Vec<usize> = (0..below(6)).map(|_| below(text.len() + 1)).collect();
            cuts.retain(|cut| text.is_char_boundary(*cut));
            cuts.sort_unstable();
            assert_eq!(split(&tags, prompt, &text, &cuts), expected, "{text:?} cut at {cuts:?}");
            let every: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            assert_eq!(split(&tags, prompt, &text, &every), expected, "{text:?}");
            if !text.contains(&open) && !text.contains(&close) && !text.contains("assistant") {
                assert_eq!(expected.0 + &expected.1, text, "without tags nothing is lost");
            }
        }
    }
}
