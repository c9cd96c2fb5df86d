//! Biases of the user's own.

use super::*;

/// The user's bias against the same function in the oracle.
fn check_custom(what: &str, wgsl: &str, params: &[f32], cpu: fn(&[f32], &[f32], usize, &[f32]) -> f32) {
    let mut random = Random::new(7);
    let custom = CustomBias { name: what.into(), wgsl: wgsl.into(), cpu: Arc::new(cpu), params: params.to_vec() };
    for (name, device) in devices() {
        let mut case = case(&mut random, [2, 2, 40, 45, 8, 8]);
        case.n_columns = 2;
        case.q_coords = random.scaled(2 * 40 * 2, 2.0);
        case.k_coords = random.scaled(2 * 45 * 2, 2.0);
        let owned = params.to_vec();
        case.custom = Some(Box::new(move |q, k, head| {
            Some(f64::from(cpu(q, k, head, &owned))).filter(|&bias| bias > 0.5 * f64::from(MASKED))
        }));
        let terms = [BiasTerm::custom(0..2, custom.clone())];
        check(what, &name, &device, &case, &Run { extra: &terms, ..PLAIN });
    }
}

#[test]
fn custom_bias_reproduces_rbf() {
    check_custom(
        "rbf",
        "let d = vec2(q_coord[0] - k_coord[0], q_coord[1] - k_coord[1]);
         return params(2u * head) * exp(-params(2u * head + 1u) * dot(d, d));",
        &[0.7, 0.5, -1.2, 2.0],
        |q, k, head, params| {
            let d2 = (q[0] - k[0]).powi(2) + (q[1] - k[1]).powi(2);
            params[2 * head] * (-params[2 * head + 1] * d2).exp()
        },
    );
    // And against the built-in, number for number.
    let mut random = Random::new(8);
    for (name, device) in devices() {
        let mut case = case(&mut random, [1, 2, 40, 45, 8, 8]);
        add_terms(&mut random, &mut case, 2, &[(0..2, Distance::Euclidean, BiasKernel::Rbf, 1)]);
        let built_in = run(&device, &case, &PLAIN).values.read().unwrap();
        let term = case.terms.pop().unwrap();
        let custom = CustomBias {
            name: "rbf".into(),
            wgsl: "let d = vec2(q_coord[0] - k_coord[0], q_coord[1] - k_coord[1]);
                   return params(head) * exp(-params(2u + head) * dot(d, d));"
                .into(),
            cpu: Arc::new(|q, k, head, params| {
                params[head] * (-params[2 + head] * ((q[0] - k[0]).powi(2) + (q[1] - k[1]).powi(2))).exp()
            }),
            params: [term.a, term.b].concat(),
        };
        let extra = [BiasTerm::custom(0..2, custom)];
        let found = run(&device, &case, &Run { extra: &extra, ..PLAIN }).values.read().unwrap();
        let built_in: Vec<f64> = built_in.into_iter().map(f64::from).collect();
        let error = error(&found, &built_in);
        assert!(error <= 2.0 * bound(&device, RECORDED), "{name}: off by {error:.2e}");
    }
}

#[test]
fn custom_bias_can_be_causal() {
    check_custom("causal", "if (k_coord[1] > q_coord[1]) { return MASKED; }\nreturn 0.0;", &[], |q, k, _, _| {
        if k[1] > q[1] { MASKED } else { 0.0 }
    });
}

#[test]
fn custom_bias_can_be_alibi() {
    check_custom(
        "alibi",
        "return -params(head) * abs(q_coord[0] - k_coord[0]);",
        &[0.5, 0.25],
        |q, k, head, params| -params[head] * (q[0] - k[0]).abs(),
    );
}

#[cfg(feature = "gpu")]
#[test]
fn a_broken_snippet_gives_nagas_message() {
    for (name, device) in crate::support::gpus() {
        for (wgsl, wanted) in [
            ("let d = q_coord[0] - k_cord[0];\nreturn d;", "k_cord"),
            ("return q_coord;", "return"),
            ("return 0.0; } fn evil() -> f32 { return 1.0;", "may not declare"),
            ("return 0.0; } @compute @workgroup_size(1) fn other() {", "may not declare"),
            ("return q_coord[7];", "bounds"),
            ("workgroupBarrier(); return 0.0;", "barriers"),
        ] {
            let bias =
                CustomBias { name: "mine".into(), wgsl: wgsl.into(), cpu: Arc::new(|_, _, _, _| 0.0), params: vec![] };
            let tensor = Tensor::new(&device, &[1, 1, 1, 2], &[1.0, 2.0]).unwrap();
            let coords = Tensor::new(&device, &[1, 1, 2], &[0.0, 0.0]).unwrap();
            let terms = [BiasTerm::custom(0..2, bias)];
            let options = ScanAttention::default().bias(Bias::new(&coords, &coords, &terms));
            let error = scan_attention(&tensor, &tensor, &tensor, &options).unwrap_err();
            assert!(matches!(error, wgpu_attention::Error::BiasShader { .. }), "{name}: {wgsl:?} gave {error:?}");
            assert!(error.to_string().contains(wanted), "{name}: {wgsl:?} gave {error}");
            // The device is as good as before.
            assert!(scan_attention(&tensor, &tensor, &tensor, &ScanAttention::default()).is_ok());
        }
    }
}
