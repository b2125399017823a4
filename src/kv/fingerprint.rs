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
}

impl Fingerprints {
    /// Adds slots, in their order in a row. A name is equal where the slots turn the same thing.
    pub fn add_slots(&mut self, names: impl IntoIterator<Item = u64>) {
        self.names.extend(names);
    }

    /// The fingerprint of a row, one opening a slot; zeros for a closed one.
    pub fn of(&self, row: &[f32]) -> [u64; 2] {
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

    fn three() -> Fingerprints {
        let mut fingerprints = Fingerprints::default();
        fingerprints.add_slots([10, 11, 20]);
        fingerprints
    }

    #[test]
    fn closed_is_closed_whatever_is_attached() {
        let mut fingerprints = Fingerprints::default();
        assert_eq!(fingerprints.of(&[]), [0; 2]);
        fingerprints.add_slots([1, 2]);
        assert_eq!(fingerprints.of(&[0.0, -0.0]), [0; 2]);
    }

    #[test]
    fn slots_added_later_change_nothing() {
        let mut fingerprints = three();
        let before = fingerprints.of(&[0.5, 0.0, 1.0]);
        fingerprints.add_slots([30]);
        assert_eq!(fingerprints.of(&[0.5, -0.0, 1.0, 0.0]), before);
        assert_ne!(fingerprints.of(&[0.5, 0.0, 1.0, 1e-30]), before);
    }

    #[test]
    fn what_differs_in_slot_or_bits_differs() {
        let fingerprints = three();
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
        for (i, a) in rows.iter().enumerate() {
            rows[..i].iter().for_each(|b| assert_ne!(fingerprints.of(a), fingerprints.of(b), "{a:?} {b:?}"));
            assert_ne!(fingerprints.of(a), [0; 2]);
        }
    }

    #[test]
    fn one_content_in_two_slots_is_one_name() {
        let mut fingerprints = Fingerprints::default();
        fingerprints.add_slots([7, 7]);
        assert_eq!(fingerprints.of(&[0.5, 0.0]), fingerprints.of(&[0.0, 0.5]));
        assert_ne!(fingerprints.of(&[0.5, 0.25]), fingerprints.of(&[0.25, 0.5]), "terms are added in this order");
    }
}
