//! An operation, its shapes and its numbers, chosen by the bytes: the CPU and the adapter must say
//! the same.

use wgpu_attention::{
    Device, Mask, Result, Tensor,
    ops::{
        Activation, AttentionMemory, Bias, BiasKernel, BiasTerm, Direction, Distance, FeatureMap, Form, Layout, Linear,
        LinearAttention, Lsam, Lstm, Map, Normalizer, Probabilities, RollingAttention, ScanAttention, add,
        attention_memory, concat, geglu, layer_norm, linear, lsam, lstm, map, merge_attention, scan_attention,
        unit_norm,
    },
};

use crate::targets::adapter;

/// Bytes as choices; zeros when they end.
#[derive(Clone)]
struct Choices<'a> {
    bytes: &'a [u8],
    seed: u32,
}

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn below(&mut self, n: usize) -> usize {
        self.byte() as usize % n
    }

    /// A length, from nothing to some beyond a tile.
    fn length(&mut self) -> usize {
        [0, 1, 2, 3, 5, 7, 8, 16, 31, 33, 64, 65, 70][self.below(13)]
    }

    fn number(&mut self) -> f32 {
        self.seed = self.seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let bits = (self.seed >> ((self.seed >> 28) + 4)) ^ self.seed;
        (bits >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Numbers of -1 to 1, of which one may be something else.
    fn tensor(&mut self, device: &Device, shape: &[usize]) -> Result<Tensor> {
        let len = shape.iter().product();
        let mut numbers: Vec<f32> = (0..len).map(|_| self.number()).collect();
        const ODD: [f32; 8] = [0.0, 1e-40, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 30.0, -30.0, 1.0];
        let (odd, at) = (self.below(16), self.below(256));
        if let (Some(&odd), Some(number)) = (ODD.get(odd), numbers.get_mut(at)) {
            *number = odd;
        }
        Tensor::new(device, shape, &numbers)
    }

    fn layer(&mut self, device: &Device, n_in: usize, n_out: usize) -> Result<Linear> {
        let bias = self.below(2) == 0;
        let weight = self.tensor(device, &[n_in, n_out])?;
        Ok(Linear { weight, bias: if bias { Some(self.tensor(device, &[n_out])?) } else { None } })
    }

    fn layout(&mut self, n_heads: usize) -> Layout {
        if self.below(2) == 0 { Layout::HeadMajor } else { Layout::Projected { n_heads } }
    }

    fn rows(&mut self, device: &Device, layout: Layout, [batch, heads, n, dim]: [usize; 4]) -> Result<Tensor> {
        match layout {
            Layout::HeadMajor => self.tensor(device, &[batch, heads, n, dim]),
            _ => self.tensor(device, &[batch, n, heads * dim]),
        }
    }

    fn mask(&mut self, device: &Device, batch: usize, n: usize) -> Result<Option<Mask>> {
        if self.below(2) == 0 {
            return Ok(None);
        }
        let keep: Vec<bool> = (0..batch * n).map(|_| self.number() > -0.4).collect();
        Mask::new(device, &[batch, n], &keep).map(Some)
    }
}

/// Two heads or so, of which a query has as many numbers as a key.
fn attention(of: &mut Choices<'_>, device: &Device, kind: usize) -> Result<Vec<Tensor>> {
    let (batch, heads) = (1 + of.below(2), 1 + of.below(3));
    let (n, n_keys, dim, v_dim) = (of.length(), of.length(), 1 + of.below(40), 1 + of.below(40));
    let layout = of.layout(heads);
    let q = of.rows(device, layout, [batch, heads, n, dim])?;
    let k = of.rows(device, layout, [batch, heads, n_keys, dim])?;
    let v = of.rows(device, layout, [batch, heads, n_keys, v_dim])?;
    let mask = of.mask(device, batch, n_keys)?;
    match kind {
        0 => {
            let distance = [Distance::Euclidean, Distance::GreatCircle, Distance::CausalTime][of.below(3)];
            let kernel = BiasKernel::ALL[of.below(BiasKernel::ALL.len())];
            let columns = if distance == Distance::CausalTime { 0..1 } else { 0..2 };
            let parameters = [vec![0.5; heads], vec![0.3; heads], vec![0.1; heads]];
            let parameters: Vec<&[f32]> = parameters.iter().map(|p| &p[..]).take(kernel.parameters().len()).collect();
            let terms = [BiasTerm::built_in(columns, distance, kernel, &parameters)];
            let (here, there) = (of.tensor(device, &[batch, n, 2])?, of.tensor(device, &[batch, n_keys, 2])?);
            let mut options = ScanAttention::new(layout);
            if of.below(2) == 0 {
                options = options.bias(Bias::new(&here, &there, &terms));
            }
            options.key_mask = mask.as_ref();
            options.n_splits = (of.below(3) == 0).then_some(1 + of.below(4));
            scan_attention(&q, &k, &v, &options).map(|read| vec![read.values, read.log_sum_exp])
        }
        1 => {
            let normalizer =
                [Normalizer::None, Normalizer::KeyCount, Normalizer::FeatureSum { floor: 1e-6 }][of.below(3)];
            let memory = LinearAttention::new(layout, FeatureMap::identity(0.5), normalizer);
            let state = memory.write(None, &k, &v, mask.as_ref())?;
            Ok(vec![memory.read(&q, &state.merge(&state)?)?.values])
        }
        2 => {
            let memory = RollingAttention::new(layout, q);
            let state = memory.write(None, &k, &v, mask.as_ref())?;
            let read = memory.read(&memory.write(Some(&state), &k, &v, None)?)?;
            Ok([Some(read.values), read.log_sum_exp].into_iter().flatten().collect())
        }
        _ => {
            let form = [Form::Recurrent, Form::Chunked][of.below(2)];
            let (k, q) = (of.rows(device, layout, [batch, heads, n_keys, dim])?, k);
            let p = of.rows(device, layout, [batch, heads, n_keys, 1])?;
            let p = Probabilities::sigmoid(&p)?;
            let k = match layout {
                Layout::HeadMajor => unit_norm(&k)?,
                _ => unit_norm(&k.reshape(&[batch, n_keys, heads, dim])?)?.reshape(k.shape())?,
            };
            let mut memory = AttentionMemory::new(layout).form(form);
            memory.p_erase = (of.below(2) == 0).then_some(&p);
            memory.p_write = (of.below(2) == 0).then_some(&p);
            let (values, state) = attention_memory(&q, &k, &v, &memory).map(|recall| (recall.values, recall.state))?;
            Ok(vec![values, state.memory])
        }
    }
}

fn run(mut of: Choices<'_>, device: &Device) -> Result<Vec<Tensor>> {
    let kind = of.below(13);
    if kind < 4 {
        return attention(&mut of, device, kind);
    }
    let (rows, width, n_out) = (of.length(), 1 + of.below(70), 1 + of.below(70));
    let x = of.tensor(device, &[rows, width])?;
    let one = match kind {
        4 => {
            let all = [Activation::None, Activation::Relu, Activation::GeluTanh, Activation::GeluErf];
            linear(&x, &of.layer(device, width, n_out)?, all[of.below(4)], None)
        }
        5 => layer_norm(&x, &of.tensor(device, &[width])?, &of.tensor(device, &[width])?, 0.1, None),
        6 => unit_norm(&x),
        7 => map(&x, Map::ALL[of.below(Map::ALL.len())]),
        8 => add(&x, &of.tensor(device, &[width])?, 0.5),
        9 => concat(&x, width / 3..width, &of.tensor(device, &[rows, n_out])?),
        10 => geglu(&x),
        11 => merge_attention(&x, &of.tensor(device, &[rows, 1])?).map(|merged| merged.values),
        _ => {
            let dim = 2 * (1 + of.below(6));
            // Weights like these make many steps chaotic, and of rounding anything.
            let x = of.tensor(device, &[1, rows.min(8), width])?;
            return if of.below(2) == 0 {
                let cell =
                    Lstm { input: of.layer(device, width, 4 * dim)?, hidden: of.tensor(device, &[dim, 4 * dim])? };
                lstm(&x, &cell, None).map(|output| vec![output.values])
            } else {
                let n = 3 * dim + 4;
                let cell =
                    Lsam { n_heads: 2, input: of.layer(device, width, n)?, hidden: of.tensor(device, &[dim, n])? };
                lsam(&x, &cell, None, Direction::Forward).map(|output| vec![output.values])
            };
        }
    };
    one.map(|y| vec![y])
}

/// The CPU and the adapter refuse the same, and compute the same: NaN where the other has it, and
/// numbers within 1e-3 of the largest, which allows for what a recurrence of eight steps amplifies.
pub fn operation(data: &[u8]) {
    let choices =
        Choices { bytes: data, seed: data.iter().fold(1, |seed: u32, byte| seed * 31 % 65_521 + u32::from(*byte)) };
    let read =
        |device: &Device| -> Result<Vec<Vec<f32>>> { run(choices.clone(), device)?.iter().map(Tensor::read).collect() };
    let (cpu, gpu) = (read(&Device::cpu()), read(adapter()));
    let (cpu, gpu) = match (cpu, gpu) {
        (Ok(cpu), Ok(gpu)) => (cpu, gpu),
        (Err(_), Err(_)) => return,
        (cpu, gpu) => panic!("the CPU says {:?}, the adapter {:?}", cpu.err(), gpu.err()),
    };
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert_eq!(cpu.len(), gpu.len());
        let largest = cpu.iter().filter(|x| x.abs() < 1e30).fold(1.0f32, |largest, x| largest.max(x.abs()));
        for (i, (a, b)) in cpu.iter().zip(gpu).enumerate() {
            let same = a.is_nan() && b.is_nan() || a == b || (a - b).abs() <= 1e-3 * largest;
            assert!(same, "number {i} is {b}, on the CPU {a}");
        }
    }
}
