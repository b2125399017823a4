//! Pages of the key/value cache: who holds which, and which prefix each stands for. The keys and values themselves
//! live in the backend.
//!
//! # What a page is known by
//! A full page is known by its content and by the page before it: at each of its positions the token and the
//! openings that the row was computed with ([`Entry`]), and the parent, which is itself a page that is known. So a
//! page stands for its whole prefix. An index finds pages by a hash; what it finds is then compared, entry by entry
//! and with its parent, so that a collision of hashes is a miss and never another text's page. The model, the type
//! of keys and values, rope and precision need no place in the key: an engine has one of each, and an index.
//!
//! Of the openings an entry holds a fingerprint of 128 bits ([`Fingerprints`]) under a key that is drawn when the
//! engine starts and never leaves it: nobody can aim at a collision, and chance finds one among n sets of openings
//! with n² / 2^129.
//!
//! # Who may write
//! A page that is known, or that two sequences hold, is never written. A sequence that is cut inside such a page
//! gets a copy of it: a copy of 64 positions takes well under a millisecond where to compute them takes tens.
//!
//! # What stays
//! A page that is known stays when nobody holds it, until its room is needed: then the one goes that was let go
//! first. Sequences let go of their last page first, so a page goes before its parent, and none is left that
//! nothing leads to.

mod fingerprint;
mod pages;

pub use fingerprint::Fingerprints;
pub use pages::{CacheUse, Pages};

/// Positions in a page.
pub const PAGE_LEN: usize = 64;

/// One position as the key of a prefix has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Entry {
    pub token: u32,
    /// The fingerprint of the openings it was computed with.
    pub openings: [u64; 2],
}

/// The entries of a full page.
pub type Block = [Entry; PAGE_LEN];
