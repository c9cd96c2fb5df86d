//! Configurations of the papers' own code, `dl4bi`.

use serde_json::Value;

use super::config::{AttentionConfig, BiasConfig, Config, GroupConfig};
use crate::{
    error::{Error, Result},
    models::{Output, layers::MlpConfig},
    ops::{Activation, BiasKernel, Distance},
};

impl Config {
    /// Translates a model of `dl4bi` 0.1, as its hydra configuration describes it (the YAML,
    /// read as JSON). What that file leaves to the data is given beside it: the number of
    /// values at a point and the size of each coordinate group that the data have, in the
    /// order `x`, `s`, `t`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the part that this crate does not know: mixtures of densities among the
    /// outputs.
    ///
    /// ```
    /// use wgpu_attention::{models::tnp_kr::Config, serde_json::json};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let mlp = |dims: &[usize]| json!({"dims": dims, "act_fn": {"_target_": "jax.nn.gelu"}});
    /// let attention = json!({
    ///     "_target_": "dl4bi.attention.DeepKernelAttention",
    ///     "proj_qks": mlp(&[64, 64]),
    ///     "proj_vs": mlp(&[64, 32]),
    /// });
    /// let block = json!({"attn": attention, "ffn": mlp(&[128, 32])});
    /// let model = json!({"num_blks": 6, "embed_all": mlp(&[128, 32]), "blk": block, "head": mlp(&[128, 2])});
    /// let config = Config::from_dl4bi(&model, 1, &[("s", 2)])?;
    /// assert_eq!((config.n_blocks, config.width()?, config.groups[0].dim), (6, 32, Some(2)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_dl4bi(model: &Value, n_values: usize, groups: &[(&str, usize)]) -> Result<Self> {
        let block = &model["blk"];
        only(
            model,
            &["name", "num_blks", "num_reps", "embed_x", "embed_s", "embed_t", "embed_all", "blk", "head", "output_fn"],
        )?;
        only(block, &["attn", "ffn", "p_dropout"])?;
        let (attention, biases) = attention_config(&block["attn"])?;
        if let Some((name, _)) = biases.iter().find(|(of, _)| groups.iter().all(|(name, _)| name != of)) {
            return Err(Error::Config {
                message: format!("there is a bias for {name:?}, but the data have no such group"),
            });
        }
        let group = |&(name, dim): &(&str, usize)| {
            let dropped = match target(&model[format!("embed_{name}")]) {
                None => false,
                Some("x_to_none") => true,
                Some(other) => return Err(unknown("embedding", other)),
            };
            let bias = biases.iter().find(|(of, _)| of == name).map(|(_, bias)| bias.clone());
            Ok(GroupConfig { name: name.to_owned(), dim: (!dropped).then_some(dim), embed: !dropped, bias })
        };
        let output = output(&model["output_fn"])?;
        let config = Self {
            n_blocks: count(&model["num_blks"], "num_blks")?,
            n_repeats: if model["num_reps"].is_null() { 1 } else { count(&model["num_reps"], "num_reps")? },
            obs_dim: 4,
            n_values,
            groups: groups.iter().map(group).collect::<Result<_>>()?,
            embed_all: mlp(&model["embed_all"], "embed_all")?,
            attention,
            ffn: mlp(&block["ffn"], "ffn")?,
            head: mlp(&model["head"], "head")?,
            output,
        };
        config.check()?;
        Ok(config)
    }
}

fn unknown(what: &str, found: &str) -> Error {
    Error::Config { message: format!("{what} {found:?} of dl4bi is not known to this crate") }
}

/// Refuses settings that would change the model and are not known here.
fn only(value: &Value, known: &[&str]) -> Result<()> {
    let settings = value.as_object().ok_or_else(|| unknown("setting", &value.to_string()))?;
    let is_known = |name: &str| name.starts_with('_') || known.contains(&name);
    match settings.iter().find(|(name, setting)| !is_known(name) && !setting.is_null()) {
        Some((name, _)) => Err(unknown("setting", name)),
        None => Ok(()),
    }
}

/// The last part of `_target_`.
fn target(value: &Value) -> Option<&str> {
    value["_target_"].as_str().and_then(|path| path.rsplit('.').next())
}

/// What the head's numbers mean: the class that `_target_` names, whose method makes the distribution.
fn output(value: &Value) -> Result<Output> {
    let Some(path) = value["_target_"].as_str() else {
        return if value.is_null() { Ok(GAUSSIAN) } else { Err(unknown("output_fn", &value.to_string())) };
    };
    only(value, &["min_std"])?;
    let mut parts = path.rsplit('.');
    let (method, class) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let min_std = match &value["min_std"] {
        Value::Null => 0.0,
        // One that is no number is refused with the configuration.
        given => given.as_f64().unwrap_or(f64::NAN) as f32,
    };
    match (class, method) {
        ("DiagonalMVNOutput", "from_activations") => Ok(Output::Gaussian { min_std }),
        // Beta takes a least standard deviation and makes no use of it.
        ("BetaOutput", "from_activations") => Ok(Output::Beta),
        ("MultinomialOutput", "from_activations") if value["min_std"].is_null() => Ok(Output::Categorical),
        ("PoissonOutput", "from_activations") if value["min_std"].is_null() => Ok(Output::Poisson),
        ("ZeroInflatedPoissonOutput", "from_activations") if value["min_std"].is_null() => {
            Ok(Output::ZeroInflatedPoisson)
        }
        // Mixtures, averages over latent draws, full covariances: another family than any here.
        _ => Err(unknown("output_fn", path)),
    }
}

/// What `dl4bi` has where nothing is said.
const GAUSSIAN: Output = Output::Gaussian { min_std: 0.0 };

fn count(value: &Value, name: &str) -> Result<usize> {
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.ok_or_else(|| Error::Config { message: format!("{name} is {value}, allowed is a whole number") })
}

fn mlp(value: &Value, name: &str) -> Result<MlpConfig> {
    only(value, &["dims", "act_fn", "p_dropout"])?;
    let dims = value["dims"].as_array().ok_or_else(|| unknown(name, &value.to_string()))?;
    let dims = dims.iter().map(|dim| count(dim, name)).collect::<Result<_>>()?;
    let activation = match target(&value["act_fn"]) {
        None | Some("relu") => Activation::Relu,
        // jax.nn.gelu approximates by default.
        Some("gelu") if value["act_fn"]["approximate"] == false => Activation::GeluErf,
        Some("gelu") => Activation::GeluTanh,
        Some(other) => return Err(unknown("activation", other)),
    };
    Ok(MlpConfig { dims, activation })
}

fn attention_config(value: &Value) -> Result<(AttentionConfig, Vec<(String, BiasConfig)>)> {
    match target(value) {
        Some("MultiHeadAttention") => {}
        Some("DeepKernelAttention") => {
            only(value, &["num_heads", "proj_qks", "proj_vs", "p_dropout"])?;
            let attention = AttentionConfig::DeepKernel {
                n_heads: if value["num_heads"].is_null() { 1 } else { count(&value["num_heads"], "num_heads")? },
                proj_qks: mlp(&value["proj_qks"], "proj_qks")?,
                proj_vs: mlp(&value["proj_vs"], "proj_vs")?,
            };
            return Ok((attention, Vec::new()));
        }
        _ => return Err(unknown("attention", &value["_target_"].to_string())),
    }
    only(value, &["attn", "num_heads", "proj_qs", "proj_ks", "proj_vs", "proj_out", "p_dropout"])?;
    let inner = &value["attn"];
    let biases = match target(inner) {
        Some("FastAttention") => {
            only(inner, &["num_ortho_features", "build_phi"])?;
            match target(&inner["build_phi"]) {
                None | Some("build_stable_positive_softmax_phi") => {}
                Some(other) => return Err(unknown("build_phi", other)),
            }
            let features = &inner["num_ortho_features"];
            return Ok((
                AttentionConfig::Performer {
                    n_heads: if value["num_heads"].is_null() { 4 } else { count(&value["num_heads"], "num_heads")? },
                    n_features: if features.is_null() { 64 } else { count(features, "num_ortho_features")? },
                    proj_qs: mlp(&value["proj_qs"], "proj_qs")?,
                    proj_ks: mlp(&value["proj_ks"], "proj_ks")?,
                    proj_vs: mlp(&value["proj_vs"], "proj_vs")?,
                    proj_out: mlp(&value["proj_out"], "proj_out")?,
                },
                Vec::new(),
            ));
        }
        // A plain attention returns NaN where no key exists; a scan attention zeros, as here.
        Some("Attention" | "ScanAttention") => Vec::new(),
        Some("BiasedScanAttention") => {
            only(inner, &["bias", "qs_chunk_size", "ks_chunk_size"])?;
            let terms = inner["bias"].as_object().ok_or_else(|| unknown("bias", &inner["bias"].to_string()))?;
            let terms = terms.iter().filter(|(name, _)| *name != "_target_");
            terms.map(|(name, bias)| Ok((name.clone(), bias_config(bias)?))).collect::<Result<_>>()?
        }
        _ => return Err(unknown("attention", &inner["_target_"].to_string())),
    };
    let attention = AttentionConfig::Scan {
        n_heads: if value["num_heads"].is_null() { 4 } else { count(&value["num_heads"], "num_heads")? },
        proj_qs: mlp(&value["proj_qs"], "proj_qs")?,
        proj_ks: mlp(&value["proj_ks"], "proj_ks")?,
        proj_vs: mlp(&value["proj_vs"], "proj_vs")?,
        proj_out: mlp(&value["proj_out"], "proj_out")?,
    };
    Ok((attention, biases))
}

fn bias_config(value: &Value) -> Result<BiasConfig> {
    only(value, &["num_heads", "num_basis"])?;
    let (kernel, distance) = match target(value) {
        Some("build_scalar_bias") => (BiasKernel::Scalar, Distance::Euclidean),
        Some("build_rbf_network_bias") => (BiasKernel::Rbf, Distance::Euclidean),
        Some("build_tisa_bias") => (BiasKernel::Tisa, Distance::Euclidean),
        Some("build_geodesic_network_bias") => (BiasKernel::Exponential, Distance::GreatCircle),
        Some("build_geodesic_rbf_network_bias") => (BiasKernel::Rbf, Distance::GreatCircle),
        _ => return Err(unknown("bias", &value["_target_"].to_string())),
    };
    let n_basis = match (kernel, value["num_basis"].is_null()) {
        (BiasKernel::Scalar, _) => 1,
        (_, true) => 5,
        (_, false) => count(&value["num_basis"], "num_basis")?,
    };
    Ok(BiasConfig { kernel, distance, n_basis })
}
