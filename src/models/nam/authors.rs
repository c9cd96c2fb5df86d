//! Configurations of the authors' own code, which has no files for them: the arguments of its constructors, by name.

use serde_json::Value;

use super::config::{EmbeddingConfig, FewShotConfig, LsamAeConfig, NamTmConfig, TuringOption};
use crate::{error::Result, models::settings::Settings, ops::Activation};

impl NamTmConfig {
    /// Translates the arguments of `NAMTMAE` (`NAM.py`): `dim`, `vocab_size`, `nhead`, `mem_size`, `defalt_tapelen`
    /// (as it is spelt there) and `option`, one of `default`, `nojump`, `onlyjump`, `norwprob` and `noerase`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) that names a setting that is missing, not known or not allowed.
    ///
    /// ```
    /// use wgpu_attention::{models::nam::{NamTmConfig, TuringOption}, serde_json::json};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let model = json!({"dim": 64, "vocab_size": 12, "nhead": 4, "mem_size": 16, "defalt_tapelen": 32, "option": "nojump"});
    /// assert_eq!(NamTmConfig::from_authors(&model)?.option, TuringOption::NoJump);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_authors(model: &Value) -> Result<Self> {
        let known = ["dim", "vocab_size", "nhead", "mem_size", "defalt_tapelen", "option"];
        let settings = Settings::new("a NAMTMAE", model, &known)?;
        let option = match settings.or("option", "default".to_owned())?.as_str() {
            "default" => TuringOption::Default,
            "nojump" => TuringOption::NoJump,
            "onlyjump" => TuringOption::OnlyJump,
            "norwprob" => TuringOption::NoRwProb,
            "noerase" => TuringOption::NoErase,
            other => {
                let allowed = "default, nojump, onlyjump, norwprob and noerase";
                return Err(settings.refused(format!("have option {other:?}, allowed are {allowed}")));
            }
        };
        let config = Self {
            dim: settings.required("dim")?,
            vocab_size: settings.required("vocab_size")?,
            n_heads: settings.required("nhead")?,
            mem_size: settings.or("mem_size", 64)?,
            tape_length: settings.required("defalt_tapelen")?,
            option,
        };
        config.check()?;
        Ok(config)
    }
}

impl LsamAeConfig {
    /// Translates the arguments of `LSAMAE` (`LSAM.py`): `vocab_size`, `d_model` and `nhead`; `num_layers` is
    /// ignored there, too.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) that names a setting that is missing, not known or not allowed.
    ///
    /// ```
    /// use wgpu_attention::{models::nam::LsamAeConfig, serde_json::json};
    ///
    /// let config = LsamAeConfig::from_authors(&json!({"vocab_size": 30, "d_model": 64, "nhead": 8})).unwrap();
    /// assert_eq!(config.dim_feedforward, 2048);
    /// ```
    pub fn from_authors(model: &Value) -> Result<Self> {
        let settings =
            Settings::new("an LSAMAE", model, &["vocab_size", "d_model", "nhead", "num_layers", "dim_feedforward"])?;
        let config = Self {
            vocab_size: settings.required("vocab_size")?,
            d_model: settings.required("d_model")?,
            n_heads: settings.required("nhead")?,
            dim_feedforward: settings.or("dim_feedforward", 2048)?,
        };
        config.check()?;
        Ok(config)
    }
}

impl FewShotConfig {
    /// Translates the options of a few-shot `Classifier`
    /// (`architectures/ClassifierWithFewShotGenerationModule.py`), which is given features: `nKall`, `nKnovel`, `nFeat`,
    /// `weight_generator_type`, `classifier_type`. `scale_cls` and `scale_att` are parameters of a trained one.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) that names a setting that is missing, not known or not allowed.
    ///
    /// ```
    /// use wgpu_attention::{models::nam::{FewShotConfig, Generator}, serde_json::json};
    ///
    /// # fn main() -> wgpu_attention::Result<()> {
    /// let opt = json!({"nKall": 64, "nFeat": 3200, "weight_generator_type": "nam2", "classifier_type": "cosine"});
    /// assert_eq!(FewShotConfig::from_authors(&opt)?.generator, Generator::Nam2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_authors(opt: &Value) -> Result<Self> {
        let known = ["nKall", "nKnovel", "nFeat", "weight_generator_type", "classifier_type", "scale_cls", "scale_att"];
        let settings = Settings::new("a few-shot classifier", opt, &known)?;
        let n_in = settings.required("nFeat")?;
        let config = Self {
            generator: settings.required("weight_generator_type")?,
            classifier_type: settings.or("classifier_type", super::ClassifierType::Cosine)?,
            n_base: settings.required("nKall")?,
            n_novel: settings.or("nKnovel", 5)?,
            embedding: EmbeddingConfig { n_in, dims: Vec::new(), activation: Activation::Relu },
        };
        config.n_features()?;
        Ok(config)
    }
}
