//! The cases of neural attention memory (arXiv 2302.09422). The papers' own sequences come first,
//! `[n, batch, width]`; here the batch does.

mod few_shot;
mod lsam;

use std::path::Path;

use wgpu_attention::{
    Device, Tensor,
    models::nam::{
        AttentionGates, Blsam, Classifier, ClassifierType, EmbeddingConfig, Episode, FewShot, FewShotConfig, LsamAe,
        LsamAeConfig, LsamCell, LsamDecoder, LsamEncoderLayer, NamAttention, NamTm, NamTmAe, NamTmConfig,
        NamTransformer, TransformerConfig, TuringOption, TuringState, torch_lstm,
    },
    ops::{
        Activation, AttentionMemory, Direction, Form, HeadMoves, Layout, LsamOutput, LsamState, MemoryState,
        Probabilities, TapeErase, TapeOptions, TapeProbabilities, lstm, unit_norm,
    },
};

use super::Outputs;
#[cfg(target_arch = "wasm32")]
use crate::support::blocking::*;
use crate::support::fixture::Fixture;

type Result<T> = wgpu_attention::Result<T>;

type Run<'a> = fn(&Case<'a>) -> Result<Outputs>;

/// `None` if the case is of another system.
pub fn run(fixture: &Fixture, _path: &Path, device: &Device) -> Option<std::result::Result<Outputs, String>> {
    // By the start of a case's name; the first that fits counts.
    let cases: [(&str, Run<'_>); 15] = [
        ("nam_primitives", Case::primitives),
        ("nam_attention", Case::attention),
        ("nam_causal", Case::causal),
        ("lsam_cell", Case::lsam_cell),
        ("lsam_decoder", Case::lsam_decoder),
        ("lsam_blsam", Case::blsam),
        ("lsam_encoder_layer", Case::lsam_encoder_layer),
        ("lsam_ae", Case::lsam_ae),
        ("namtmae", Case::nam_tm_ae),
        ("namtm", Case::nam_tm),
        ("fewshot_sequential", Case::sequential),
        ("fewshot", Case::few_shot),
        ("lra_nam", Case::transformer),
        ("op_lstm", Case::lstm),
        ("op_unitnorm", Case::unit_norm),
    ];
    let (_, run) = cases.iter().find(|(start, _)| fixture.case.starts_with(start))?;
    Some(run(&Case { fixture, device }).map_err(|error| error.to_string()))
}

struct Case<'a> {
    fixture: &'a Fixture,
    device: &'a Device,
}

/// `[a, b, rest]` to `[b, a, rest]`.
pub fn swap<T: Copy>(x: &[T], a: usize, b: usize) -> Vec<T> {
    let rest = x.len() / (a * b).max(1);
    (0..b).flat_map(|j| (0..a).flat_map(move |i| &x[(i * b + j) * rest..][..rest])).copied().collect()
}

/// A result whose sequence comes first, as the papers'.
fn sequence_first(x: &Tensor) -> Result<Vec<f32>> {
    Ok(swap(&x.read()?, x.shape()[0], x.shape()[1]))
}

/// Logits `[batch, n, classes]` to `[batch, classes, n]`.
fn classes_first(x: &Tensor) -> Result<Vec<f32>> {
    let &[_, n, classes] = x.shape() else { panic!("{:?}", x.shape()) };
    let numbers = x.read()?;
    Ok(numbers.chunks(n * classes).flat_map(|x| swap(x, n, classes)).collect())
}

/// A tape `[batch, n_tapes, length, mem]` to `[length, batch, n_tapes * mem]`.
fn tape_first(x: &Tensor) -> Result<Vec<f32>> {
    let &[batch, n_tapes, length, mem] = x.shape() else { panic!("{:?}", x.shape()) };
    let numbers = x.read()?;
    let at = |l: usize, b: usize, t: usize| &numbers[((b * n_tapes + t) * length + l) * mem..][..mem];
    let rows = (0..length).flat_map(|l| (0..batch).flat_map(move |b| (0..n_tapes).map(move |t| (l, b, t))));
    Ok(rows.flat_map(|(l, b, t)| at(l, b, t)).copied().collect())
}

/// What kind of Turing machine a case has.
pub fn tape_options(fixture: &Fixture) -> TapeOptions {
    let flag = |name: &str, other: bool| fixture.config[name].as_bool().unwrap_or(other);
    let n_tapes = fixture.config["n_tapes"].as_u64().unwrap() as usize;
    let n_actions = fixture.shape("param.actionlayer.bias")[0] / n_tapes;
    let heads = [HeadMoves::All, HeadMoves::NoJump, HeadMoves::OnlyJump];
    TapeOptions {
        heads: heads.into_iter().find(|heads| heads.n_actions() == n_actions).expect("a known action vector"),
        probabilities: if flag("rwprob", true) { TapeProbabilities::Actions } else { TapeProbabilities::One },
        erase: if flag("noerase", false) { TapeErase::Never } else { TapeErase::Own },
        ..Default::default()
    }
}

fn outputs<const N: usize>(pairs: [(&str, Vec<f32>); N]) -> Outputs {
    pairs.into_iter().map(|(name, numbers)| (name.to_owned(), numbers)).collect()
}

impl Case<'_> {
    fn size(&self, name: &str) -> usize {
        self.fixture.config[name].as_u64().unwrap_or_else(|| panic!("{}: no size {name}", self.fixture.name)) as usize
    }

    fn flag(&self, name: &str, other: bool) -> bool {
        self.fixture.config[name].as_bool().unwrap_or(other)
    }

    fn shape(&self, name: &str) -> &[usize] {
        self.fixture.shape(name)
    }

    fn tensor(&self, name: &str) -> Tensor {
        self.fixture.tensor(self.device, name)
    }

    /// `[n, batch, rest]` as `[batch, n, rest]`.
    fn batch_first(&self, name: &str) -> Tensor {
        let shape = self.shape(name);
        let numbers = swap(&self.fixture.numbers(name), shape[0], shape[1]);
        let turned = [&[shape[1], shape[0]], &shape[2..]].concat();
        Tensor::new(self.device, &turned, &numbers).unwrap()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        self.fixture.truth(name).iter().map(|&x| x as usize).collect()
    }

    /// A memory `[batch, rows, columns]` of one head.
    fn primitives(&self) -> Result<Outputs> {
        let &[batch, v_dim, head_dim] = self.shape("in.M0") else { panic!() };
        let n = self.shape("in.k")[0];
        let start = self.tensor("in.M0").reshape(&[batch, 1, v_dim, head_dim])?;
        let (k, v) = (unit_norm(&self.batch_first("in.k"))?, self.batch_first("in.v"));
        let p = |name: &str| {
            let numbers = swap(&self.fixture.numbers(name), n, batch);
            Probabilities::new(self.device, &[batch, n, 1], &numbers)
        };
        let (p_write, p_erase) = (p("in.p_w")?, p("in.p_e")?);
        let p_read = Probabilities::new(self.device, &[batch, 1, 1], &self.fixture.numbers("in.p_r"))?;
        let q = unit_norm(&self.tensor("in.q").reshape(&[batch, 1, head_dim])?)?;
        // A step of a sequence.
        let step = |x: &Tensor, i: usize| {
            let width = x.shape()[2];
            let numbers = x.read()?;
            let rows: Vec<f32> = (0..batch).flat_map(|b| &numbers[(b * n + i) * width..][..width]).copied().collect();
            Tensor::new(self.device, &[batch, 1, width], &rows)
        };
        let p_step = |p: &Probabilities, i: usize| {
            Probabilities::new(self.device, &[batch, 1, 1], &step(p.tensor(), i)?.read()?)
        };
        let mut found = Outputs::new();
        let one_head = AttentionMemory::new(Layout::Projected { n_heads: 1 });
        let mut memory = MemoryState::new(start.clone());
        for i in 0..n {
            let (p_w, p_e) = (p_step(&p_write, i)?, p_step(&p_erase, i)?);
            let erasing = one_head.p_write(&p_w).p_erase(&p_e);
            memory = erasing.write(Some(&memory), &step(&k, i)?, &step(&v, i)?, None)?;
            found.insert(format!("M{}", i + 1), memory.memory.read()?);
        }
        // All steps at once are the same.
        let start = MemoryState::new(start);
        let at_once = one_head.p_write(&p_write).p_erase(&p_erase).write(Some(&start), &k, &v, None)?;
        found.insert(format!("M{n}"), at_once.memory.read()?);
        found.insert("outer_product_sum".into(), one_head.write(None, &k, &v, None)?.memory.read()?);
        found.insert("read".into(), one_head.p_read(&p_read).read(&q, &memory)?.values.read()?);
        found.insert("read0".into(), one_head.p_read(&p_read).read(&q, &start)?.values.read()?);
        let one = Probabilities::new(self.device, &[batch, 1, 1], &vec![1.0; batch])?;
        let first = step(&k, 0)?;
        let written = one_head.p_write(&one).p_erase(&one).write(Some(&start), &first, &step(&v, 0)?, None)?;
        found.insert("theorem2".into(), one_head.read(&first, &written)?.values.read()?);
        Ok(found)
    }

    fn nam_attention(&self, gates: AttentionGates) -> Result<NamAttention> {
        let (d_model, n_heads) = (self.size("d_model"), self.size("nhead"));
        let checkpoint = self.fixture.checkpoint();
        checkpoint.load(self.device, |parameters| NamAttention::load(parameters, d_model, n_heads, gates))
    }

    fn attention(&self) -> Result<Outputs> {
        let gates = if self.flag("gated", true) { AttentionGates::Gated } else { AttentionGates::Ungated };
        let source = self.flag("cross", false).then(|| self.batch_first("in.src"));
        let output = self.nam_attention(gates)?.forward(&self.batch_first("in.inp"), source.as_ref())?;
        Ok(outputs([("y", sequence_first(&output.values)?), ("A", output.memory.read()?)]))
    }

    fn causal(&self) -> Result<Outputs> {
        let gates = match self.fixture.config["mode"].as_str() {
            Some("ungated") => AttentionGates::Ungated,
            Some("gated") => AttentionGates::Gated,
            Some("tied") => AttentionGates::Tied,
            Some("erase") => AttentionGates::Erase,
            other => panic!("{}: mode {other:?}", self.fixture.name),
        };
        let attention = self.nam_attention(gates)?;
        let input = self.batch_first("in.inp");
        let mut found = Outputs::new();
        for form in [Form::Recurrent, Form::Chunked] {
            let output = attention.causal(&input, None, Some(form))?;
            let of_form = outputs([("y", sequence_first(&output.values)?), ("M", output.memory.read()?)]);
            // The worse of both forms counts.
            for (name, numbers) in of_form {
                let truth = self.fixture.truth(&format!("out64.{name}"));
                let is_worse = found.get(&name).is_none_or(|before: &Vec<f32>| {
                    crate::support::error(&numbers, truth) > crate::support::error(before, truth)
                });
                if is_worse {
                    found.insert(name, numbers);
                }
            }
        }
        Ok(found)
    }

    fn nam_tm(&self) -> Result<Outputs> {
        let (dim, n_tapes, mem_size) = (self.size("dim"), self.size("n_tapes"), self.shape("param.valuelayer.bias")[0]);
        let mem_size = mem_size / n_tapes;
        let options = tape_options(self.fixture);
        let checkpoint = self.fixture.checkpoint();
        let machine = checkpoint.load(self.device, |p| NamTm::load(p, dim, n_tapes, mem_size, options))?;
        let length = self.size("default_tapelen");
        let x = self.batch_first("in.x");
        let output = machine.forward(&x, length, None)?;
        let second = match self.fixture.has("in.x2") {
            true => Some(machine.forward(
                &self.batch_first("in.x2"),
                length,
                Some(&TuringState::new(output.state.tape.tape.clone())),
            )?),
            false => None,
        };
        let mut found = Outputs::new();
        for name in self.fixture.outputs() {
            let numbers = match (name.as_str(), &second) {
                ("y", _) => sequence_first(&output.values)?,
                ("tape", _) => tape_first(&output.state.tape.tape)?,
                ("mid.controller", _) => sequence_first(&output.controller)?,
                ("mid.actionlayer", _) => sequence_first(&output.actions)?,
                ("mid.read_outs", _) => sequence_first(&output.reads)?,
                ("y_tape_in", Some(second)) => sequence_first(&second.values)?,
                ("tape_tape_in", Some(second)) => tape_first(&second.state.tape.tape)?,
                _ => {
                    let Some(length) = name.rsplit_once("_len").and_then(|(_, length)| length.parse().ok()) else {
                        continue;
                    };
                    let output = machine.forward(&x, length, None)?;
                    if name.starts_with('y') {
                        sequence_first(&output.values)?
                    } else {
                        tape_first(&output.state.tape.tape)?
                    }
                }
            };
            found.insert(name, numbers);
        }
        Ok(found)
    }

    fn nam_tm_ae(&self) -> Result<Outputs> {
        let option = match self.fixture.config["option"].as_str() {
            Some("nojump") => TuringOption::NoJump,
            Some("onlyjump") => TuringOption::OnlyJump,
            Some("norwprob") => TuringOption::NoRwProb,
            Some("noerase") => TuringOption::NoErase,
            Some("default") | None => TuringOption::Default,
            other => panic!("{}: option {other:?}", self.fixture.name),
        };
        let config = NamTmConfig {
            dim: self.size("dim"),
            vocab_size: self.size("vocab_size"),
            n_heads: self.size("nhead"),
            mem_size: self.shape("param.tm.valuelayer.bias")[0] / self.size("nhead"),
            tape_length: self.size("defalt_tapelen"),
            option,
        };
        let model = NamTmAe::new(self.device, &config, &self.fixture.checkpoint())?;
        let logits = model.forward(self.shape("in.tokens")[0], &self.indices("in.tokens"))?;
        Ok(outputs([("logits", classes_first(&logits)?)]))
    }

    fn transformer(&self) -> Result<Outputs> {
        let config: TransformerConfig = serde_json::from_value(self.fixture.config.clone()).unwrap();
        let model = NamTransformer::new(self.device, &config, &self.fixture.checkpoint())?;
        let output = model.forward(self.shape("in.tokens")[0], &self.indices("in.tokens"))?;
        Ok(outputs([("logits", output.logits.read()?), ("encoded", output.encoded.read()?)]))
    }

    fn lstm(&self) -> Result<Outputs> {
        let (n_in, hidden) = (self.size("input"), self.size("hidden"));
        let checkpoint = self.fixture.checkpoint();
        let layer = checkpoint.load(self.device, |parameters| torch_lstm(parameters, n_in, hidden))?;
        let output = lstm(&self.batch_first("in.x"), &layer, None)?;
        let state = output.state.read()?;
        let part = |i: usize| state.chunks(2 * hidden).flat_map(move |state| &state[i * hidden..][..hidden]).copied();
        Ok(outputs([("y", sequence_first(&output.values)?), ("h_n", part(0).collect()), ("c_n", part(1).collect())]))
    }

    fn unit_norm(&self) -> Result<Outputs> {
        let x = self.tensor("in.x");
        let &[rows, columns] = x.shape() else { panic!() };
        let turned = Tensor::new(self.device, &[columns, rows], &swap(&x.read()?, rows, columns))?;
        let turned = unit_norm(&turned)?.read()?;
        Ok(outputs([("y", unit_norm(&x)?.read()?), ("y_dim0", swap(&turned, columns, rows))]))
    }
}
