//! A CUDA device against the scalar truth. Without one this says so, and runs the same tests over an emulated driver
//! and emulated kernels (kernels/README.md); and over the CPU backend, so that the truth is itself known to hold.
#![cfg(feature = "cuda")]

mod cuda_cxx;
#[path = "cuda_device/model.rs"]
mod model;
mod support;
#[path = "cuda_device/types.rs"]
mod types;

use cotvalve::backend::{Backend, Batch, Input, Linear, Owed, Precision, Span, Term};
use cotvalve::cpu::Cpu;
use cotvalve::cuda::Cuda;
use cotvalve::map::Bytes;
use cotvalve::quant;
use cotvalve::rng::Rng;
use cotvalve::tensor::{Tensor, TensorType};
use model::ALL_TYPES;

/// Which half of a valve's work `project` does.
trait Adds: Backend {
    /// Whether `project` adds the expand to y, in a batch of `rows` rows.
    fn expands(rows: usize) -> bool;
}

impl Adds for Cpu {
    fn expands(_: usize) -> bool {
        true
    }
}

impl Adds for Cuda {
    fn expands(rows: usize) -> bool {
        rows > 8
    }
}

/// The device, or `None` with the reason said.
fn device() -> Option<Cuda> {
    match Cuda::open(0) {
        Ok(cuda) => {
            println!("on {}", cuda.device().name());
            Some(cuda)
        }
        Err(e) => {
            println!("no CUDA device: {e}; skipped");
            None
        }
    }
}

fn random(rng: &mut Rng, n: usize, scale: f32) -> Vec<f32> {
    (0..n).map(|_| scale * (2.0 * rng.uniform() - 1.0)).collect()
}

fn tensor(ty: TensorType, cols: usize, values: &[f32]) -> Tensor {
    let rows = values.len() / cols;
    let mut data = vec![0; ty.row_bytes(cols).unwrap() * rows];
    for (bytes, row) in data.chunks_exact_mut(ty.row_bytes(cols).unwrap()).zip(values.chunks_exact(cols)) {
        quant::encode(ty, row, bytes);
    }
    Tensor { name: "t".into(), ty, dims: vec![cols, rows], data: Bytes::from(data) }
}

fn row_of(t: &Tensor, row: usize) -> Vec<f32> {
    let mut values = vec![0.0; t.cols()];
    quant::dequantize(t.ty, &t.data[row * t.row_bytes()..][..t.row_bytes()], &mut values);
    values
}

/// The dot in f64 and the sum of its terms' magnitudes.
fn dot(a: &[f32], b: &[f32]) -> (f64, f64) {
    let terms = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
    terms.fold((0.0, 0.0), |(sum, magnitude), t| (sum + t, magnitude + t.abs()))
}

/// What d·q of x is, quantized as the kernels do.
fn rounded(x: &[f32]) -> Vec<f32> {
    let mut acts = quant::act::Acts::new(1, x.len());
    quant::act::quantize(x, acts.rows_mut().next().unwrap());
    let row = acts.row(0);
    row.quants.iter().enumerate().map(|(i, q)| f32::from(*q) * row.scales[i / 32]).collect()
}

fn near(what: &str, got: f32, (want, magnitude): (f64, f64), tolerance: f64) {
    let error = (f64::from(got) - want).abs();
    assert!(error <= tolerance * magnitude + 1e-30, "{what}: {got}, want {want}, magnitude {magnitude}");
}

const N_IN: usize = 576;
const SLOTS: usize = 3;
const EPS: f32 = 1e-5;

/// Openings of `rows` rows: the first closed by +0, the second by -0, slot 1 closed in every even row.
fn openings(rng: &mut Rng, rows: usize) -> Vec<f32> {
    let mut open = random(rng, rows * SLOTS, 2.0);
    for (r, row) in open.chunks_exact_mut(SLOTS).enumerate() {
        match r {
            0 => row.fill(0.0),
            1 => row.fill(-0.0),
            _ if r.is_multiple_of(2) => row[1] = 0.0,
            _ => {}
        }
    }
    open
}

/// Weights of one width, and low-rank terms on them.
struct Setup {
    weights: Vec<Tensor>,
    /// output, slot, scale, A, B
    terms: Vec<(usize, usize, f32, Tensor, Tensor)>,
    norm: Vec<f32>,
}

impl Setup {
    /// Weights by type and outputs; terms by output, slot, scale, rank and type.
    fn new(
        rng: &mut Rng,
        n_in: usize,
        weights: &[(TensorType, usize)],
        terms: &[(usize, usize, f32, usize, TensorType)],
    ) -> Self {
        let term = |rng: &mut Rng, (output, slot, scale, rank, ty): (usize, usize, f32, usize, TensorType)| {
            let a = tensor(ty, n_in, &random(rng, rank * n_in, 0.1));
            (output, slot, scale, a, tensor(ty, rank, &random(rng, weights[output].1 * rank, 1.0)))
        };
        Self {
            weights: weights.iter().map(|(ty, n)| tensor(*ty, n_in, &random(rng, n * n_in, 0.1))).collect(),
            terms: terms.iter().map(|t| term(rng, *t)).collect(),
            norm: random(rng, n_in, 1.0),
        }
    }

    /// Three types, and terms in three slots: two of them on output 0, none on output 1.
    fn mixed(rng: &mut Rng) -> Self {
        let weights = [(TensorType::Q4_0, 70), (TensorType::Q8_0, 33), (TensorType::Q4_1, 5)];
        let terms =
            [(0, 0, 2.0, 7, TensorType::F32), (2, 1, 0.5, 16, TensorType::F16), (0, 2, -1.5, 3, TensorType::BF16)];
        Self::new(rng, N_IN, &weights, &terms)
    }

    fn terms(&self) -> Vec<Term<'_>> {
        let terms = self.terms.iter();
        terms.map(|(output, slot, scale, a, b)| Term { output: *output, slot: *slot, scale: *scale, a, b }).collect()
    }

    fn ranks(&self) -> usize {
        self.terms.iter().map(|t| t.3.rows()).sum()
    }

    fn normed(&self, x: &[f32]) -> Vec<f32> {
        let scale = 1.0 / (dot(x, x).0 / x.len() as f64 + f64::from(EPS)).sqrt();
        x.iter().zip(&self.norm).map(|(v, w)| (f64::from(*v) * scale * f64::from(*w)) as f32).collect()
    }
}

/// One batch on one backend.
struct Step<'a, B: Adds> {
    b: &'a mut B,
    openings: Vec<f32>,
    outputs: Vec<u32>,
    rows: usize,
}

impl<'a, B: Adds> Step<'a, B> {
    fn new(b: &'a mut B, rng: &mut Rng, rows: usize) -> Self {
        let openings = openings(rng, rows);
        let outputs = if rows > 2 { vec![1, rows as u32 - 1] } else { vec![rows as u32 - 1] };
        let ids: Vec<u32> = (0..rows as u32).collect();
        let span = Span { rows: 0..rows as u32, table: 0..1 };
        let batch = Batch {
            tokens: &ids,
            positions: &ids,
            spans: &[span],
            pages: &[0],
            openings: &openings,
            slots: SLOTS,
            outputs: &outputs,
        };
        b.begin(&batch).unwrap();
        Self { b, openings, outputs, rows }
    }

    fn buf(&mut self, cols: usize, values: &[f32]) -> B::Buf {
        let mut buf = self.b.buf(self.rows, cols).unwrap();
        self.b.upload(&mut buf, values).unwrap();
        buf
    }

    fn values(&mut self, buf: &B::Buf, n: usize) -> Vec<f32> {
        let mut values = vec![f32::NAN; n];
        self.b.download(buf, &mut values).unwrap();
        values
    }

    /// Projects `x` through `setup`: the outputs, and u with three columns to spare.
    fn project(&mut self, setup: &Setup, x: Input<'_, B>, delta: Option<&B::Delta>) -> (Vec<B::Buf>, B::Buf) {
        let fan = self.b.fan(&setup.weights.iter().collect::<Vec<_>>()).unwrap();
        let mut ys: Vec<B::Buf> = setup.weights.iter().map(|w| self.b.buf(self.rows, w.rows()).unwrap()).collect();
        let mut u = self.b.buf(self.rows, setup.ranks() + 3).unwrap();
        let mut outputs: Vec<&mut B::Buf> = ys.iter_mut().collect();
        self.b.project(&mut outputs, &mut u, x, &fan, delta).unwrap();
        (ys, u)
    }

    /// Checks y and u against rows of x; `y_tolerance` is loose where x itself was computed and then quantized.
    fn check(&mut self, what: &str, setup: &Setup, x: &[Vec<f32>], out: &(Vec<B::Buf>, B::Buf), y_tolerance: f64) {
        self.check_outputs(what, setup, x, out, y_tolerance);
        let rows = self.batch_rows(x.len());
        let cols = setup.ranks() + 3;
        let u = self.values(&out.1, x.len() * cols);
        for (i, row) in rows.iter().enumerate() {
            let mut first = 0;
            for (_, slot, scale, a, _) in &setup.terms {
                let factor = f64::from(self.openings[row * SLOTS + slot]) * f64::from(*scale);
                for j in (0..a.rows()).filter(|_| factor != 0.0) {
                    let (value, magnitude) = dot(&row_of(a, j), &x[i]);
                    near(what, u[i * cols + first + j], (value * factor, magnitude * factor.abs()), 1e-5);
                }
                first += a.rows();
            }
        }
    }

    /// The batch's row of each of `n`: all rows, or the outputs'.
    fn batch_rows(&self, n: usize) -> Vec<usize> {
        (0..n).map(|i| if n == self.rows { i } else { self.outputs[i] as usize }).collect()
    }

    /// Checks y alone.
    fn check_outputs(
        &mut self,
        what: &str,
        setup: &Setup,
        x: &[Vec<f32>],
        out: &(Vec<B::Buf>, B::Buf),
        y_tolerance: f64,
    ) {
        let rows = self.batch_rows(x.len());
        for (output, (w, y)) in setup.weights.iter().zip(&out.0).enumerate() {
            let got = self.values(y, x.len() * w.rows());
            for (i, x) in x.iter().enumerate() {
                let rounded = if w.ty.is_quantized() { rounded(x) } else { x.clone() };
                for o in 0..w.rows() {
                    let mut want = dot(&row_of(w, o), &rounded);
                    if B::expands(self.rows) {
                        let (value, magnitude) = self.terms(setup, output, rows[i], o, x);
                        want = (want.0 + value, want.1 + magnitude);
                    }
                    near(what, got[i * w.rows() + o], want, y_tolerance);
                }
            }
        }
    }

    /// What a consumer reads for y, in f64, with the magnitude.
    fn settled(&self, setup: &Setup, output: usize, row: usize, o: usize, x: &[f32], y: f32) -> (f64, f64) {
        let terms = if B::expands(self.rows) { (0.0, 0.0) } else { self.terms(setup, output, row, o, x) };
        (f64::from(y) + terms.0, f64::from(y).abs() + terms.1)
    }

    /// The terms on output `output`, in f64, with the magnitude; those closed in this row are skipped.
    fn terms(&self, setup: &Setup, output: usize, row: usize, o: usize, x: &[f32]) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for (_, slot, scale, a, b) in setup.terms.iter().filter(|t| t.0 == output) {
            let factor = f64::from(self.openings[row * SLOTS + slot]) * f64::from(*scale);
            for (j, b) in row_of(b, o).iter().enumerate().filter(|_| factor != 0.0) {
                let (value, magnitude) = dot(&row_of(a, j), x);
                sum.0 += value * factor * f64::from(*b);
                sum.1 += magnitude * (factor * f64::from(*b)).abs();
            }
        }
        sum
    }
}

fn rows_of(values: &[f32], cols: usize) -> Vec<Vec<f32>> {
    values.chunks_exact(cols).map(<[f32]>::to_vec).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn raw_and_residual<B: Adds>(b: &mut B, rows: usize) {
    let rng = &mut Rng::new(rows as u64);
    let setup = Setup::mixed(rng);
    let delta = b.delta(&setup.terms()).unwrap();
    let mut step = Step::new(b, rng, rows);
    let x = random(rng, rows * N_IN, 4.0);
    let x_buf = step.buf(N_IN, &x);
    let bare = step.project(&setup, Input::Raw(&x_buf), None);
    let out = step.project(&setup, Input::Raw(&x_buf), Some(&delta));
    let x = rows_of(&x, N_IN);
    step.check("raw", &setup, &x, &out, 1e-6);
    for ((w, y), bare) in setup.weights.iter().zip(&out.0).zip(&bare.0) {
        let n = rows * w.rows();
        // Of an expanded y, its closed rows: the first two.
        let n = if B::expands(rows) { n.min(2 * w.rows()) } else { n };
        assert_eq!(bits(&step.values(y, n)), bits(&step.values(bare, n)), "y with and without a valve");
    }
    let n = setup.weights[0].rows();
    let h = random(rng, rows * n, 1.0);
    let mut settled = step.buf(n, &h);
    step.b.add(&mut settled, &out.0[0], Some(Owed { u: &out.1, delta: &delta })).unwrap();
    let (y, settled) = (step.values(&out.0[0], rows * n), step.values(&settled, rows * n));
    for i in 0..rows * n {
        let (row, o) = (i / n, i % n);
        if row < 2 {
            assert_eq!(settled[i].to_bits(), (h[i] + y[i]).to_bits(), "a closed row");
        }
        let (value, magnitude) = step.settled(&setup, 0, row, o, &x[row], y[i]);
        near("residual", settled[i], (value + f64::from(h[i]), magnitude + f64::from(h[i]).abs()), 1e-5);
    }
}

fn normed<B: Adds>(b: &mut B, rows: usize) {
    let rng = &mut Rng::new(100 + rows as u64);
    let setup = Setup::mixed(rng);
    let delta = b.delta(&setup.terms()).unwrap();
    let weight = b.vector(&tensor(TensorType::F32, N_IN, &setup.norm)).unwrap();
    let mut step = Step::new(b, rng, rows);
    let x = random(rng, rows * N_IN, 4.0);
    let x_buf = step.buf(N_IN, &x);
    let x: Vec<_> = x.chunks_exact(N_IN).map(|x| setup.normed(x)).collect();
    let out = step.project(&setup, Input::Normed { x: &x_buf, weight: &weight, eps: EPS }, Some(&delta));
    step.check("normed", &setup, &x, &out, 2e-3);
    let out = step.project(&setup, Input::NormedOutputs { x: &x_buf, weight: &weight, eps: EPS }, Some(&delta));
    let x: Vec<_> = step.outputs.iter().map(|r| x[*r as usize].clone()).collect();
    step.check("normed outputs", &setup, &x, &out, 2e-3);
}

fn gated<B: Adds>(b: &mut B, rows: usize) {
    let rng = &mut Rng::new(200 + rows as u64);
    let first = Setup::new(
        rng,
        64,
        &[(TensorType::Q8_0, N_IN), (TensorType::Q8_0, N_IN)],
        &[(0, 0, 0.5, 5, TensorType::F16), (1, 1, 0.5, 9, TensorType::F16), (0, 2, 0.5, 33, TensorType::F16)],
    );
    let second = Setup::mixed(rng);
    let (gate_up, delta) = (b.delta(&first.terms()).unwrap(), b.delta(&second.terms()).unwrap());
    let mut step = Step::new(b, rng, rows);
    let x = random(rng, rows * 64, 1.0);
    let x_buf = step.buf(64, &x);
    let (ys, u) = step.project(&first, Input::Raw(&x_buf), Some(&gate_up));
    let x = rows_of(&x, 64);
    let (gate, up) = (step.values(&ys[0], rows * N_IN), step.values(&ys[1], rows * N_IN));
    let value = |i: usize| {
        let (row, o) = (i / N_IN, i % N_IN);
        let gate = step.settled(&first, 0, row, o, &x[row], gate[i]).0;
        let up = step.settled(&first, 1, row, o, &x[row], up[i]).0;
        (gate / (1.0 + (-gate).exp()) * up) as f32
    };
    let gated = rows_of(&(0..rows * N_IN).map(value).collect::<Vec<_>>(), N_IN);
    let owed = Owed { u: &u, delta: &gate_up };
    let input = Input::Gated { gate: &ys[0], up: &ys[1], owed: Some(owed) };
    let out = step.project(&second, input, Some(&delta));
    step.check("gated", &second, &gated, &out, 2e-3);
}

/// A weight of `ty` beside one of another type, normed and not.
fn of_type<B: Adds>(b: &mut B, ty: TensorType, rows: usize) {
    let rng = &mut Rng::new(300 + rows as u64);
    let n_in = 768;
    let terms = [(0, 1, 0.5, 5, TensorType::F16)];
    let setup = Setup::new(rng, n_in, &[(ty, 37), (TensorType::Q8_0, 5)], &terms);
    let delta = b.delta(&setup.terms()).unwrap();
    let weight = b.vector(&tensor(TensorType::F32, n_in, &setup.norm)).unwrap();
    let mut step = Step::new(b, rng, rows);
    let x = random(rng, rows * n_in, 4.0);
    let x_buf = step.buf(n_in, &x);
    let x = rows_of(&x, n_in);
    for delta in [None, Some(&delta)] {
        let out = step.project(&setup, Input::Raw(&x_buf), delta);
        if delta.is_some() || !B::expands(rows) {
            step.check_outputs(&format!("{ty}, {rows} rows"), &setup, &x, &out, 1e-6);
        }
    }
    let out = step.project(&setup, Input::Normed { x: &x_buf, weight: &weight, eps: EPS }, Some(&delta));
    let x: Vec<_> = x.iter().map(|x| setup.normed(x)).collect();
    step.check(&format!("{ty} normed"), &setup, &x, &out, 2e-3);
}

fn all<B: Adds>(b: &mut B) {
    for ty in ALL_TYPES {
        for rows in [1, 2, 4, 9] {
            of_type(b, ty, rows);
        }
    }
    for rows in [1, 2, 3, 5, 8, 9, 40, 70] {
        raw_and_residual(b, rows);
        normed(b, rows);
        gated(b, rows);
    }
}

#[test]
fn the_cpu_backend_meets_this_truth() {
    all(&mut Cpu::new(1, Precision::Int8).unwrap());
}

#[test]
fn on_a_device_projections_meet_the_truth() {
    let Some(mut cuda) = device() else { return };
    all(&mut cuda);
}

/// A closed row keeps the bits of no valve beside rows whose A·x overflows; and what a projection launches.
#[test]
fn on_a_device_a_closed_row_is_untouched_and_a_valve_adds_a_launch_to_many_rows_alone() {
    let Some(mut cuda) = device() else { return };
    let rng = &mut Rng::new(7);
    let mut setup = Setup::new(rng, N_IN, &[(TensorType::Q4_0, 70)], &[(0, 0, 1.0, 4, TensorType::F32)]);
    setup.terms[0].3 = tensor(TensorType::F32, N_IN, &vec![3e38; 4 * N_IN]);
    let delta = cuda.delta(&setup.terms()).unwrap();
    for (rows, launches) in [(4, 2), (12, 3)] {
        let mut step = Step::new(&mut cuda, rng, rows);
        let x_buf = step.buf(N_IN, &vec![2.0; rows * N_IN]);
        let before = step.b.launches();
        let bare = step.project(&setup, Input::Raw(&x_buf), None);
        let between = step.b.launches();
        let out = step.project(&setup, Input::Raw(&x_buf), Some(&delta));
        let got = (between - before, step.b.launches() - between);
        assert_eq!(got, (2, launches), "launches of {rows} rows without and with a valve");
        let (y, bare_y) = (step.values(&out.0[0], rows * 70), step.values(&bare.0[0], rows * 70));
        let same = if Cuda::expands(rows) { 2 * 70 } else { rows * 70 };
        assert_eq!(bits(&y[..same]), bits(&bare_y[..same]));
        let mut h = step.buf(70, &vec![0.25; rows * 70]);
        step.b.add(&mut h, &out.0[0], Some(Owed { u: &out.1, delta: &delta })).unwrap();
        let h = step.values(&h, rows * 70);
        for (i, h) in h.iter().enumerate() {
            if i / 70 < 2 {
                assert_eq!(h.to_bits(), (0.25 + y[i]).to_bits(), "closed row {}", i / 70);
            } else {
                assert!(!h.is_finite(), "open row {}", i / 70);
            }
        }
    }
}

#[test]
fn on_a_device_shapes_that_do_not_fit_are_refused() {
    let Some(mut cuda) = device() else { return };
    let rng = &mut Rng::new(8);
    let setup = Setup::mixed(rng);
    let odd = tensor(TensorType::F16, 40, &random(rng, 40, 1.0));
    assert!(cuda.fan(&[&odd]).is_err_and(|e| e.to_string().contains("f16 and 40 inputs")));
    let fan = cuda.fan(&[&setup.weights[0]]).unwrap();
    let step = Step::new(&mut cuda, rng, 2);
    let (mut narrow, mut u) = (step.b.buf(2, 69).unwrap(), step.b.buf(2, 1).unwrap());
    let x = step.b.buf(2, N_IN).unwrap();
    assert!(step.b.project(&mut [&mut narrow], &mut u, Input::Raw(&x), &fan, None).is_err());
    let mut y = step.b.buf(2, 70).unwrap();
    let short = step.b.buf(1, N_IN).unwrap();
    assert!(step.b.project(&mut [&mut y], &mut u, Input::Raw(&short), &fan, None).is_err());
    let delta = step.b.delta(&setup.terms()).unwrap();
    assert!(step.b.project(&mut [&mut y], &mut u, Input::Raw(&x), &fan, Some(&delta)).is_err());
}

/// How often all tests together open a device.
const DEVICES_OPENED: usize = 37;

/// The tests above again, in a process of its own that finds the emulated driver, in both orders of lanes.
#[test]
fn the_backend_meets_the_truth_over_the_emulated_driver() {
    if !cuda_cxx::emulates() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    cuda_cxx::compile("emulation/driver.cpp", &folder.path().join("libcuda.so"), &["-shared", "-fPIC"]);
    for reverse in [false, true] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["on_a_device", "--nocapture"]).env("LD_LIBRARY_PATH", folder.path());
        if reverse {
            command.env("CUDA_EMU_REV", "1");
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "reverse {reverse}: {text}{}", String::from_utf8_lossy(&output.stderr));
        let opened = text.matches("on emulated device").count();
        assert_eq!(opened, DEVICES_OPENED, "reverse {reverse}: {text}");
    }
}
