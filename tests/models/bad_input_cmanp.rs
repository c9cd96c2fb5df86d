//! Bad input of CMANP is an error that names what was asked and what is allowed.

use crate::support::{CHECKPOINT, devices, parameters, refused};
use wgpu_attention::{
    Device,
    checkpoint::{Checkpoint, Parameters},
    models::{cmanp, layers::torch_linear},
};

fn cmanp_config() -> cmanp::Config {
    let text = r#"{"dim_x": 1, "dim_y": 2, "d_model": 8, "dim_feedforward": 8, "n_heads": 2, "n_latents": 3,
        "n_latents_per_layer": 4, "n_layers": 2, "emb_depth": 2, "bound_std": false}"#;
    serde_json::from_str(text).unwrap()
}

/// A network whose parameters are all zero but for what a configuration asks of their shapes.
fn cmanp_model(device: &Device, config: &cmanp::Config) -> (cmanp::Cmanp, Checkpoint) {
    parameters(|checkpoint| cmanp::Cmanp::new(device, config, checkpoint), |_, shape| vec![0.0; shape.iter().product()])
}

#[test]
fn cmanp_contexts_and_predictions() {
    use cmanp::Context;
    for (_, device) in devices() {
        let config = cmanp_config();
        let (model, _) = cmanp_model(&device, &config);
        let (x, y) = ([0.0, 1.0], [0.0; 4]);
        let read = |x: &[f32], y: &[f32]| model.condition(&Context::new(x, y));
        refused(read(&[], &[]), &["context is empty", "at least one"]);
        refused(model.condition(&Context::new(&x, &y).batch(0)), &["batch", "1 or more"]);
        refused(model.condition(&Context::new(&[0.0; 0], &[]).batch(usize::MAX)), &["context is empty"]);
        refused(model.condition(&Context::new(&x, &y).batch(2).mask(&[true, false])), &["batch element 1"]);
        refused(model.condition(&Context::new(&x, &y).mask(&[true])), &["[1, 2]", "2", "1"]);
        refused(read(&x, &y[..3]), &["[1, 2, 2]", "4", "3"]);
        refused(read(&x[..1], &y), &["[1, 1, 2]", "2", "4"]);
        refused(read(&[], &y), &["[1, 0, 2]", "4"]);
        refused(read(&[0.0, f32::NAN], &y), &["x of point 1", "[0]", "NaN"]);
        refused(read(&x, &[0.0, 0.0, 0.0, f32::INFINITY]), &["y of point 1", "[1]", "inf"]);
        refused(model.condition_in_blocks(&Context::new(&x, &y), 0), &["block", "1 or more"]);
        let posterior = read(&x, &y).unwrap();
        refused(posterior.update(&Context::new(&x, &y).batch(2)), &["batch", "2", "1, that of the posterior"]);
        refused(posterior.update(&Context::new(&[f32::NAN], &y[..2])), &["x of point 0", "NaN"]);
        assert_eq!(posterior.update(&Context::new(&[0.0; 0], &[])).unwrap().n_points(), [2]);
        refused(posterior.predict(&[f32::NAN]), &["x of point 0", "NaN"]);
        refused(posterior.predict_joint(&x), &["without covariance", "Posterior::predict"]);
        let prediction = posterior.predict(&x).unwrap();
        refused(prediction.log_density(&y[..3]), &["[1, 2, 2]", "3"]);
        refused(prediction.log_density(&[f32::NAN, 0.0, 0.0, 0.0]), &["point 0", "NaN"]);
        let wide = model.condition(&Context::new(&x, &y).batch(2)).unwrap();
        refused(wide.predict(&[0.0]), &["[2, 1, 1]", "2", "1"]);
        refused(posterior.merge(&wide), &["batch 2", "batch 1"]);
        let (other, _) = cmanp_model(&device, &cmanp::Config { bound_std: true, ..config.clone() });
        refused(posterior.merge(&other.condition(&Context::new(&x, &y)).unwrap()), &["another model"]);

        // A base model keeps no state.
        let (base, _) = cmanp_model(&device, &cmanp::Config { n_latents_per_layer: None, ..config.clone() });
        let whole = base.condition(&Context::new(&x, &y)).unwrap();
        refused(whole.update(&Context::new(&x, &y)), &["LBANP", "condition on all"]);
        refused(base.condition_in_blocks(&Context::new(&x, &y), 0), &["block", "1 or more"]);
        refused(whole.merge(&whole), &["LBANP"]);
        refused(whole.to_checkpoint(), &["LBANP"]);

        // Parameters of zero have a covariance of zero.
        let covariance = r#"{"kind": "cholesky", "n_layers": 1, "prj_dim": 2, "prj_depth": 1}"#;
        let covariance = serde_json::from_str(covariance).unwrap();
        let (joint, _) = cmanp_model(&device, &cmanp::Config { covariance: Some(covariance), ..config.clone() });
        let joint_of_many = joint.condition(&Context::new(&[0.0; 4], &[0.0; 8]).batch(4)).unwrap();
        let joint = joint.condition(&Context::new(&x, &y)).unwrap();
        refused(joint.predict_joint(&x), &["not positive definite", "4", "batch element 0", "diagonal", "is 0"]);
        refused(joint.evaluate(&x, &[0.0, 0.0, 0.0, f32::NAN], 1), &["y[3]", "NaN"]);
        refused(joint.predict(&x), &["predict_joint"]);
        refused(joint.evaluate(&x, &y, 0), &["block", "1 or more"]);
        refused(joint.evaluate(&[0.0; 0], &[], 1), &["points", "1 or more"]);
        refused(joint.evaluate(&x, &y[..2], 1), &["[1, 2, 2]", "2"]);
        refused(joint.predict_joint(&vec![0.0; cmanp::MAX_JOINT]), &["together", &cmanp::MAX_JOINT.to_string()]);
        refused(joint_of_many.predict_joint(&vec![0.0; 4 * cmanp::MAX_JOINT]), &["together", "4096 allowed"]);
        assert!(joint.predict_joint(&[0.0; 0]).unwrap()[0].is_empty());
    }
}

#[test]
fn cmanp_parameters_and_states_that_do_not_fit() {
    let device = Device::cpu();
    let config = cmanp_config();
    let (model, checkpoint) = cmanp_model(&device, &config);
    let load = |config: &cmanp::Config, checkpoint: &Checkpoint| cmanp::Cmanp::new(&device, config, checkpoint);
    let mut extra = checkpoint.clone();
    extra.insert("encoder.surprise", &[1], vec![0.0]).unwrap();
    refused(load(&config, &extra), &["encoder.surprise", "does not use"]);
    let mut misshapen = checkpoint.clone();
    misshapen.insert("encoder.layers.1.latents", &[4, 7], vec![0.0; 28]).unwrap();
    refused(load(&config, &misshapen), &["encoder.layers.1.latents", "[4, 7]", "[4, 8]"]);
    refused(load(&cmanp::Config { n_layers: 3, ..config.clone() }, &checkpoint), &["layers.2.", "missing"]);
    refused(load(&cmanp::Config { n_heads: 3, ..config.clone() }, &checkpoint), &["d_model 8", "n_heads 3"]);
    for wrong in [0, usize::MAX] {
        refused(load(&cmanp::Config { dim_x: wrong, ..config.clone() }, &checkpoint), &["dim_x", "allowed is 1 to"]);
        let wrong = cmanp::Config { n_latents_per_layer: Some(wrong), ..config.clone() };
        refused(load(&wrong, &checkpoint), &["n_latents_per_layer", "allowed is 1 to"]);
    }
    for text in ["{}", "null", r#"{"dim_x": -1}"#] {
        assert!(serde_json::from_str::<cmanp::Config>(text).is_err());
    }
    refused(cmanp::Cmanp::open(&device, CHECKPOINT), &["tnp_kr", "cmanp"]);

    let posterior = model.condition(&cmanp::Context::new(&[0.0], &[0.0, 0.0])).unwrap();
    let saved = posterior.to_checkpoint().unwrap();
    assert!(model.restore(&saved).is_ok());
    refused(model.restore(&checkpoint), &["posterior"]);
    let metadata = saved.metadata("posterior").unwrap().to_owned();
    for (from, to) in [("\"cmanp\"", "\"tnp_kr\""), ("\"batch\":1", "\"batch\":2"), ("\"batch\":1", "\"batch\":0")] {
        let mut wrong = saved.clone();
        assert!(metadata.contains(from), "{metadata}");
        wrong.set_metadata("posterior", metadata.replace(from, to));
        refused(model.restore(&wrong), &["posterior"]);
    }
    let mut wrong = saved.clone();
    wrong.set_metadata("posterior", "[]");
    refused(model.restore(&wrong), &["posterior"]);
    let mut wrong = saved.clone();
    wrong.insert("state_0", &[1], vec![0.0]).unwrap();
    refused(model.restore(&wrong), &["not those that were saved"]);
}

#[test]
fn cmanp_layers_of_no_size() {
    use cmanp::{Cmab, CmabSizes, TransformerLayer};
    let sizes = CmabSizes { n_latents: 2, latent_dim: 4, context_dim: 4, n_heads: 2, dim_feedforward: 4 };
    for (wrong, words) in [
        (CmabSizes { n_latents: 0, ..sizes }, ["n_latents is 0", "1 or more"]),
        (CmabSizes { latent_dim: 0, ..sizes }, ["latent is 0", "1 or more"]),
        (CmabSizes { context_dim: 0, ..sizes }, ["context_dim is 0", "1 or more"]),
        (CmabSizes { n_heads: 0, ..sizes }, ["n_heads is 0", "1 or more"]),
        (CmabSizes { n_heads: 3, ..sizes }, ["query_dim is 4", "multiple of n_heads 3"]),
    ] {
        let built = Checkpoint::random(1, |checkpoint| checkpoint.load(&Device::cpu(), |p| Cmab::load(p, &wrong)));
        refused(built, &words);
    }
    let layer = |n_heads| {
        let load = |p: &Parameters<'_>| TransformerLayer::load(p, 4, n_heads, 4);
        Checkpoint::random(1, |checkpoint| checkpoint.load(&Device::cpu(), load))
    };
    refused(layer(0), &["n_heads is 0"]);
    refused(layer(3), &["width is 4", "multiple of n_heads 3"]);
    for (n_in, n_out) in [(0, 1), (1, 0)] {
        let load = |p: &Parameters<'_>| torch_linear(p, n_in, n_out, true);
        let built = Checkpoint::random(1, |checkpoint| checkpoint.load(&Device::cpu(), load));
        refused(built, &["put is 0", "1 or more"]);
    }
}
