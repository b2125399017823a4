//! Pages against a naive model: what a page holds is written down position by position, each with its whole prefix,
//! so that a page that stands where it must not is seen.

use super::*;
use crate::rng::Rng;

/// What a position of a page stands for: its whole prefix.
type Content = Vec<Entry>;

#[derive(Default)]
struct Sequence {
    text: Vec<Entry>,
    table: Vec<PageId>,
    published: usize,
}

struct World {
    pages: Pages,
    /// `[pages][position]`
    memory: Vec<Vec<Content>>,
    sequences: Vec<Sequence>,
    kept: usize,
    found: usize,
    copied: usize,
    full: usize,
}

impl World {
    fn new(pages: usize) -> Self {
        let memory = vec![vec![Vec::new(); PAGE_LEN]; pages];
        Self { pages: Pages::new(pages), memory, sequences: Vec::new(), kept: 0, found: 0, copied: 0, full: 0 }
    }

    /// Cuts a sequence, copies what must be copied, and returns how much is left.
    fn cut(&mut self, id: usize, positions: usize) {
        let s = &mut self.sequences[id];
        let cut = self.pages.cut(&mut s.table, positions);
        if let Some((from, to)) = cut.copy {
            self.memory[to as usize] = self.memory[from as usize].clone();
            self.copied += 1;
        }
        assert!(cut.kept <= positions && positions - cut.kept < PAGE_LEN);
        s.text.truncate(cut.kept);
        s.published = s.published.min(cut.kept / PAGE_LEN);
    }

    /// Goes on with `entries`, or stops where there is no room.
    fn write(&mut self, id: usize, entries: &[Entry]) {
        for entry in entries {
            let s = &mut self.sequences[id];
            let at = s.text.len();
            if self.pages.grow(&mut s.table, at + 1).is_err() {
                self.full += 1;
                return;
            }
            let page = s.table[at / PAGE_LEN];
            assert!(self.pages.is_writable(page), "page {page} is not this sequence's alone");
            s.text.push(*entry);
            self.memory[page as usize][at % PAGE_LEN] = s.text.clone();
            if s.text.len().is_multiple_of(PAGE_LEN) {
                let block = *s.text[at + 1 - PAGE_LEN..].first_chunk().unwrap();
                assert!(self.pages.publish(&mut s.table, s.published, &block));
                s.published += 1;
            }
        }
    }

    /// As an engine does: the own prefix, or what is found if that is longer, and the rest anew.
    fn prompt(&mut self, id: usize, text: &[Entry]) {
        let s = &mut self.sequences[id];
        let own = s.text.iter().zip(text).take_while(|(a, b)| a == b).count();
        let found = self.pages.find(text.chunks_exact(PAGE_LEN).map(|block| *block.first_chunk().unwrap()));
        if found.len() * PAGE_LEN > own {
            self.pages.adopt(&mut s.table, &found);
            s.text = text[..found.len() * PAGE_LEN].to_vec();
            s.published = found.len();
            self.found += s.text.len();
        }
        let keep = self.sequences[id].text.iter().zip(text).take_while(|(a, b)| a == b).count();
        self.cut(id, keep.min(text.len() - 1));
        self.check(id);
        let kept = self.sequences[id].text.len();
        self.kept += kept;
        self.write(id, &text[kept..]);
    }

    /// Everything that a sequence holds is what it says.
    fn check(&self, id: usize) {
        let s = &self.sequences[id];
        for at in 0..s.text.len() {
            let content = &self.memory[s.table[at / PAGE_LEN] as usize][at % PAGE_LEN];
            assert_eq!(content[..], s.text[..=at], "sequence {id} at {at}");
        }
    }

    fn audit(&self) {
        self.pages.audit(self.sequences.iter().map(|s| &s.table[..])).unwrap();
    }
}

/// A text out of few parts, so that many start alike; under few openings.
fn text(random: &mut Rng) -> Vec<Entry> {
    let openings = [[0, 0], [5, 1], [5, 2]];
    let mut text = Vec::new();
    for _ in 0..1 + random.below(4) {
        let (part, opening) = (random.below(2) as u32, openings[random.below(12).saturating_sub(9)]);
        let len = [PAGE_LEN / 2, PAGE_LEN, PAGE_LEN + 7][random.below(3)];
        text.extend((0..len as u32).map(|i| Entry { token: part * 1000 + i, openings: opening }));
    }
    text
}

#[test]
fn random_operations_never_show_a_page_of_another_prefix() {
    let mut random = Rng::new(20);
    let mut world = World::new(12);
    for step in 0..6_000 {
        let n = world.sequences.len();
        match random.below(10) {
            0 | 1 if n < 5 => world.sequences.push(Sequence::default()),
            2 if n > 0 => {
                let mut closed = world.sequences.swap_remove(random.below(n));
                world.pages.shrink(&mut closed.table, 0);
            }
            3 | 4 if n > 0 => {
                let id = random.below(n);
                let keep = random.below(world.sequences[id].text.len() + 1);
                world.cut(id, keep);
                let more = text(&mut random);
                world.write(id, &more[..random.below(more.len())]);
            }
            _ if n > 0 => {
                let id = random.below(n);
                world.prompt(id, &text(&mut random));
            }
            _ => {}
        }
        (0..world.sequences.len()).for_each(|id| world.check(id));
        if step % 7 == 0 {
            world.audit();
        }
    }
    let World { kept, found, copied, full, .. } = world;
    assert!(kept > 100_000 && found > 50_000 && copied > 100 && full > 100, "{kept} {found} {copied} {full}");
}

fn block(token: u32, opening: u64) -> Block {
    [Entry { token, openings: [opening, 0] }; PAGE_LEN]
}

/// A table of `n` known pages under `opening`.
fn known(pages: &mut Pages, n: usize, opening: u64) -> Vec<PageId> {
    let mut table = Vec::new();
    pages.grow(&mut table, n * PAGE_LEN).unwrap();
    (0..n).for_each(|at| assert!(pages.publish(&mut table, at, &block(at as u32, opening))));
    table
}

#[test]
fn pages_come_back() {
    let mut pages = Pages::new(4);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    pages.grow(&mut a, PAGE_LEN + 1).unwrap();
    pages.grow(&mut b, 1).unwrap();
    assert_eq!((a.len(), b.len(), pages.free.len()), (2, 1, 1));
    let refused = pages.grow(&mut b, 3 * PAGE_LEN);
    assert!(matches!(refused, Err(Error::CacheFull { needed: 128, free: 64 })), "{refused:?}");
    assert_eq!(b.len(), 1);
    pages.shrink(&mut a, 1);
    pages.shrink(&mut b, 0);
    pages.grow(&mut b, 3 * PAGE_LEN).unwrap();
    let mut held: Vec<PageId> = a.iter().chain(&b).copied().collect();
    held.sort_unstable();
    assert_eq!(held, [0, 1, 2, 3]);
    pages.audit([&a[..], &b[..]]).unwrap();
}

#[test]
fn the_same_tokens_under_another_opening_are_another_prefix() {
    let mut pages = Pages::new(8);
    let table = known(&mut pages, 2, 1);
    assert_eq!(pages.find([block(0, 1), block(1, 1)]), table);
    assert_eq!(pages.find([block(0, 2), block(1, 1)]), [0; 0], "a page is found by its parent, too");
    assert_eq!(pages.find([block(0, 1), block(1, 2)]), table[..1]);
    assert_eq!(pages.find([block(1, 1)]), [0; 0], "the second page does not start a prefix");
}

#[test]
fn what_is_computed_twice_is_kept_once() {
    let mut pages = Pages::new(8);
    let first = known(&mut pages, 2, 1);
    let second = known(&mut pages, 2, 1);
    assert_eq!(first, second);
    assert_eq!(pages.usage(), CacheUse { pages: 8, held: 2, shared: 2, cached: 0, free: 6 });
}

#[test]
fn what_was_let_go_first_goes_first_and_a_page_before_its_parent() {
    let mut pages = Pages::new(4);
    let (mut old, mut young) = (known(&mut pages, 2, 1), known(&mut pages, 2, 2));
    pages.shrink(&mut old, 0);
    pages.shrink(&mut young, 0);
    assert_eq!(pages.usage(), CacheUse { pages: 4, held: 0, shared: 0, cached: 4, free: 0 });
    let mut other = Vec::new();
    let found = |pages: &Pages| [1, 2].map(|o| pages.find([block(0, o), block(1, o)]).len());
    for expected in [[1, 2], [0, 2], [0, 1], [0, 0]] {
        let positions = (other.len() + 1) * PAGE_LEN;
        pages.grow(&mut other, positions).unwrap();
        assert_eq!(found(&pages), expected);
    }
    assert!(pages.grow(&mut other, 5 * PAGE_LEN).is_err());
    pages.audit([&other[..]]).unwrap();
}

#[test]
fn a_cut_inside_a_known_page_copies_it() {
    let mut pages = Pages::new(3);
    let mut table = known(&mut pages, 2, 1);
    let before = table.clone();
    assert_eq!(pages.cut(&mut table, PAGE_LEN), Cut { kept: PAGE_LEN, copy: None }, "between pages there is no need");
    pages.adopt(&mut table, &before);
    let cut = pages.cut(&mut table, PAGE_LEN + 3);
    assert_eq!(cut, Cut { kept: PAGE_LEN + 3, copy: Some((before[1], table[1])) });
    assert!(pages.is_writable(table[1]) && !pages.is_writable(table[0]));
    assert_eq!(pages.cut(&mut table, PAGE_LEN + 1).copy, None, "it is this sequence's own already");
    assert_eq!(pages.find([block(0, 1), block(1, 1)]), before, "what was copied can still be found");
}

#[test]
fn with_no_page_for_a_copy_whole_pages_stay_or_the_page_itself_is_taken() {
    let mut pages = Pages::new(2);
    let (mut a, mut b) = (known(&mut pages, 2, 1), Vec::new());
    pages.adopt(&mut b, &a);
    assert_eq!(pages.cut(&mut a, PAGE_LEN + 3), Cut { kept: PAGE_LEN, copy: None });
    assert_eq!(a.len(), 1);
    pages.shrink(&mut a, 0);
    assert_eq!(pages.cut(&mut b, PAGE_LEN + 3), Cut { kept: PAGE_LEN + 3, copy: None });
    assert!(pages.is_writable(b[1]) && pages.find([block(0, 1), block(1, 1)]).len() == 1);
    pages.audit([&a[..], &b[..]]).unwrap();
}
