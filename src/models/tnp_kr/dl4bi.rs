//! Configurations of the papers' own code, `dl4bi`.

use serde_json::Value;

use super::config::{AttentionConfig, BiasConfig, BiasParameters, CategoryConfig, Config, GroupConfig};
use crate::{
    error::{Error, Result},
    models::{Output, layers::MlpConfig},
    ops::{Activation, BiasKernel, Distance},
};

impl Config {
    /// Translates a model of `dl4bi` 0.1, as its hydra configuration describes it (the YAML,
    /// read as JSON). What that file leaves to the data is given beside it: the number of
    /// values at a point and the size of each coordinate group that the data have, in the
    /// order `x`, `s`, `t`. What the file leaves out is what `dl4bi` has by itself.
    ///
    /// Known are `BSATNP` and `BTNP`, with scan, plain, adaptive, fast (Performer) and deep kernel attention, every
    /// bias with every distance that a file can name, embeddings that pass numbers on, leave them out or take
    /// one for a category, and Gaussian, categorical, Poisson, zero-inflated Poisson and Beta outputs.
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
        let is_beside = match target(model) {
            // A name is not needed: what the parts are says it.
            None | Some("BSATNP" | "TNPKR" | "ScanTNPKR") => false,
            Some("BTNP") => true,
            Some(other) => return Err(unknown("model", other)),
        };
        let known = [
            "name",
            "num_blks",
            "num_reps",
            "embed_x",
            "embed_s",
            "embed_t",
            "embed_obs",
            "embed_all",
            "blk",
            "norm",
            "head",
            "output_fn",
        ];
        let of_biases = ["x_sim", "s_sim", "t_sim", "x_bias", "s_bias", "t_bias"];
        only(model, &[&known[..], if is_beside { &of_biases } else { &[] }].concat())?;
        let block = &model["blk"];
        if !block.is_null() {
            only(block, &["attn", "norm", "ffn", "p_dropout"])?;
        }
        [&model["norm"], &block["norm"]].into_iter().try_for_each(norm)?;
        let (attention, mut biases) = attention_config(&block["attn"])?;
        if is_beside {
            let beside = biases_beside(model)?;
            // A scan attention of dl4bi makes nothing of biases that it does not compute itself.
            if !beside.is_empty() && target(&block["attn"]["attn"]).is_some_and(|attention| attention != "Attention") {
                return Err(unknown("bias beside", &block["attn"]["attn"]["_target_"].to_string()));
            }
            biases.extend(beside);
        }
        if let Some((name, _)) = biases.iter().find(|(of, _)| groups.iter().all(|(name, _)| name != of)) {
            return Err(Error::Config {
                message: format!("there is a bias for {name:?}, but the data have no such group"),
            });
        }
        let group = |&(name, dim): &(&str, usize)| {
            let embedding = &model[format!("embed_{name}")];
            let (dropped, category) = match target(embedding) {
                None => (false, None),
                Some("x_to_none" | "to_none") => (true, None),
                Some("IDEmbedding") => (false, Some(category(embedding)?)),
                Some(other) => return Err(unknown("embedding", other)),
            };
            let bias = biases.iter().find(|(of, _)| of == name).map(|(_, bias)| bias.clone());
            let dim = (!dropped).then_some(dim);
            Ok(GroupConfig { name: name.to_owned(), dim, embed: !dropped, bias, category })
        };
        let output = output(&model["output_fn"])?;
        let bias_parameters = if is_beside { BiasParameters::Beside } else { BiasParameters::InBlocks };
        let config = Self {
            n_blocks: count_or(&model["num_blks"], "num_blks", 6)?,
            n_repeats: count_or(&model["num_reps"], "num_reps", 1)?,
            obs_dim: obs_dim(&model["embed_obs"])?,
            n_values,
            groups: groups.iter().map(group).collect::<Result<_>>()?,
            embed_all: mlp(&model["embed_all"], "embed_all", &[256, 128, 64], Activation::GeluTanh)?,
            attention,
            bias_parameters,
            ffn: mlp(&block["ffn"], "ffn", &[256, 64], Activation::Relu)?,
            head: mlp(&model["head"], "head", &[256, 64, 2], Activation::GeluTanh)?,
            output,
        };
        config.check()?;
        Ok(config)
    }
}

/// A normalisation may be named, and is the one there is.
fn norm(value: &Value) -> Result<()> {
    match target(value) {
        None if value.is_null() => Ok(()),
        Some("LayerNorm") => only(value, &[]),
        _ => Err(unknown("norm", &value.to_string())),
    }
}

fn obs_dim(value: &Value) -> Result<usize> {
    if value.is_null() {
        return Ok(4);
    }
    only(value, &["num_embeddings", "features"])?;
    match (target(value), &value["num_embeddings"]) {
        (Some("Embed"), n) if *n == 2 => count(&value["features"], "features"),
        _ => Err(unknown("embed_obs", &value.to_string())),
    }
}

fn category(value: &Value) -> Result<CategoryConfig> {
    only(value, &["num_ids", "num_features", "channel"])?;
    Ok(CategoryConfig {
        channel: count_or(&value["channel"], "channel", 0)?,
        n_categories: count(&value["num_ids"], "num_ids")?,
        n_features: count(&value["num_features"], "num_features")?,
    })
}

/// The biases of a BTNP: what is made of a distance, and which distance.
fn biases_beside(model: &Value) -> Result<Vec<(String, BiasConfig)>> {
    let mut biases = Vec::new();
    for name in ["x", "s", "t"] {
        let bias = &model[format!("{name}_bias")];
        if bias.is_null() {
            continue;
        }
        let BiasConfig { kernel, n_basis, .. } = bias_config(bias)?;
        let key = format!("{name}_sim");
        let sim = &model[&key];
        if !sim.is_null() {
            only(sim, &["causal"])?;
        }
        let is_causal = sim["causal"] != false;
        let distance = match target(sim) {
            Some("l2_dist") => Distance::Euclidean,
            Some("great_circle_dist") => Distance::GreatCircle,
            Some("delta_time") if is_causal => Distance::CausalTime,
            // Only of its square the sign does not matter.
            Some("delta_time") if kernel == BiasKernel::Rbf => Distance::Euclidean,
            _ => return Err(unknown(&key, &sim.to_string())),
        };
        biases.push((name.to_owned(), BiasConfig { kernel, distance, n_basis }));
    }
    Ok(biases)
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

fn count_or(value: &Value, name: &str, default: usize) -> Result<usize> {
    if value.is_null() { Ok(default) } else { count(value, name) }
}

/// A perceptron, or what `dl4bi` has where nothing is said.
fn mlp(value: &Value, name: &str, default: &[usize], activation: Activation) -> Result<MlpConfig> {
    if value.is_null() {
        return Ok(MlpConfig { dims: default.to_vec(), activation });
    }
    // How training begins and what it drops changes no prediction.
    only(value, &["dims", "act_fn", "p_dropout", "kernel_init", "bias_init"])?;
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
        None if value.is_null() => {}
        Some("MultiHeadAttention" | "AdaptiveMultiHeadAttention") => {}
        Some("DeepKernelAttention") => {
            only(value, &["num_heads", "proj_qks", "proj_vs", "p_dropout"])?;
            let attention = AttentionConfig::DeepKernel {
                n_heads: count_or(&value["num_heads"], "num_heads", 1)?,
                proj_qks: mlp(&value["proj_qks"], "proj_qks", &[128, 128], Activation::GeluTanh)?,
                proj_vs: mlp(&value["proj_vs"], "proj_vs", &[128, 64], Activation::GeluTanh)?,
            };
            return Ok((attention, Vec::new()));
        }
        _ => return Err(unknown("attention", &value["_target_"].to_string())),
    }
    if !value.is_null() {
        only(value, &["attn", "num_heads", "proj_qs", "proj_ks", "proj_vs", "proj_out", "p_dropout"])?;
    }
    let n_heads = count_or(&value["num_heads"], "num_heads", 4)?;
    let names = ["proj_qs", "proj_ks", "proj_vs", "proj_out"];
    let ([proj_qs, proj_ks, proj_vs, proj_out], adaptive_rank) = if target(value) == Some("AdaptiveMultiHeadAttention")
    {
        let [(qs, rank), (ks, of_ks), (vs, of_vs), (out, of_out)] = each(names, |name| hyper_lora(&value[name], name))?;
        if [of_ks, of_vs, of_out] != [rank; 3] {
            return Err(unknown("ranks that differ", &format!("{:?}", [rank, of_ks, of_vs, of_out])));
        }
        ([qs, ks, vs, out], Some(rank))
    } else {
        (each(names, |name| mlp(&value[name], name, &[64], Activation::Relu))?, None)
    };
    let inner = &value["attn"];
    let biases = match target(inner) {
        Some("FastAttention") if adaptive_rank.is_none() => {
            only(inner, &["num_ortho_features", "build_phi"])?;
            match target(&inner["build_phi"]) {
                None | Some("build_stable_positive_softmax_phi") => {}
                Some(other) => return Err(unknown("build_phi", other)),
            }
            let n_features = count_or(&inner["num_ortho_features"], "num_ortho_features", 64)?;
            let attention = AttentionConfig::Performer { n_heads, n_features, proj_qs, proj_ks, proj_vs, proj_out };
            return Ok((attention, Vec::new()));
        }
        None if inner.is_null() => Vec::new(),
        // A plain attention returns NaN where no key exists; a scan attention zeros, as here.
        Some("Attention" | "ScanAttention") => Vec::new(),
        Some("BiasedScanAttention") => {
            only(inner, &["bias", "qs_chunk_size", "ks_chunk_size"])?;
            match &inner["bias"] {
                Value::Null => Vec::new(),
                Value::Object(terms) => {
                    let terms = terms.iter().filter(|(name, bias)| *name != "_target_" && !bias.is_null());
                    terms.map(|(name, bias)| Ok((name.clone(), bias_config(bias)?))).collect::<Result<_>>()?
                }
                other => return Err(unknown("bias", &other.to_string())),
            }
        }
        _ => return Err(unknown("attention", &inner["_target_"].to_string())),
    };
    Ok((AttentionConfig::Scan { n_heads, proj_qs, proj_ks, proj_vs, proj_out, adaptive_rank }, biases))
}

/// The same of four names.
fn each<T: std::fmt::Debug>(names: [&str; 4], of: impl Fn(&str) -> Result<T>) -> Result<[T; 4]> {
    let all: Vec<T> = names.into_iter().map(of).collect::<Result<_>>()?;
    Ok(all.try_into().expect("as many as there are names"))
}

/// The layer of a `HyperLoRA` or what `dl4bi` has where nothing is said, and its rank.
fn hyper_lora(value: &Value, name: &str) -> Result<(MlpConfig, usize)> {
    let (n_out, rank) = match target(value) {
        None if value.is_null() => (64, 16),
        Some("HyperLoRA") => {
            only(value, &["out_dim", "rank", "kernel_init"])?;
            (count_or(&value["out_dim"], "out_dim", 128)?, count_or(&value["rank"], "rank", 16)?)
        }
        _ => return Err(unknown(name, &value.to_string())),
    };
    Ok((MlpConfig { dims: vec![n_out], activation: Activation::Relu }, rank))
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
    let n_basis = if kernel == BiasKernel::Scalar { 1 } else { count_or(&value["num_basis"], "num_basis", 5)? };
    Ok(BiasConfig { kernel, distance, n_basis })
}
