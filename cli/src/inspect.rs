//! What a file holds.

use std::path::Path;

use anyhow::{Result, bail};
use shared::say;
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{cmanp::Cmanp, nam, tnp_kr::TnpKr},
    serde_json::Value,
};

/// Tensors that are listed without `--all`.
const LISTED: usize = 12;

pub fn inspect(path: &Path, all: bool) -> Result<()> {
    let checkpoint = Checkpoint::open(path)?;
    say!("{}", path.display())?;
    for key in checkpoint.metadata_keys() {
        let text = checkpoint.metadata(key)?;
        let is_long = |value: &Value| value.is_object() || value.is_array();
        let key = shown(key);
        match wgpu_attention::serde_json::from_str::<Value>(text) {
            Ok(value) if is_long(&value) => say!("\n{key}: {}", shown(&format!("{value:#}")))?,
            _ => say!("{key}: {}", shown(text))?,
        }
    }
    let names: Vec<&str> = checkpoint.names().collect();
    say!("\n{} tensors, {} numbers", names.len(), checkpoint.n_parameters())?;
    let listed = if all { names.len() } else { LISTED.min(names.len()) };
    for name in &names[..listed] {
        say!("  {:<60} {:?}", shown(name), checkpoint.shape(name).unwrap_or_default())?;
    }
    if listed < names.len() {
        say!("  and {} more: --all lists them", names.len() - listed)?;
    }
    for (name, why) in checkpoint.unusable() {
        say!("  no parameter: {} {why}", shown(name))?;
    }
    if let Ok(text) = checkpoint.metadata("posterior") {
        let posterior: Value = wgpu_attention::serde_json::from_str(text).unwrap_or_default();
        let Some(model) = posterior["model"].as_str() else {
            bail!("its metadata have a posterior that is none: it names no model");
        };
        return say!("\na saved posterior of a {}: its `restore` takes it", shown(model));
    }
    let model = checkpoint.metadata("model")?.to_owned();
    // Whether every parameter is there, in its shape.
    match opened(&model, &checkpoint)? {
        Ok(what) => say!("\nopens as {what}"),
        Err(error) => bail!("no {model} can be made of it: {error}"),
    }
}

/// A file's own text is not the terminal's: without what moves its cursor or turns its writing.
fn shown(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let one = |c: char| match c {
        '\n' | '\t' => c.to_string(),
        c if c.is_control() || turns(c) => c.escape_unicode().to_string(),
        c => c.to_string(),
    };
    text.chars().map(one).collect()
}

/// The model, built on the CPU, in words.
fn opened(model: &str, checkpoint: &Checkpoint) -> Result<wgpu_attention::Result<String>> {
    let cpu = Device::cpu();
    Ok(match model {
        "tnp_kr" => TnpKr::from_checkpoint(&cpu, checkpoint).map(|model| format!("{model:#?}")),
        "cmanp" => Cmanp::from_checkpoint(&cpu, checkpoint).map(|model| format!("{model:#?}")),
        "nam_tm" => nam::NamTmAe::from_checkpoint(&cpu, checkpoint).map(|model| format!("{model:#?}")),
        "nam_few_shot" => nam::FewShot::from_checkpoint(&cpu, checkpoint).map(|model| format!("{model:#?}")),
        "nam_lsam" => nam::LsamAe::from_checkpoint(&cpu, checkpoint).map(|model| format!("{model:#?}")),
        "nam_transformer" => nam::NamTransformer::from_checkpoint(&cpu, checkpoint).map(|model| format!("{model:#?}")),
        other => bail!(
            "the metadata say model {other:?}, allowed are tnp_kr, cmanp, nam_tm, nam_few_shot, nam_lsam and \
             nam_transformer"
        ),
    })
}
