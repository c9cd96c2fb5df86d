//! Calls of every operation at a few sizes, with what they compute and move: for `cargo bench --bench
//! gpu` and `cargo run --example tune`.

use wgpu_attention::{
    DType, Device, Result, Tensor,
    device::Decision,
    ops::{
        Activation, AttentionMemory, Bias, BiasTerm, Direction, FeatureKind, FeatureMap, HeadMoves, Layout, Linear,
        LinearAttention, Lsam, Lstm, Normalizer, Probabilities, ProjectionRows, ScanAttention, TapeInputs, TapeOptions,
        add, attention_memory, feature_map, geglu, layer_norm, linear, lsam, lstm, merge_attention, random_features,
        relu, scan_attention, tape, unit_norm,
    },
};

use crate::numbers;

/// One call, of sizes that are given.
pub struct Case {
    /// The operation, as [`wgpu_attention::device::variants`] names it.
    pub operation: &'static str,
    /// Its sizes, in words.
    pub sizes: String,
    /// Floating-point operations that it cannot do without: a product and a sum are two.
    pub flops: f64,
    /// Bytes that it cannot do without: each operand once.
    pub bytes: f64,
    make: Make,
}

type Make = Box<dyn Fn(&Device) -> Result<Prepared>>;

/// A call whose operands are on a device.
pub struct Prepared {
    /// Runs it, or records it.
    pub run: Box<dyn Fn() -> Result<Tensor>>,
    /// How it runs, of an operation that says so.
    pub decision: Option<Decision>,
}

impl Case {
    fn new(
        operation: &'static str,
        sizes: impl Into<String>,
        [flops, numbers]: [usize; 2],
        make: impl Fn(&Device) -> Result<Prepared> + 'static,
    ) -> Self {
        let (flops, bytes) = (flops as f64, 4.0 * numbers as f64);
        Self { operation, sizes: sizes.into(), flops, bytes, make: Box::new(make) }
    }

    /// Uploads its operands.
    ///
    /// # Errors
    /// The device has no room, or refuses the variant that was asked for.
    pub fn prepare(&self, device: &Device) -> Result<Prepared> {
        (self.make)(device)
    }
}

fn prepared(decision: Option<Decision>, run: impl Fn() -> Result<Tensor> + 'static) -> Result<Prepared> {
    Ok(Prepared { run: Box::new(run), decision })
}

fn tensor(device: &Device, shape: &[usize]) -> Result<Tensor> {
    Tensor::new(device, shape, &numbers(shape.iter().product()))
}

fn dense(device: &Device, n_in: usize, n_out: usize) -> Result<Linear> {
    Ok(Linear { weight: tensor(device, &[n_in, n_out])?, bias: Some(tensor(device, &[n_out])?) })
}

/// Every operation; `is_quick` takes sizes for a processor that plays a GPU.
pub fn cases(is_quick: bool) -> Vec<Case> {
    let mut all = Vec::new();
    scan(&mut all, is_quick);
    dense_layers(&mut all, is_quick);
    linear_memories(&mut all, is_quick);
    memories(&mut all, is_quick);
    recurrences(&mut all, is_quick);
    rows(&mut all, is_quick);
    all
}

fn scan(all: &mut Vec<Case>, is_quick: bool) {
    const HEADS: usize = 4;
    // 4,096 queries are as many as those of PyTorch's and JAX's times; 16,384 fill a large GPU.
    let sizes: &[[usize; 2]] = if is_quick {
        &[[128, 32]]
    } else {
        &[[4096, 16], [4096, 32], [4096, 64], [4096, 128], [16_384, 32], [16_384, 64], [16_384, 128]]
    };
    for &[n, dim] in sizes {
        for n_bases in [0, 5] {
            let bias = if n_bases > 0 { ", RBF bias" } else { "" };
            let work = [4 * HEADS * n * n * dim, 4 * HEADS * n * dim];
            let sizes = format!("{HEADS} heads of {dim}, {n} x {n}{bias}");
            all.push(Case::new("scan_attention", sizes, work, move |device| {
                let (t, coords) = (tensor(device, &[1, HEADS, n, dim])?, tensor(device, &[1, n, 2])?);
                let b = [0.3, 1.0, 2.0, 4.0, 8.0].repeat(HEADS);
                let rbf = (n_bases > 0).then(|| BiasTerm::rbf(0..2, &numbers(5 * HEADS), &b));
                let terms: Vec<BiasTerm> = rbf.into_iter().collect();
                let decision = biased(&coords, &terms).decision(&t, &t, &t)?;
                prepared(Some(decision), move || Ok(scan_attention(&t, &t, &t, &biased(&coords, &terms))?.values))
            }));
        }
    }
    // Few queries: as fast as keys and values can be read.
    let n = if is_quick { 256 } else { 131_072 };
    for (n_queries, dim, dtype) in
        [(1, 64, DType::F32), (1, 64, DType::F16), (8, 64, DType::F32), (1, 128, DType::F32), (8, 128, DType::F16)]
    {
        let (name, bytes) = if dtype == DType::F16 { (", keys and values of f16", 2) } else { ("", 4) };
        let work = [4 * HEADS * n_queries * n * dim, HEADS * (2 * n * bytes / 4 + 2 * n_queries) * dim];
        let sizes = format!("{HEADS} heads of {dim}, {n_queries} x {n}{name}");
        all.push(Case::new("scan_attention", sizes, work, move |device| {
            let q = tensor(device, &[1, HEADS, n_queries, dim])?;
            let kv = [tensor(device, &[1, HEADS, n, dim])?, tensor(device, &[1, HEADS, n, dim])?];
            let [k, v] = if dtype == DType::F16 { [kv[0].to_f16()?, kv[1].to_f16()?] } else { kv };
            let options = ScanAttention::new(Layout::HeadMajor);
            let decision = options.decision(&q, &k, &v)?;
            prepared(Some(decision), move || Ok(scan_attention(&q, &k, &v, &options)?.values))
        }));
    }

    fn biased<'a>(coords: &'a Tensor, terms: &'a [BiasTerm]) -> ScanAttention<'a> {
        let mut options = ScanAttention::new(Layout::HeadMajor);
        options.bias = (!terms.is_empty()).then(|| Bias::new(coords, coords, terms));
        options
    }
}

fn dense_layers(all: &mut Vec<Case>, is_quick: bool) {
    let sizes: &[[usize; 3]] = if is_quick {
        &[[256, 64, 64]]
    } else {
        &[[65_536, 64, 64], [65_536, 64, 256], [16_384, 512, 512], [4096, 1024, 4096], [128, 256, 256]]
    };
    for &[rows, n_in, n_out] in sizes {
        let work = [2 * rows * n_in * n_out, rows * (n_in + n_out) + n_in * n_out];
        all.push(Case::new("linear", format!("{rows} x {n_in} to {n_out}"), work, move |device| {
            let (x, layer) = (tensor(device, &[rows, n_in])?, dense(device, n_in, n_out)?);
            prepared(Some(layer.decision(&x)?), move || linear(&x, &layer, Activation::Relu, None))
        }));
    }
    let [rows, n_in, n_out] = if is_quick { [16, 64, 64] } else { [16, 4096, 16_384] };
    let work = [2 * rows * n_in * n_out, rows * (n_in + n_out) + n_in * n_out / 2];
    let sizes = format!("{rows} x {n_in} to {n_out}, weights of f16");
    all.push(Case::new("linear", sizes, work, move |device| {
        let (x, mut layer) = (tensor(device, &[rows, n_in])?, dense(device, n_in, n_out)?);
        layer.weight = layer.weight.to_f16()?;
        prepared(Some(layer.decision(&x)?), move || linear(&x, &layer, Activation::Relu, None))
    }));
}

fn linear_memories(all: &mut Vec<Case>, is_quick: bool) {
    let n = if is_quick { 256 } else { 65_536 };
    // Heads, numbers of a head, features, columns of the values.
    let sizes =
        [("deep kernel", [1, 128, 128, 64]), ("Performer", [4, 32, 128, 32]), ("softmax features", [4, 32, 128, 32])];
    for (name, [heads, dim, features, columns]) in sizes {
        let is_projected = name != "deep kernel";
        let make = move |device: &Device| -> Result<_> {
            let layout = Layout::Projected { n_heads: heads };
            let projection = || random_features(device, 0, features, dim, ProjectionRows::Orthogonal);
            let attention = match name {
                "deep kernel" => LinearAttention::new(layout, FeatureMap::identity(1.0), Normalizer::None),
                // Stable: scan attention over the rows of the projection.
                "Performer" => LinearAttention::favor(layout, projection()?),
                _ => {
                    let normalizer = Normalizer::FeatureSum { floor: 1e-6 };
                    LinearAttention::new(layout, FeatureMap::softmax(projection()?), normalizer)
                }
            };
            Ok((attention, tensor(device, &[1, n, heads * dim])?, tensor(device, &[1, n, heads * columns])?))
        };
        let of_features = if is_projected { 2 * dim * features } else { 0 };
        let state = heads * features * (columns + usize::from(is_projected));
        let work = [heads * n * (2 * features * columns + of_features), heads * n * (dim + columns) + state];
        let sizes = |what: &str| format!("{what}, {name}, {heads} heads of {features} x {columns}, {n} tokens");
        all.push(Case::new("linear_attention", sizes("write"), work, move |device| {
            let (attention, k, v) = make(device)?;
            let decision = attention.decision(&k, &v)?;
            prepared(Some(decision), move || Ok(attention.write(None, &k, &v, None)?.sums))
        }));
        all.push(Case::new("linear_attention", sizes("read"), work, move |device| {
            let (attention, k, v) = make(device)?;
            let state = attention.write(None, &k, &v, None)?;
            prepared(None, move || Ok(attention.read(&k, &state)?.values))
        }));
    }
}

fn memories(all: &mut Vec<Case>, is_quick: bool) {
    const HEADS: usize = 8;
    let sizes: &[[usize; 2]] = if is_quick { &[[128, 16]] } else { &[[64, 64], [1024, 32], [4096, 64], [4096, 128]] };
    for &[n, dim] in sizes {
        for erases in [false, true] {
            // Written, read, and read again to be erased.
            let work = [HEADS * n * dim * dim * if erases { 6 } else { 4 }, 4 * HEADS * n * dim];
            let what = if erases { ", with erase" } else { "" };
            all.push(Case::new(
                "attention_memory",
                format!("{HEADS} heads of {dim}, {n} steps{what}"),
                work,
                move |device| {
                    let flat = unit_norm(&tensor(device, &[n * HEADS, dim])?)?;
                    let (k, v) = (flat.reshape(&[1, n, HEADS * dim])?, tensor(device, &[1, n, HEADS * dim])?);
                    let p: Vec<f32> = numbers(n * HEADS).iter().map(|x| 0.5 + 0.5 * x).collect();
                    let p = Probabilities::new(device, &[1, n, HEADS], &p)?;
                    let decision = options(&p, erases).decision(&k, &v)?;
                    prepared(Some(decision), move || Ok(attention_memory(&k, &k, &v, &options(&p, erases))?.values))
                },
            ));
        }
    }

    fn options(p: &Probabilities, erases: bool) -> AttentionMemory<'_> {
        let options = AttentionMemory::new(Layout::Projected { n_heads: HEADS }).p_write(p);
        if erases { options.p_erase(p) } else { options }
    }
}

fn recurrences(all: &mut Vec<Case>, is_quick: bool) {
    let sizes: &[[usize; 3]] = if is_quick {
        &[[1, 8, 64]]
    } else {
        &[[1, 256, 64], [1, 256, 256], [1, 64, 1024], [64, 64, 512], [256, 16, 256]]
    };
    for &[batch, n, hidden] in sizes {
        let work = [batch * n * hidden * 8 * hidden, batch * n * 5 * hidden + 4 * hidden * hidden];
        all.push(Case::new("lstm", format!("{batch} x {n} steps of {hidden}"), work, move |device| {
            let layer = Lstm { input: dense(device, 1, 4 * hidden)?, hidden: tensor(device, &[hidden, 4 * hidden])? };
            let x = tensor(device, &[batch, n, 1])?;
            prepared(Some(layer.decision(&x)?), move || Ok(lstm(&x, &layer, None)?.values))
        }));
    }
    let sizes: &[[usize; 4]] =
        if is_quick { &[[1, 8, 2, 16]] } else { &[[1, 256, 4, 16], [1, 64, 8, 64], [1, 64, 8, 128], [64, 16, 8, 64]] };
    for &[batch, n, n_heads, dim] in sizes {
        let d_model = n_heads * dim;
        let width = 3 * d_model + 2 * n_heads;
        let work = [
            batch * n * d_model * (2 * width + 6 * dim),
            batch * n * (width + d_model) + d_model * (width + batch * dim),
        ];
        all.push(Case::new("lsam", format!("{batch} x {n} steps, {n_heads} heads of {dim}"), work, move |device| {
            let layer = Lsam { n_heads, input: dense(device, 1, width)?, hidden: tensor(device, &[d_model, width])? };
            let x = tensor(device, &[batch, n, 1])?;
            prepared(Some(layer.decision(&x)?), move || Ok(lsam(&x, &layer, None, Direction::Forward)?.values))
        }));
    }
    let sizes: &[[usize; 4]] = if is_quick { &[[1, 8, 8, 8]] } else { &[[1, 256, 32, 16], [64, 64, 32, 128]] };
    for &[batch, n, slots, mem] in sizes {
        let numbers = batch * (n * (2 * mem + HeadMoves::NoJump.n_actions()) + slots * (mem + 2));
        let work = [batch * n * 6 * slots * mem, numbers];
        all.push(Case::new("tape", format!("{batch} x {n} steps of {slots} x {mem}"), work, move |device| {
            let value = tensor(device, &[batch, n, mem])?;
            let action = tensor(device, &[batch, n, HeadMoves::NoJump.n_actions()])?;
            let options = TapeOptions { heads: HeadMoves::NoJump, ..TapeOptions::default() };
            let inputs =
                TapeInputs { value: &value, key: None, query: None, action: &action, n_tapes: 1, tape_length: slots };
            let decision = inputs.decision(options)?;
            prepared(Some(decision), move || {
                let inputs = TapeInputs {
                    value: &value,
                    key: None,
                    query: None,
                    action: &action,
                    n_tapes: 1,
                    tape_length: slots,
                };
                Ok(tape(&inputs, options, None)?.values)
            })
        }));
    }
}

/// What takes rows or numbers one by one, and is bound by memory.
fn rows(all: &mut Vec<Case>, is_quick: bool) {
    let (n, width) = if is_quick { (64, 64) } else { (262_144, 64) };
    let len = n * width;
    let sizes = format!("{n} x {width}");
    all.push(Case::new("layer_norm", sizes.clone(), [8 * len, 2 * len], move |device| {
        let (x, scale) = (tensor(device, &[n, width])?, tensor(device, &[width])?);
        prepared(None, move || layer_norm(&x, &scale, &scale, 1e-6, None))
    }));
    all.push(Case::new("unit_norm", sizes.clone(), [3 * len, 2 * len], move |device| {
        let x = tensor(device, &[n, width])?;
        prepared(None, move || unit_norm(&x))
    }));
    all.push(Case::new("elementwise", format!("relu, {sizes}"), [len, 2 * len], move |device| {
        let x = tensor(device, &[n, width])?;
        prepared(None, move || relu(&x))
    }));
    // What a call takes that has nothing to do.
    all.push(Case::new("elementwise", "relu, 1 x 64", [64, 128], move |device| {
        let x = tensor(device, &[1, 64])?;
        prepared(None, move || relu(&x))
    }));
    all.push(Case::new("elementwise", format!("sum, {sizes}"), [2 * len, 3 * len], move |device| {
        let x = [tensor(device, &[n, width])?, tensor(device, &[n, width])?];
        prepared(None, move || add(&x[0], &x[1], 1.0))
    }));
    all.push(Case::new("elementwise", format!("geglu, {sizes}"), [10 * len, 3 * len / 2], move |device| {
        let x = tensor(device, &[n, width])?;
        prepared(None, move || geglu(&x))
    }));
    let (rows, features) = (n / 16, 128);
    let work = [rows * 2 * width * features, rows * (width + features)];
    all.push(Case::new("feature_map", format!("{rows} x {width} to {features}"), work, move |device| {
        let x = tensor(device, &[rows, width])?;
        let projection = random_features(device, 0, features, width, ProjectionRows::Independent)?;
        let map = FeatureMap { kind: FeatureKind::Relu, projection: Some(projection), scale: 1.0 };
        prepared(None, move || feature_map(&x, &map))
    }));
    let (parts, outer) = (16, n / 16);
    all.push(Case::new(
        "merge_attention",
        format!("{parts} parts of {outer} x {width}"),
        [3 * len, len],
        move |device| {
            let (values, lse) = (tensor(device, &[parts, outer, width])?, tensor(device, &[parts, outer])?);
            prepared(None, move || Ok(merge_attention(&values, &lse)?.values))
        },
    ));
}
