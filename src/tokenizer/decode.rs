//! Tokens to text as they come: a character may be spread over several tokens.

/// Joins the bytes of successive tokens into valid text.
///
/// The pieces it hands out, joined, equal `String::from_utf8_lossy` of all bytes: a sequence that can not become
/// valid is one U+FFFD, and one that still can is held back (3 bytes at most).
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    held: Vec<u8>,
    /// The next token loses a space at its start.
    drop_space: bool,
}

impl Decoder {
    /// A decoder at the start of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder at the start of a text whose first token has had a space put before it.
    pub(super) fn dropping_space() -> Self {
        Self { held: Vec::new(), drop_space: true }
    }

    /// Takes the bytes of the next token; returns the text that is now certain, which may be empty.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let drop_space = std::mem::take(&mut self.drop_space);
        let bytes = bytes.strip_prefix(b" ").filter(|_| drop_space).unwrap_or(bytes);
        self.held.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => error,
            };
            let (valid, bad) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            rest = bad;
            let Some(len) = error.error_len() else { break };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[len..];
        }
        let done = self.held.len() - rest.len();
        self.held.drain(..done);
        text
    }

    /// Ends the text: what is held back becomes U+FFFD. The decoder is then at the start of another text.
    pub fn flush(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.push(b"a\xF0\x9F"), "a");
        assert_eq!(decoder.push(b"\x98"), "");
        assert_eq!(decoder.push(b"\x80b"), "😀b");
        assert_eq!(decoder.flush(), "");
    }

    #[test]
    fn what_can_not_be_completed_is_replaced() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.push(b"\xE2\x82"), "");
        assert_eq!(decoder.push(b"x\xFF"), "\u{FFFD}x\u{FFFD}");
        assert_eq!(decoder.push(b"\xC3"), "");
        assert_eq!(decoder.flush(), "\u{FFFD}");
        assert_eq!(decoder.push(b"y"), "y");
    }

    /// Any bytes, cut anywhere, give what the standard library gives for the whole.
    #[test]
    fn pieces_join_to_the_lossy_whole() {
        let edges = [0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xF0, 0x90, 0xF4, 0x8F, 0xFF];
        let mut state = 1u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..1 + next(9)).map(|_| edges[next(edges.len())]).collect();
            let mut decoder = Decoder::new();
            let mut text = String::new();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (head, tail) = rest.split_at(1 + next(rest.len()));
                text += &decoder.push(head);
                assert!(decoder.held.len() <= 3);
                rest = tail;
            }
            text += &decoder.flush();
            assert_eq!(text, String::from_utf8_lossy(&bytes), "{bytes:02x?}");
        }
    }
}
