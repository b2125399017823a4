//! Every weight type: its embedding bit for bit, and one output's bits in every variant of its matvec.

use super::model::ALL_TYPES;
use super::{bits, device, random, row_of, tensor};
use cotvalve::backend::{Backend, Batch, Input, Linear, Span};
use cotvalve::cuda::Cuda;
use cotvalve::rng::Rng;
use cotvalve::tensor::{Tensor, TensorType};

const N_IN: usize = 768;
/// One, two and four outputs a warp, where the device has two multiprocessors.
const N_OUTS: [usize; 3] = [37, 70, 130];

fn begin(cuda: &mut Cuda, tokens: &[u32]) {
    let rows = tokens.len() as u32;
    let positions: Vec<u32> = (0..rows).collect();
    let spans = [Span { rows: 0..rows, table: 0..1 }];
    let (spans, pages) = (&spans[..], &[0][..]);
    let batch = Batch { tokens, positions: &positions, spans, pages, openings: &[], slots: 0, outputs: &[] };
    cuda.begin(&batch).unwrap();
}

/// The first `n_out` outputs of `w`.
fn first(w: &Tensor, n_out: usize) -> Tensor {
    Tensor { dims: vec![N_IN, n_out], data: w.data[..n_out * w.row_bytes()].to_vec().into(), ..w.clone() }
}

fn outputs(cuda: &mut Cuda, w: &Tensor, x: &[f32]) -> Vec<f32> {
    let rows = x.len() / N_IN;
    let fan = cuda.fan(&[w]).unwrap();
    let (mut x_buf, mut y) = (cuda.buf(rows, N_IN).unwrap(), cuda.buf(rows, w.rows()).unwrap());
    let mut u = cuda.buf(0, 0).unwrap();
    cuda.upload(&mut x_buf, x).unwrap();
    cuda.project(&mut [&mut y], &mut u, Input::Raw(&x_buf), &fan, None).unwrap();
    let mut values = vec![f32::NAN; rows * w.rows()];
    cuda.download(&y, &mut values).unwrap();
    values
}

fn matrix(rng: &mut Rng, ty: TensorType, rows: usize) -> Tensor {
    tensor(ty, N_IN, &random(rng, rows * N_IN, 0.1))
}

#[test]
fn on_a_device_an_outputs_bits_are_the_same_in_every_variant() {
    let Some(mut cuda) = device() else { return };
    let rng = &mut Rng::new(11);
    for ty in ALL_TYPES {
        let w = matrix(rng, ty, 130);
        let x = random(rng, 8 * N_IN, 4.0);
        let all: Vec<Vec<f32>> = [1, 2, 4, 8]
            .into_iter()
            .flat_map(|rows| N_OUTS.map(|n_out| (rows, n_out)))
            .map(|(rows, n_out)| {
                begin(&mut cuda, &vec![0; rows]);
                let y = outputs(&mut cuda, &first(&w, n_out), &x[..rows * N_IN]);
                y[..N_OUTS[0]].to_vec()
            })
            .collect();
        assert!(all.iter().all(|y| bits(y) == bits(&all[0])), "{ty}: the first row's outputs");
        assert!(all[0].iter().all(|y| y.is_finite() && *y != 0.0), "{ty}");
    }
}

#[test]
fn on_a_device_an_embedding_has_the_bits_of_its_file() {
    let Some(mut cuda) = device() else { return };
    let rng = &mut Rng::new(12);
    for ty in ALL_TYPES {
        let table = matrix(rng, ty, 9);
        let tokens = [8, 0, 5];
        begin(&mut cuda, &tokens);
        let fan = cuda.fan(&[&table]).unwrap();
        let mut h = cuda.buf(3, N_IN).unwrap();
        cuda.embed(&mut h, &fan).unwrap();
        let mut values = vec![f32::NAN; 3 * N_IN];
        cuda.download(&h, &mut values).unwrap();
        let want: Vec<f32> = tokens.iter().flat_map(|token| row_of(&table, *token as usize)).collect();
        assert_eq!(bits(&values), bits(&want), "{ty}");
    }
}

#[test]
fn on_a_device_a_weight_of_any_number_of_upload_buffers_arrives_whole() {
    const COLS: usize = 32;
    const BUFFER_ROWS: usize = (4 << 20) / (COLS * 4);
    let Some(mut cuda) = device() else { return };
    for rows in [1, BUFFER_ROWS - 1, BUFFER_ROWS, BUFFER_ROWS + 1, 2 * BUFFER_ROWS + 1, 3 * BUFFER_ROWS - 1] {
        let value = |i: usize| i as f32 + 0.5;
        let data: Vec<u8> = (0..rows * COLS).flat_map(|i| value(i).to_le_bytes()).collect();
        let table = Tensor { name: "t".into(), ty: TensorType::F32, dims: vec![COLS, rows], data: data.into() };
        let edges = (0..4).flat_map(|b| (b * BUFFER_ROWS).saturating_sub(2)..b * BUFFER_ROWS + 2);
        let tokens: Vec<u32> =
            edges.chain((0..rows).step_by(997)).chain([rows - 1]).filter(|r| *r < rows).map(|r| r as u32).collect();
        begin(&mut cuda, &tokens);
        let fan = cuda.fan(&[&table]).unwrap();
        let mut h = cuda.buf(tokens.len(), COLS).unwrap();
        cuda.embed(&mut h, &fan).unwrap();
        let mut values = vec![f32::NAN; tokens.len() * COLS];
        cuda.download(&h, &mut values).unwrap();
        let want: Vec<f32> = tokens.iter().flat_map(|t| (0..COLS).map(|c| value(*t as usize * COLS + c))).collect();
        assert_eq!(bits(&values), bits(&want), "{rows} rows");
    }
}
