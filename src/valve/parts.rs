//! Parts of an adapter: what a dial can turn by itself.

use crate::error::{Error, Result};
use crate::model::{FanKind, Site};
use std::fmt;
use std::ops::Range;

/// Projections of a layer that turn together; the head is a group of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// q, k, v and the attention's output.
    Attention,
    /// gate, up and down.
    Mlp,
    /// The output projection, which belongs to no layer.
    Head,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attention => "attn",
            Self::Mlp => "mlp",
            Self::Head => "head",
        })
    }
}

/// One layer's share of an adapter in one group. Each part of an attached adapter has a slot, so that turning it
/// is another opening and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    /// `None` for the head.
    pub layer: Option<usize>,
    pub group: Group,
}

impl Part {
    /// The part that a projection belongs to.
    pub fn of(site: Site) -> Self {
        let group = match site.fan {
            FanKind::Qkv | FanKind::AttnOutput => Group::Attention,
            FanKind::GateUp | FanKind::Down => Group::Mlp,
            FanKind::Head => Group::Head,
        };
        Self { layer: site.layer, group }
    }
}

/// Which parts a dial of their own turns.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Selector {
    /// All groups if `None`.
    pub group: Option<Group>,
    /// All layers and the head if `None`; a range leaves the head out.
    pub layers: Option<Range<usize>>,
}

impl Selector {
    /// Every part of `group`.
    pub fn group(group: Group) -> Self {
        Self { group: Some(group), layers: None }
    }

    /// Every part of the layers `layers`.
    pub fn layers(layers: Range<usize>) -> Self {
        Self { group: None, layers: Some(layers) }
    }

    pub fn selects(&self, part: Part) -> bool {
        let in_layers = |range: &Range<usize>| part.layer.is_some_and(|layer| range.contains(&layer));
        self.group.is_none_or(|group| group == part.group) && self.layers.as_ref().is_none_or(in_layers)
    }

    /// Whether its layers are layers of a model of `layers` layers.
    ///
    /// # Errors
    /// [`Error::Argument`] naming `layers` if the range is empty or reaches past the last layer.
    pub fn check(&self, layers: usize) -> Result<()> {
        let Some(range) = &self.layers else { return Ok(()) };
        if range.is_empty() {
            return Err(Error::argument("layers", format!("{range:?} holds none")));
        }
        if range.end > layers {
            let last = layers.saturating_sub(1);
            return Err(Error::argument("layers", format!("{} is past the model's last, {last}", range.end - 1)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_names_parts_by_group_and_layer() {
        let part = |layer, group| Part { layer, group };
        let all = [
            part(Some(0), Group::Attention),
            part(Some(0), Group::Mlp),
            part(Some(3), Group::Attention),
            part(None, Group::Head),
        ];
        let selected = |s: &Selector| all.map(|p| s.selects(p));
        assert_eq!(selected(&Selector::default()), [true; 4]);
        assert_eq!(selected(&Selector::group(Group::Attention)), [true, false, true, false]);
        assert_eq!(selected(&Selector::group(Group::Head)), [false, false, false, true]);
        assert_eq!(selected(&Selector::layers(0..3)), [true, true, false, false]);
        let both = Selector { group: Some(Group::Mlp), layers: Some(0..4) };
        assert_eq!(selected(&both), [false, true, false, false]);
    }

    #[test]
    fn layers_past_the_model_are_named() {
        let error = |range| Selector::layers(range).check(4).unwrap_err().to_string();
        assert!(Selector::layers(0..4).check(4).is_ok() && Selector::default().check(4).is_ok());
        assert_eq!(error(2..5), "layers: 4 is past the model's last, 3");
        assert_eq!(error(2..2), "layers: 2..2 holds none");
        assert!(Selector::layers(0..usize::MAX).check(4).is_err());
    }
}
