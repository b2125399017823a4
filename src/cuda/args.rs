//! The kernels' arguments, field for field as the .cu files declare them; addresses are on the device.

use cudarc::driver::DeviceRepr;

/// Weights of one fan that share a launch.
pub(super) const MAX_PARTS: usize = 4;

/// `MatvecPart` of matvec.cuh. The unused ones are all 0.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    pub quants: u64,
    pub high: u64,
    pub scales: u64,
    pub y: u64,
    pub n_out: i32,
    pub blocks: i32,
}

/// `Shrink` of shrink.cuh. All 0: no valve.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Shrink {
    pub a: u64,
    pub x: u64,
    pub openings: u64,
    pub row_map: u64,
    pub scale: u64,
    pub slot: u64,
    pub u: u64,
    pub rank: i32,
    pub slots: i32,
    pub u_stride: i32,
    pub a_is_f32: i32,
}

/// `MatvecArgs` of matvec.cuh.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Matvec {
    pub parts: [Part; MAX_PARTS],
    /// `Activations` of types.cuh.
    pub x: Quantized,
    pub shrink: Shrink,
    pub n_in: i32,
    pub rows: i32,
}

/// `MatmulPart` of matmul.cuh. The unused ones are all 0.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct MatmulPart {
    pub quants: u64,
    pub high: u64,
    pub scales: u64,
    pub y: u64,
    pub expand: Expand,
    pub n_out: i32,
    pub tiles: i32,
}

/// `MatmulArgs` of matmul.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Matmul {
    pub parts: [MatmulPart; MAX_PARTS],
    pub x_quants: u64,
    pub x_scales: u64,
    pub x_sums: u64,
    pub n_in: i32,
    pub rows: i32,
}

/// `ShrinkManyArgs` of shrink_many.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct ShrinkMany {
    pub shrink: Shrink,
    pub n_in: i32,
    pub rows: i32,
}

/// `Expand` of expand.cuh. All 0: nothing to add.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Expand {
    pub b: u64,
    pub columns: u64,
    pub u: u64,
    pub rank: i32,
    pub u_stride: i32,
    pub b_is_f32: i32,
    pub unused: i32,
}

/// `ResidualArgs` of expand.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Residual {
    pub h: u64,
    pub y: u64,
    pub expand: Expand,
    pub n: i32,
    pub rows: i32,
}

/// `Rows` of rows.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub tokens: u64,
    pub positions: u64,
    pub tables: u64,
    pub pages: u64,
}

/// `Cache` of rows.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Cache {
    pub data: u64,
    pub layers: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub page_len: i32,
    pub ty: i32,
    pub layer: i32,
}

/// `EmbedArgs` of embed.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Embed {
    pub rows: Rows,
    pub quants: u64,
    pub high: u64,
    pub scales: u64,
    pub h: u64,
    pub cols: i32,
    pub vocab: i32,
}

/// `RopeStoreArgs` of rope.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RopeStore {
    pub rows: Rows,
    pub cache: Cache,
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub turns: u64,
    /// Of q, k, v.
    pub expands: [Expand; 3],
    pub heads: i32,
    pub n_rows: i32,
    pub rotated: i32,
    pub unused: i32,
}

/// `AttendArgs` of attend.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Attend {
    pub rows: Rows,
    pub cache: Cache,
    pub q: u64,
    pub y: u64,
    pub out: Quantized,
    pub partials: u64,
    pub arrivals: u64,
    pub scale: f32,
    pub softcap: f32,
    pub window: i32,
    pub heads: i32,
    pub n_rows: i32,
    pub splits: i32,
    pub chunks_max: i32,
    pub prefetch: i32,
}

/// `AttendManyArgs` of attend_many.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct AttendMany {
    pub rows: Rows,
    pub cache: Cache,
    pub q: u64,
    pub y: u64,
    pub out: Quantized,
    pub tiles: u64,
    pub scale: f32,
    pub softcap: f32,
    pub window: i32,
    pub heads: i32,
}

/// `LikeliestArgs` of likeliest.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Likeliest {
    pub from: u64,
    pub to: u64,
    pub n: i32,
    pub k: i32,
}

/// `GatherArgs` of rows.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Gather {
    pub data: u64,
    pub rows: u64,
    pub n: i32,
    pub n_rows: i32,
}

/// `Quantized` of quantize.cuh. All 0: not wanted.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Quantized {
    pub quants: u64,
    pub scales: u64,
    pub sums: u64,
    pub floats: u64,
}

/// `QuantizeArgs` of quantize.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Quantize {
    pub x: u64,
    pub weight: u64,
    pub row_map: u64,
    pub out: Quantized,
    pub n: i32,
    pub eps: f32,
}

/// `GatedArgs` of quantize.cu.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Gated {
    pub gate: u64,
    pub up: u64,
    pub gate_expand: Expand,
    pub up_expand: Expand,
    pub out: Quantized,
    pub n: i32,
    pub rows: i32,
}

// The .cu files assert the same sizes.
const _: () = assert!(size_of::<Matvec>() == 272);
const _: () = assert!(size_of::<Matmul>() == 352);
const _: () = assert!(size_of::<ShrinkMany>() == 80);
const _: () = assert!(size_of::<Residual>() == 64);
const _: () = assert!(size_of::<Quantize>() == 64);
const _: () = assert!(size_of::<Gated>() == 136);
const _: () = assert!(size_of::<Embed>() == 72);
const _: () = assert!(size_of::<RopeStore>() == 232);
const _: () = assert!(size_of::<Attend>() == 160);
const _: () = assert!(size_of::<AttendMany>() == 136);
const _: () = assert!(size_of::<Gather>() == 24);
const _: () = assert!(size_of::<Likeliest>() == 24);

// SAFETY: repr(C) structs of integers and floats without padding, laid out as the kernel declares its parameter.
unsafe impl DeviceRepr for Matvec {}
// SAFETY: as above.
unsafe impl DeviceRepr for Likeliest {}
// SAFETY: as above.
unsafe impl DeviceRepr for Matmul {}
// SAFETY: as above.
unsafe impl DeviceRepr for ShrinkMany {}
// SAFETY: as above.
unsafe impl DeviceRepr for Residual {}
// SAFETY: as above.
unsafe impl DeviceRepr for Quantize {}
// SAFETY: as above.
unsafe impl DeviceRepr for Gated {}
// SAFETY: as above.
unsafe impl DeviceRepr for Embed {}
// SAFETY: as above.
unsafe impl DeviceRepr for RopeStore {}
// SAFETY: as above.
unsafe impl DeviceRepr for Attend {}
// SAFETY: as above.
unsafe impl DeviceRepr for AttendMany {}
// SAFETY: as above.
unsafe impl DeviceRepr for Gather {}
