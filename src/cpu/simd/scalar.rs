//! The scalar level: loops over the truth of [`crate::quant`].

use super::kernels::Scratch;
use super::view::{Rows, Strided};
use crate::quant;
use crate::quant::act::Acts;

pub(super) fn linear_int8(w: &Rows<'_>, x: &Acts, y: &mut Strided<'_>, _: &mut Scratch) {
    for i in 0..x.rows() {
        for (r, v) in y.row_mut(i).iter_mut().enumerate() {
            *v = quant::dot_int8(w.ty, w.row(r), x.row(i));
        }
    }
}
