//! The letters of byte-level BPE.

/// GPT-2's letter for each byte: printable ones stand for themselves, the others for U+0100 and on.
pub fn byte_alphabet() -> Vec<char> {
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    let mut letter = |b: u32| {
        if printable(b) {
            return b;
        }
        next += 1;
        next - 1
    };
    (0..256).map(|b| char::from_u32(letter(b)).unwrap()).collect()
}
