//! The record of openings: what every slot had at every token in the cache.

/// Openings by token, as used. A row that equals the one before is stored once, so that a dial which stands still
/// costs four bytes a token; one that moves at every token costs four more a slot, about a hundredth of what the
/// token's keys and values take.
#[derive(Debug)]
pub(super) struct Openings {
    slots: usize,
    /// One a token: which row it has. Ascending.
    ids: Vec<u32>,
    /// `[rows, slots]`, without −0.
    rows: Vec<f32>,
}

impl Openings {
    /// An empty record that reallocates below `tokens` tokens only as rows differ.
    pub fn new(slots: usize, tokens: usize) -> Self {
        Self { slots, ids: Vec::with_capacity(tokens), rows: Vec::with_capacity(slots) }
    }

    /// Columns of a row.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Tokens on record.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// `[slots]`: the openings that the token at `position` was computed with.
    pub fn row(&self, position: usize) -> &[f32] {
        &self.rows[self.ids[position] as usize * self.slots..][..self.slots]
    }

    /// Adds a token. −0 opens nothing, as 0 does, and is recorded as 0.
    pub fn push(&mut self, row: &[f32]) {
        assert!(row.len() == self.slots, "{} openings for {} slots", row.len(), self.slots);
        let id = match self.len().checked_sub(1) {
            Some(last) if self.row(last) == row => self.ids[last],
            last => {
                self.rows.extend(row.iter().map(|alpha| alpha + 0.0));
                last.map_or(0, |last| self.ids[last] + 1)
            }
        };
        self.ids.push(id);
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        let rows = self.ids.last().map_or(0, |id| *id as usize + 1);
        self.rows.truncate(rows * self.slots);
    }

    /// Adds `more` slots, closed for every token on record.
    pub fn add_slots(&mut self, more: usize) {
        let rows = self.ids.last().map_or(0, |id| *id as usize + 1);
        let mut wider = Vec::with_capacity((rows + 1) * (self.slots + more));
        for row in 0..rows {
            wider.extend_from_slice(&self.rows[row * self.slots..][..self.slots]);
            wider.resize(wider.len() + more, 0.0);
        }
        (self.slots, self.rows) = (self.slots + more, wider);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(openings: &Openings) -> Vec<Vec<f32>> {
        (0..openings.len()).map(|i| openings.row(i).to_vec()).collect()
    }

    #[test]
    fn equal_neighbours_share_a_row_and_signed_zeros_are_equal() {
        let mut openings = Openings::new(2, 8);
        let pushed = [[0.0, 1.0], [-0.0, 1.0], [0.5, 1.0], [0.5, 1.0], [0.0, 1.0]];
        pushed.iter().for_each(|row| openings.push(row));
        assert_eq!(all(&openings), [[0.0, 1.0], [0.0, 1.0], [0.5, 1.0], [0.5, 1.0], [0.0, 1.0]]);
        assert_eq!(openings.rows.len(), 3 * 2);
        openings.push(&[-0.0, -0.0]);
        assert!(openings.row(5).iter().all(|alpha| alpha.to_bits() == 0), "−0 is not recorded");
    }

    #[test]
    fn a_truncated_record_goes_on_as_a_fresh_one() {
        let mut openings = Openings::new(1, 8);
        [[1.0], [2.0], [3.0]].iter().for_each(|row| openings.push(row));
        openings.truncate(1);
        assert_eq!((openings.rows.len(), openings.len()), (1, 1));
        openings.push(&[3.0]);
        openings.push(&[1.0]);
        assert_eq!(all(&openings), [[1.0], [3.0], [1.0]]);
        openings.truncate(0);
        openings.push(&[7.0]);
        assert_eq!(all(&openings), [[7.0]]);
    }

    #[test]
    fn slots_added_later_were_closed_before() {
        let mut openings = Openings::new(0, 8);
        openings.push(&[]);
        openings.push(&[]);
        openings.add_slots(1);
        openings.push(&[1.0]);
        openings.add_slots(2);
        openings.push(&[1.0, 0.0, 2.0]);
        assert_eq!(all(&openings), [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 2.0]]);
    }

    #[test]
    fn a_dial_that_moves_at_every_token_takes_a_row_a_token_and_no_more() {
        let mut openings = Openings::new(3, 100);
        (0..100).for_each(|i| openings.push(&[i as f32; 3]));
        assert_eq!((openings.rows.len(), openings.row(99)), (300, &[99.0; 3][..]));
    }
}
