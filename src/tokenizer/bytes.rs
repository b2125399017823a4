//! The alphabet of byte-level BPE: a printable character for each of the 256 bytes.
//!
//! GPT-2 wrote its vocabulary as text, so every byte needs a visible stand-in. Bytes that are printable in
//! Latin-1 stand for themselves; the others take the characters from U+0100 on, in ascending order.

/// One past the highest character of the alphabet: 256 plus the 68 bytes that are not printable.
const END: usize = 256 + 68;

/// Both directions of the alphabet.
pub(super) struct Alphabet {
    chars: [char; 256],
    bytes: [Option<u8>; END],
}

/// The alphabet; a constant, as it depends on nothing.
pub(super) static ALPHABET: Alphabet = Alphabet::build();

impl Alphabet {
    const fn build() -> Self {
        let mut chars = ['\0'; 256];
        let mut bytes = [None; END];
        let mut stand_in = 256;
        let mut byte = 0;
        while byte < 256 {
            let code = if matches!(byte as u8, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
                byte
            } else {
                stand_in += 1;
                stand_in - 1
            };
            chars[byte] = match char::from_u32(code as u32) {
                Some(c) => c,
                None => panic!("the alphabet lies below the surrogates"),
            };
            bytes[code] = Some(byte as u8);
            byte += 1;
        }
        Self { chars, bytes }
    }

    /// The character that stands for `byte`.
    pub(super) fn char(&self, byte: u8) -> char {
        self.chars[byte as usize]
    }

    /// The bytes that `text` stands for; `None` if a character is outside the alphabet.
    pub(super) fn decode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.bytes.get(c as usize).copied().flatten()).collect()
    }

    /// Appends the bytes that `text` stands for; a character outside the alphabet stays as it is.
    pub(super) fn decode_into(&self, text: &str, out: &mut Vec<u8>) {
        for c in text.chars() {
            match self.bytes.get(c as usize) {
                Some(Some(byte)) => out.push(*byte),
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// The character that stands for `byte` in the tokens of a byte-level vocabulary.
pub fn byte_letter(byte: u8) -> char {
    ALPHABET.char(byte)
}

/// The text of the token of one byte where tokens are written as they are: `<0x0A>`.
pub(super) fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The byte that [`byte_token`] has written.
pub(super) fn hex_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    let digits = Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let text: String = (0..=255).map(|b| ALPHABET.char(b)).collect();
        let mut out = Vec::new();
        ALPHABET.decode_into(&text, &mut out);
        assert_eq!(out, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn known_stand_ins() {
        assert_eq!(ALPHABET.char(b' '), 'Ġ');
        assert_eq!(ALPHABET.char(b'\n'), 'Ċ');
        assert_eq!(ALPHABET.char(b'a'), 'a');
        assert_eq!(ALPHABET.char(0xAD), '\u{143}');
        assert_eq!(ALPHABET.char(0xFF), 'ÿ');
    }

    #[test]
    fn foreign_characters_stay() {
        let mut out = Vec::new();
        ALPHABET.decode_into("Ġ猫", &mut out);
        assert_eq!(out, " 猫".as_bytes());
    }
}
