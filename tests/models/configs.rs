//! Configurations of the authors' own code: what is translated, and what is refused by name.

use crate::support::refused;
use wgpu_attention::{
    Device,
    checkpoint::Checkpoint,
    models::{
        cmanp::{self, Cmanp, CovarianceKind},
        nam::{
            FewShot, FewShotConfig, Generator, LsamAe, LsamAeConfig, NamTmAe, NamTmConfig, NamTransformer, TuringOption,
        },
        tnp_kr::{AttentionConfig, BiasParameters, CategoryConfig, Config, Context, Locations, TnpKr},
    },
    ops::{Activation, BiasKernel, Distance},
    serde_json::{Value, json},
};

/// A setting more, or another.
fn with(value: &Value, name: &str, setting: Value) -> Value {
    let mut value = value.clone();
    value[name] = setting;
    value
}

fn without(value: &Value, name: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().unwrap().remove(name);
    value
}

#[test]
fn files_of_cmanp_are_read() {
    let gp = json!({
        "num_latents": 128, "num_latents_per_layer": 128, "dim_x": 1, "dim_y": 1, "d_model": 64, "emb_depth": 4,
        "dim_feedforward": 128, "nhead": 4, "dropout": 0.0, "num_layers": 6, "CMAB_block_size": "None",
        "norm_first": true
    });
    let config = cmanp::Config::from_authors(&gp).unwrap();
    assert_eq!((config.n_latents_per_layer, config.bound_std, config.covariance), (Some(128), false, None));
    let emnist = with(&without(&gp, "norm_first"), "bound_std", json!(true));
    assert!(cmanp::Config::from_authors(&with(&emnist, "dim_x", json!(2))).unwrap().bound_std);
    let nd = json!({"num_std_layers": 2, "cov_approx": "lowrank", "prj_dim": 20, "prj_depth": 4, "diag_depth": 3});
    let mut and = with(&gp, "AND_block_size", json!(100));
    nd.as_object().unwrap().iter().for_each(|(name, setting)| and[name] = setting.clone());
    let covariance = cmanp::Config::from_authors(&and).unwrap().covariance.unwrap();
    assert_eq!((covariance.kind, covariance.prj_dim, covariance.diag_depth), (CovarianceKind::LowRank, 20, 3));
    let lbanp_nd = without(&without(&and, "num_latents_per_layer"), "cov_approx");
    let config = cmanp::Config::from_authors(&lbanp_nd).unwrap();
    assert_eq!((config.n_latents_per_layer, config.covariance.unwrap().kind), (None, CovarianceKind::Cholesky));

    let refuses = |settings: &Value, parts: &[&str]| refused(cmanp::Config::from_authors(settings), parts);
    refuses(&with(&gp, "dim_z", json!(3)), &["dim_z", "not known"]);
    refuses(&without(&gp, "d_model"), &["lack \"d_model\""]);
    refuses(&with(&gp, "d_model", json!("64")), &["d_model", "64"]);
    refuses(&with(&gp, "nhead", json!(5)), &["n_heads"]);
    refuses(&with(&gp, "norm_first", json!(false)), &["norm_first"]);
    refuses(&with(&and, "cov_approx", json!("full")), &["full", "cholesky or lowrank"]);
    refuses(&json!("cmanp.yaml"), &["not named"]);
}

#[test]
fn arguments_of_nam_are_read() {
    let turing = json!({"dim": 32, "vocab_size": 12, "nhead": 4, "mem_size": 8, "defalt_tapelen": 16});
    for (name, option) in [
        (json!(null), TuringOption::Default),
        (json!("nojump"), TuringOption::NoJump),
        (json!("onlyjump"), TuringOption::OnlyJump),
        (json!("norwprob"), TuringOption::NoRwProb),
        (json!("noerase"), TuringOption::NoErase),
    ] {
        assert_eq!(NamTmConfig::from_authors(&with(&turing, "option", name)).unwrap().option, option);
    }
    refused(NamTmConfig::from_authors(&with(&turing, "option", json!("jump"))), &["option", "jump", "noerase"]);
    refused(NamTmConfig::from_authors(&without(&turing, "dim")), &["dim"]);
    refused(NamTmConfig::from_authors(&with(&turing, "tape", json!(1))), &["tape", "not known"]);
    let lsam = json!({"vocab_size": 30, "d_model": 64, "nhead": 8, "num_layers": 2});
    assert_eq!(LsamAeConfig::from_authors(&lsam).unwrap().d_model, 64);
    refused(LsamAeConfig::from_authors(&with(&lsam, "nhead", json!(7))), &["n_heads"]);
    refused(LsamAeConfig::from_authors(&with(&lsam, "nhead", json!(1))), &["n_heads 1", "even"]);
    let few = json!({"nKall": 64, "nFeat": 32, "weight_generator_type": "nam2attention", "scale_cls": 10});
    let config = FewShotConfig::from_authors(&few).unwrap();
    assert_eq!((config.generator, config.n_base, config.embedding.n_in), (Generator::Nam2Attention, 64, 32));
    refused(FewShotConfig::from_authors(&with(&few, "weight_generator_type", json!("nam3"))), &["nam3"]);
}

fn mlp(dims: &[usize]) -> Value {
    json!({"_target_": "dl4bi.mlp.MLP", "dims": dims})
}

/// A BTNP with a bias of space.
fn b_tnp() -> Value {
    let sim = json!({"_target_": "dl4bi.sim.l2_dist", "_partial_": true});
    let bias = json!({"_target_": "dl4bi.bias.Bias.build_rbf_network_bias", "num_basis": 3});
    json!({"_target_": "dl4bi.meta_learning.BTNP", "s_sim": sim, "s_bias": bias})
}

/// As `tools/convert.py` writes it.
fn with_upstream(parameters: &Checkpoint, model: &str, upstream: &Value) -> Checkpoint {
    let mut checkpoint = Checkpoint::from_bytes(&parameters.to_bytes().unwrap()).unwrap();
    checkpoint.set_metadata("model", model);
    checkpoint.set_metadata("upstream", upstream.to_string());
    checkpoint
}

#[test]
fn settings_of_the_authors_open_a_checkpoint() {
    let cpu = &Device::cpu();
    let small = json!({"num_blks": 1, "embed_all": mlp(&[64]), "head": mlp(&[2])});
    let config = Config::from_dl4bi(&small, 1, &[("s", 2)]).unwrap();
    let parameters = Checkpoint::random(0, |checkpoint| TnpKr::new(cpu, &config, checkpoint)).unwrap();
    let open = |upstream: &Value| TnpKr::from_checkpoint(cpu, &with_upstream(&parameters, "tnp_kr", upstream));
    let upstream = json!({"yaml": small, "n_values": 1, "groups": [["s", 2]]});
    assert_eq!(open(&upstream).unwrap().config(), &config);
    refused(open(&without(&upstream, "n_values")), &["upstream", "n_values"]);
    refused(open(&without(&upstream, "yaml")), &["upstream", "yaml"]);
    refused(open(&with(&upstream, "epochs", json!(3))), &["upstream", "epochs"]);
    refused(open(&with(&upstream, "groups", json!([["s", -2]]))), &["upstream", "-2"]);
    let unknown = with(&upstream, "yaml", json!({"_target_": "dl4bi.meta_learning.ANP"}));
    refused(open(&unknown), &["<memory>", "upstream", "ANP"]);
    refused(open(&with(&upstream, "groups", json!([["s", 3]]))), &["shape"]);
    // What is translated already counts.
    let mut both = with_upstream(&parameters, "tnp_kr", &unknown);
    both.set_metadata("config", wgpu_attention::serde_json::to_string(&config).unwrap());
    assert_eq!(TnpKr::from_checkpoint(cpu, &both).unwrap().config(), &config);
    let mut neither = Checkpoint::from_bytes(&parameters.to_bytes().unwrap()).unwrap();
    neither.set_metadata("model", "tnp_kr");
    refused(TnpKr::from_checkpoint(cpu, &neither), &["no \"config\""]);

    let gp = json!({
        "num_latents": 4, "num_latents_per_layer": 4, "dim_x": 1, "dim_y": 1, "d_model": 8, "emb_depth": 2,
        "dim_feedforward": 8, "nhead": 2, "num_layers": 1
    });
    let config = cmanp::Config::from_authors(&gp).unwrap();
    let parameters = Checkpoint::random(0, |checkpoint| Cmanp::new(cpu, &config, checkpoint)).unwrap();
    let open = |yaml: &Value| Cmanp::from_checkpoint(cpu, &with_upstream(&parameters, "cmanp", &json!({"yaml": yaml})));
    assert_eq!(open(&gp).unwrap().config(), &config);
    refused(open(&with(&gp, "dim_z", json!(3))), &["upstream", "dim_z"]);

    let turing = json!({"dim": 8, "vocab_size": 5, "nhead": 2, "mem_size": 4, "defalt_tapelen": 16});
    let config = NamTmConfig::from_authors(&turing).unwrap();
    let parameters = Checkpoint::random(0, |checkpoint| NamTmAe::new(cpu, &config, checkpoint)).unwrap();
    let checkpoint = with_upstream(&parameters, "nam_tm", &json!({"yaml": turing}));
    assert_eq!(NamTmAe::from_checkpoint(cpu, &checkpoint).unwrap().config(), &config);

    let lsam = json!({"vocab_size": 5, "d_model": 8, "nhead": 2, "dim_feedforward": 8});
    let config = LsamAeConfig::from_authors(&lsam).unwrap();
    let parameters = Checkpoint::random(0, |checkpoint| LsamAe::new(cpu, &config, checkpoint)).unwrap();
    let checkpoint = with_upstream(&parameters, "nam_lsam", &json!({"yaml": lsam}));
    assert_eq!(LsamAe::from_checkpoint(cpu, &checkpoint).unwrap().config(), &config);

    let few = json!({"nKall": 3, "nFeat": 4, "weight_generator_type": "nam2"});
    let config = FewShotConfig::from_authors(&few).unwrap();
    let parameters = Checkpoint::random(0, |checkpoint| FewShot::new(cpu, &config, checkpoint)).unwrap();
    let checkpoint = with_upstream(&parameters, "nam_few_shot", &json!({"yaml": few}));
    assert_eq!(FewShot::from_checkpoint(cpu, &checkpoint).unwrap().config(), &config);
    let checkpoint = with_upstream(&parameters, "nam_transformer", &json!({"yaml": {}}));
    refused(NamTransformer::from_checkpoint(cpu, &checkpoint), &["upstream", "give the config"]);
}

#[test]
fn what_a_file_of_dl4bi_leaves_out_is_what_it_has() {
    let config = Config::from_dl4bi(&json!({}), 1, &[("s", 2)]).unwrap();
    assert_eq!((config.n_blocks, config.obs_dim, config.n_inputs()), (6, 4, 7));
    assert_eq!((&config.embed_all.dims[..], config.embed_all.activation), (&[256, 128, 64][..], Activation::GeluTanh));
    assert_eq!((&config.ffn.dims[..], config.ffn.activation), (&[256, 64][..], Activation::Relu));
    let embed = json!({"_target_": "flax.linen.Embed", "num_embeddings": 2, "features": 8});
    let norm = json!({"_target_": "flax.linen.LayerNorm"});
    let model = with(&with(&json!({}), "embed_obs", embed), "norm", norm);
    assert_eq!(Config::from_dl4bi(&model, 1, &[("s", 2)]).unwrap().obs_dim, 8);
    let model = json!({"_target_": "dl4bi.meta_learning.ANP"});
    refused(Config::from_dl4bi(&model, 1, &[("s", 2)]), &["model", "ANP"]);
    let model = json!({"embed_s": {"_target_": "dl4bi.embed.NeRFEmbedding", "embed_dim": 4}});
    refused(Config::from_dl4bi(&model, 1, &[("s", 2)]), &["embedding", "NeRFEmbedding"]);
    let model = json!({"norm": {"_target_": "flax.linen.LayerNorm", "epsilon": 1e-5}});
    refused(Config::from_dl4bi(&model, 1, &[("s", 2)]), &["epsilon"]);
}

#[test]
fn biases_of_a_btnp_are_beside_its_blocks() {
    let bias = |model: &Value| {
        let config = Config::from_dl4bi(model, 1, &[("s", 2), ("t", 1)])?;
        assert_eq!(config.bias_parameters, BiasParameters::Beside);
        Ok(config.groups.iter().map(|group| group.bias.as_ref().map(|b| (b.kernel, b.distance))).collect::<Vec<_>>())
    };
    assert_eq!(bias(&b_tnp()).unwrap(), [Some((BiasKernel::Rbf, Distance::Euclidean)), None]);
    let time = |causal: Value, kind: &str| {
        let sim = json!({"_target_": "dl4bi.sim.delta_time", "_partial_": true, "causal": causal});
        let bias = json!({"_target_": format!("dl4bi.bias.Bias.build_{kind}_bias")});
        with(&with(&b_tnp(), "t_sim", sim), "t_bias", bias)
    };
    assert_eq!(bias(&time(json!(null), "scalar")).unwrap()[1], Some((BiasKernel::Scalar, Distance::CausalTime)));
    assert_eq!(bias(&time(json!(false), "rbf_network")).unwrap()[1], Some((BiasKernel::Rbf, Distance::Euclidean)));
    // Signed differences of both directions: no distance here is one.
    refused(bias(&time(json!(false), "scalar")), &["t_sim", "delta_time"]);
    refused(bias(&without(&b_tnp(), "s_sim")), &["s_sim"]);
    let attention = |inner: &str| {
        json!({"attn": {
            "_target_": "dl4bi.attention.MultiHeadAttention", "attn": {"_target_": format!("dl4bi.attention.{inner}")}
        }})
    };
    assert!(bias(&with(&b_tnp(), "blk", attention("Attention"))).is_ok());
    refused(bias(&with(&b_tnp(), "blk", attention("ScanAttention"))), &["ScanAttention"]);
    refused(bias(&with(&b_tnp(), "blk", attention("FastAttention"))), &["FastAttention"]);
    let scan = with(&b_tnp(), "_target_", json!("dl4bi.meta_learning.BSATNP"));
    refused(Config::from_dl4bi(&scan, 1, &[("s", 2)]), &["s_"]);
}

#[test]
fn adaptive_projections_have_one_rank() {
    let lora = |n_out: usize, rank: usize| json!({"_target_": "dl4bi.hyper.HyperLoRA", "out_dim": n_out, "rank": rank});
    let attention = json!({
        "_target_": "dl4bi.attention.AdaptiveMultiHeadAttention", "attn": {"_target_": "dl4bi.attention.Attention"},
        "proj_qs": lora(128, 8), "proj_ks": lora(128, 8), "proj_vs": lora(128, 8), "proj_out": lora(64, 8)
    });
    let config = |attention: &Value| Config::from_dl4bi(&json!({"blk": {"attn": attention}}), 1, &[("s", 2)]);
    let AttentionConfig::Scan { adaptive_rank, .. } = config(&attention).unwrap().attention else { panic!() };
    assert_eq!(adaptive_rank, Some(8));
    refused(config(&with(&attention, "proj_ks", lora(128, 4))), &["ranks", "[8, 4, 8, 8]"]);
    refused(config(&with(&attention, "proj_ks", mlp(&[128]))), &["proj_ks", "MLP"]);
    refused(config(&with(&attention, "proj_out", lora(32, 8))), &["proj_out", "32", "64"]);
    let all = |rank: usize| {
        let names = [("proj_qs", 128), ("proj_ks", 128), ("proj_vs", 128), ("proj_out", 64)];
        names.iter().fold(attention.clone(), |all, (name, n)| with(&all, name, lora(*n, rank)))
    };
    refused(config(&all(0)), &["adaptive_rank", "0", "1 to 65536"]);
    refused(
        config(&with(&attention, "attn", json!({"_target_": "dl4bi.attention.FastAttention"}))),
        &["FastAttention"],
    );
}

#[test]
fn categories_are_whole_numbers_that_there_are() {
    let embedding = json!({"_target_": "dl4bi.embed.IDEmbedding", "num_ids": 5, "num_features": 3, "channel": 1});
    let model = json!({
        "num_blks": 1, "embed_x": embedding, "embed_all": mlp(&[64]), "head": mlp(&[2])
    });
    let config = Config::from_dl4bi(&model, 1, &[("x", 2), ("s", 1)]).unwrap();
    assert_eq!(config.groups[0].category, Some(CategoryConfig { channel: 1, n_categories: 5, n_features: 3 }));
    assert_eq!(config.n_inputs(), 4 + 1 + 3 + 1 + 1);
    refused(Config::from_dl4bi(&model, 1, &[("x", 1), ("s", 1)]), &["category", "channel 1"]);
    let model = TnpKr::random(&Device::cpu(), &config, 0).unwrap();
    let s = [0.0, 1.0];
    let at = |x: &'static [f32; 4]| Locations::space(1, &s).group("x", 2, x);
    let posterior = model.condition(&Context::new(at(&[0.5, 4.0, 0.5, 0.0]), &[0.1, 0.2])).unwrap();
    let mean = |x| posterior.predict(&at(x)).unwrap().mean().to_vec();
    assert_ne!(mean(&[0.5, 1.0, 0.5, 1.0]), mean(&[0.5, 2.0, 0.5, 1.0]));
    for x in [&[0.5, 0.0, 0.5, 5.0], &[0.5, 0.0, 0.5, -1.0], &[0.5, 0.0, 0.5, 1.5]] {
        refused(posterior.predict(&at(x)), &["category", "point 1", "from 0 to 4"]);
        refused(model.condition(&Context::new(at(x), &[0.1, 0.2])), &["category", "point 1"]);
    }
}
