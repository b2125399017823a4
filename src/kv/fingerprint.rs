//! Openings as the key of a prefix has them.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// Makes fingerprints of openings: equal for rows that do the same, different for any others.
///
/// A row is taken as the list of its open slots, each with what the slot turns and the bits of α. Closed slots are
/// left out, and so is the sign of a zero: a closed valve is the base, and slots that are added later change
/// nothing. Slots of adapters with one content are one name.
#[derive(Debug, Default)]
pub struct Fingerprints {
    keys: [RandomState; 2],
    /// One a slot: what it turns.
    names: Vec<u64>,
    /// The last row and its fingerprint: the next is most often the same.
    last: (Vec<f32>, [u64; 2]),
}

impl Fingerprints {
    /// Adds a slot at the end of a row. Names are equal where slots turn the same thing.
    pub fn add_slot(&mut self, name: u64) {
        self.names.push(name);
        let (row, _) = &mut self.last;
        row.reserve(self.names.len() - row.len());
    }

    /// The fingerprint of a row, one opening a slot; zeros for a closed one.
    pub fn of(&mut self, row: &[f32]) -> [u64; 2] {
        if self.last.0 != row {
            self.last.0.clear();
            self.last.0.extend_from_slice(row);
            self.last.1 = self.compute(row);
        }
        self.last.1
    }

    fn compute(&self, row: &[f32]) -> [u64; 2] {
        let open = || self.names.iter().zip(row).filter(|(_, alpha)| **alpha != 0.0);
        if open().next().is_none() {
            return [0; 2];
        }
        self.keys.each_ref().map(|key| {
            let mut hasher = key.build_hasher();
            open().for_each(|(name, alpha)| (*name, alpha.to_bits()).hash(&mut hasher));
            hasher.finish()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: impl IntoIterator<Item = u64>) -> Fingerprints {
        let mut fingerprints = Fingerprints::default();
        names.into_iter().for_each(|name| fingerprints.add_slot(name));
        fingerprints
    }

    fn three() -> Fingerprints {
        with([10, 11, 20])
    }

    #[test]
    fn closed_is_closed_whatever_is_attached() {
        let mut fingerprints = Fingerprints::default();
        assert_eq!(fingerprints.of(&[]), [0; 2]);
        fingerprints.add_slot(1);
        fingerprints.add_slot(2);
        assert_eq!(fingerprints.of(&[0.0, -0.0]), [0; 2]);
    }

    #[test]
    fn slots_added_later_change_nothing() {
        let mut fingerprints = three();
        let before = fingerprints.of(&[0.5, 0.0, 1.0]);
        fingerprints.add_slot(30);
        assert_eq!(fingerprints.of(&[0.5, -0.0, 1.0, 0.0]), before);
        assert_ne!(fingerprints.of(&[0.5, 0.0, 1.0, 1e-30]), before);
    }

    #[test]
    fn what_differs_in_slot_or_bits_differs() {
        let mut fingerprints = three();
        let rows = [
            [0.5, 0.0, 0.0],
            [0.0, 0.5, 0.0],
            [0.0, 0.0, 0.5],
            [-0.5, 0.0, 0.0],
            [f32::from_bits(0.5f32.to_bits() + 1), 0.0, 0.0],
            [0.5, 0.5, 0.0],
            [0.5, 1.0, 0.0],
            [1.0, 0.5, 0.0],
            [f32::MIN_POSITIVE / 2.0, 0.0, 0.0],
        ];
        let prints: Vec<_> = rows.iter().map(|row| fingerprints.of(row)).collect();
        for (i, print) in prints.iter().enumerate() {
            assert!(!prints[..i].contains(print) && *print != [0; 2], "{:?}", rows[i]);
            assert_eq!(fingerprints.of(&rows[i]), *print, "the same when asked again");
        }
    }

    #[test]
    fn one_content_in_two_slots_is_one_name() {
        let mut fingerprints = with([7, 7]);
        assert_eq!(fingerprints.of(&[0.5, 0.0]), fingerprints.of(&[0.0, 0.5]));
        assert_ne!(fingerprints.of(&[0.5, 0.25]), fingerprints.of(&[0.25, 0.5]), "terms are added in this order");
    }
}
