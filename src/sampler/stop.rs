//! Texts that stop a generation.

/// Finds stop texts in text that comes in pieces, wherever it is cut.
///
/// The pieces that [`Stops::push`] and [`Stops::flush`] hand out, joined, are the text before the first stop text
/// that is complete, or all of it.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    stops: Vec<String>,
    /// Text that may be the start of a stop text.
    held: String,
}

impl Stops {
    /// None of `stops` may be empty.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new() }
    }

    /// Takes the next piece; returns the text that is now certain, and whether a stop text is complete. What follows
    /// it is dropped.
    pub fn push(&mut self, piece: String) -> (String, bool) {
        if self.stops.is_empty() {
            return (piece, false);
        }
        self.held.push_str(&piece);
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop).map(|at| (at + stop.len(), at)));
        // The first that is complete; of two that end there, the longer.
        if let Some((_, at)) = found.min() {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return (text, true);
        }
        let keep = self.stops.iter().map(|stop| started(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that was held back, at the end of all text.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end of `text` are the start of `stop`.
fn started(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).rev();
    lengths.into_iter().find(|n| text.ends_with(&stop[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn run(stops: &[String], pieces: &[&str]) -> (String, bool) {
        let mut matcher = Stops::new(stops);
        let mut text = String::new();
        for piece in pieces {
            let (certain, stopped) = matcher.push((*piece).into());
            text += &certain;
            if stopped {
                assert_eq!(matcher.flush(), "");
                return (text, true);
            }
        }
        (text + &matcher.flush(), false)
    }

    /// The first stop text that is complete when the text grows character by character.
    fn slow(stops: &[String], text: &str) -> (String, bool) {
        for (end, c) in text.char_indices() {
            let grown = &text[..end + c.len_utf8()];
            let longest = stops.iter().filter(|stop| grown.ends_with(*stop)).map(String::len).max();
            if let Some(longest) = longest {
                return (grown[..grown.len() - longest].into(), true);
            }
        }
        (text.into(), false)
    }

    #[test]
    fn text_ends_before_the_first_stop_however_it_is_cut() {
        let letters = ["a", "b", "ä", "😀"];
        let mut rng = Rng::new(3);
        let mut stopped = 0;
        for _ in 0..20_000 {
            let mut word =
                |most: usize| -> String { (0..1 + rng.below(most)).map(|_| letters[rng.below(4)]).collect() };
            let stops: Vec<String> = (0..2).map(|_| word(4)).collect();
            let text = word(14);
            let truth = slow(&stops, &text);
            let cuts: Vec<usize> = text.char_indices().map(|(i, _)| i).filter(|_| rng.below(2) == 0).collect();
            let ends = cuts.iter().copied().chain([text.len()]);
            let mut start = 0;
            let pieces: Vec<&str> = ends.map(|end| &text[std::mem::replace(&mut start, end)..end]).collect();
            assert_eq!(run(&stops, &pieces), truth, "{stops:?} in {pieces:?}");
            stopped += usize::from(truth.1);
        }
        assert!((5_000..19_000).contains(&stopped), "{stopped}");
    }

    #[test]
    fn only_what_may_become_a_stop_is_held_back() {
        let mut stops = Stops::new(&["</end>".into()]);
        assert_eq!(stops.push("a < b</e".into()), ("a < b".into(), false));
        assert_eq!(stops.push("n<".into()), ("</en".into(), false));
        assert_eq!(stops.push("/end> c".into()), (String::new(), true));
        assert_eq!(Stops::default().push("x".into()), ("x".into(), false));
    }
}
