//! Biases of the user's own.

use super::*;
#[cfg(feature = "gpu")]
use wgpu_attention::Error;

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

/// A call with a snippet over two columns.
#[cfg(feature = "gpu")]
fn with_snippet(device: &Device, wgsl: &str, cpu: fn(&[f32], &[f32], usize, &[f32]) -> f32) -> Result<Tensor, Error> {
    let bias = CustomBias { name: "mine".into(), wgsl: wgsl.into(), cpu: Arc::new(cpu), params: vec![] };
    let tensor = Tensor::new(device, &[1, 1, 1, 2], &[1.0, 2.0])?;
    let coords = Tensor::new(device, &[1, 1, 2], &[0.0, 0.0])?;
    let terms = [BiasTerm::custom(0..2, bias)];
    let options = ScanAttention::default().bias(Bias::new(&coords, &coords, &terms));
    scan_attention(&tensor, &tensor, &tensor, &options).map(|read| read.log_sum_exp)
}

#[cfg(feature = "gpu")]
fn is_refused(wgsl: &str, wanted: &str) {
    for (name, device) in devices() {
        let error = with_snippet(&device, wgsl, |_, _, _, _| 0.0).unwrap_err();
        let shown: String = wgsl.chars().take(100).collect();
        assert!(matches!(error, Error::BiasShader { .. }), "{name}: {shown:?} gave {error:?}");
        assert!(error.to_string().contains(wanted), "{name}: {shown:?} gave {error}");
        // The device is as good as before.
        let x = Tensor::new(&device, &[1, 1, 1, 2], &[1.0, 2.0]).unwrap();
        assert!(scan_attention(&x, &x, &x, &ScanAttention::default()).is_ok());
    }
}

#[cfg(feature = "gpu")]
#[test]
fn a_broken_snippet_gives_nagas_message() {
    is_refused("let d = q_coord[0] - k_cord[0];\nreturn d;", "k_cord");
    is_refused("return q_coord;", "return");
    is_refused("return q_coord[7];", "bounds");
    // Where it is in the snippet, not in what the snippet becomes a part of.
    let at_22 = "line 1, column 22 of the snippet:\nlet d = q_coord[0] - k_cord[0];\n                     ^";
    is_refused("let d = q_coord[0] - k_cord[0];\nreturn d;", at_22);
    is_refused("let d = 1.0;\n  return d + e;", "line 2, column 14 of the snippet:\n  return d + e;\n");
    is_refused("return 0.0;\n}\nalias f = f32;", "line 2, column 1 of the snippet");
    is_refused("return", "line 1");
    is_refused("let d = 1.0;", "mine");
}

/// The table's snippet was accepted, and rewrote the kernel's own softmax (off by 2e30).
#[cfg(feature = "gpu")]
#[test]
fn r4_a_snippet_stays_in_its_function() {
    is_refused("return 0.0; } alias exp = vec4<f32>; struct E { x: f32,", "may not declare");
    for (wgsl, wanted) in [
        ("return 0.0; } fn evil() -> f32 { return 1.0;", "may not declare"),
        ("return 0.0; } const MASKED_2: f32 = 1.0; fn f() {", "may not declare"),
        ("return 0.0; } override x: f32 = 1.0; fn f() {", "may not declare"),
        ("return 0.0; } var<private> x: f32; fn f() {", "may not declare"),
        ("return 0.0; } var<workgroup> x: f32; fn f() {", "may not declare"),
        ("return 0.0; } @compute @workgroup_size(1) fn other() {", "may not declare"),
        ("return 0.0; // \u{2028} } fn f() {", "control"),
        ("return 0.0; /* } */ } /* { */ const x = 1; fn f() { /* */", "may not declare"),
        ("struct E { x: f32 } return 0.0;", "struct"),
        ("alias f = f32; return 0.0;", "alias"),
        ("enable f16; return 0.0;", "enable"),
        ("workgroupBarrier(); return 0.0;", "barriers"),
        ("storageBarrier(); return 0.0;", "barriers"),
        ("return dpdx(q_coord[0]);", "mine"),
        ("discard; return 0.0;", "mine"),
        ("return q[0];", "q"),
        ("values[0] = 1.0; return 0.0;", "values"),
        ("return problem.scale;", "problem"),
        ("return custom_0(q_coord, k_coord, head);", "custom_0"),
        ("return bias(q_coord, k_coord, head);", "mine"),
    ] {
        is_refused(wgsl, wanted);
    }
}

/// Aborts in `naga`, loops that never end and minutes of compiling, by the table.
#[cfg(feature = "gpu")]
#[test]
fn r5_a_snippet_is_small_and_ends() {
    let sum = |n: usize| format!("return {};", vec!["1.0"; n].join("+"));
    let deep = |n: usize| format!("return {}1.0{};", "(".repeat(n), ")".repeat(n));
    let minus = |n: usize| format!("return {}1.0;", "- ".repeat(n));
    let blocks = |n: usize| format!("{}{} return 0.0;", "{".repeat(n), "}".repeat(n));
    let chain = |n: usize| format!("if head == 0u {{ return 1.0; }} {} return 0.0;", "else if head == 1u {}".repeat(n));
    let arrays = |n: usize| {
        let one = |i| format!("var a{i}: array<f32, 100>; a{i}[head] = 1.0; s += a{i}[head + 1u];");
        format!("var s = 0.0; {} return s;", (0..n).map(one).collect::<String>())
    };
    // The stack of a thread, in a build without optimisation too.
    let small = std::thread::Builder::new().stack_size(2 << 20);
    let run = move || {
        for (text, wanted) in [
            (sum(4000), "bytes"),
            (sum(1000), "operators"),
            (deep(20), "brackets"),
            (deep(100), "brackets"),
            (minus(1000), "operators"),
            (blocks(11), "in each other"),
            (chain(11), "in each other"),
            ("{}".repeat(65) + "return 0.0;", "blocks"),
            ("loop {} return 0.0;".into(), "constant bound"),
            ("while (true) {} return 0.0;".into(), "while"),
            ("for (;;) {} return 0.0;".into(), "constant bound"),
            ("var s = 0.0; for (var i = 0u; i < head; i++) { s += 1.0; } return s;".into(), "constant bound"),
            ("var s = 0.0; for (var i = 0u; i < 8u; i++) { i = 0u; } return s;".into(), "constant bound"),
            ("var s = 0.0; for (var i = 0u; i < 8u; i++) { let p = &i; *p = 0u; } return s;".into(), "constant bound"),
            ("var s = 0.0; for (var i = 8u; i >= 0u; i--) { s += 1.0; } return s;".into(), "constant bound"),
            ("var s = 0.0; for (var i = 0u; i < 8u; i += 0u) { s += 1.0; } return s;".into(), "constant bound"),
            ("var s = 0.0; for (var i = 0u; i < 8u; i--) { s += 1.0; } return s;".into(), "constant bound"),
            ("var s = 0.0; for (var x = 0.0; x < 8.0; x += 1.0) { s += 1.0; } return s;".into(), "constant bound"),
            ("var s = 0.0; for (var i = 0u; i != 7u; i += 2u) { s += 1.0; } return s;".into(), "constant bound"),
            // Computed once, in front of the loop.
            (
                "var s = 0.0; var i = 0u; let x = i < 8u; for (; x; i++) { s += 1.0; } return s;".into(),
                "constant bound",
            ),
            (
                "var s = 0.0; var i = 0u; let x = i; for (; x < 8u; i++) { s += 1.0; } return s;".into(),
                "constant bound",
            ),
            (
                "var s = 0.0; var i = 0u; let x = i; for (; i < 8u; i = x + 1u) { s += 1.0; } return s;".into(),
                "constant bound",
            ),
            (
                "var s = 0.0; var i = 0u; let x = i + 1u; for (; i < 8u; i = x) { s += 1.0; } return s;".into(),
                "constant bound",
            ),
            ("var s = 0.0; for (var i = 0; i < 100000; i++) { s += 1.0; } return s;".into(), "iterations"),
            (
                format!(
                    "var s = 2.0; for (var i = 0; i < 60000; i++) {{ {} }} return s;",
                    "s = pow(s, s);".repeat(100)
                ),
                "operations",
            ),
            (
                "var s = 0.0; for (var i = 0; i < 300; i++) { for (var j = 0; j < 300; j++) { s += 1.0; } } return s;"
                    .into(),
                "iterations",
            ),
            ("var a: array<f32, 300>; return a[head];".into(), "length of an array"),
            ("var a: array<array<f32, 200>, 200>; return a[head][0];".into(), "bytes"),
            ("return array<f32, 1000000000>()[3];".into(), "length of an array"),
            // Each is within what one may have.
            (arrays(4), "bytes"),
            // Arrays that are values lie in memory of their own, too.
            ("var a: array<f32, 100>; let b = a; let c = a; return b[head] + c[head + 1u];".into(), "bytes"),
        ] {
            is_refused(&text, wanted);
        }
        // At the limits.
        let zero = |_: &[f32], _: &[f32], _: usize, _: &[f32]| 0.0;
        for (name, device) in devices() {
            let begun = "var a = array<f32, 200>(); a[head] = 1.0; return a[head + 1u];".to_owned();
            let texts =
                [begun, sum(80), deep(15), minus(75), blocks(10), chain(9), "{}".repeat(60) + "return 0.0;", arrays(2)];
            for text in texts {
                with_snippet(&device, &text, zero).unwrap_or_else(|error| panic!("{name}: {text}: {error}"));
            }
        }
    };
    small.spawn(run).unwrap().join().unwrap();
}

/// Off by 5.5e-2 to 0.88 with `Ok` on a software adapter, by the table.
#[cfg(feature = "gpu")]
#[test]
fn r1_long_loops_in_biases_are_right_or_refused() {
    let mut random = Random::new(11);
    let n_keys = 4096;
    let (k, v) = (random.numbers(n_keys * 4), random.numbers(n_keys * 4));
    let (here, there) = (random.numbers(2), random.numbers(n_keys));
    let read = |device: &Device, term: &BiasTerm, n_splits: Option<usize>| {
        let t = |shape: &[usize], numbers: &[f32]| Tensor::new(device, shape, numbers).unwrap();
        let (k, v) = (t(&[1, 1, n_keys, 4], &k), t(&[1, 1, n_keys, 4], &v));
        let q = t(&[1, 1, 2, 4], &[0.1; 8]);
        let (here, there) = (t(&[1, 2, 1], &here), t(&[1, n_keys, 1], &there));
        let terms = [term.clone()];
        let mut options = ScanAttention::default().bias(Bias::new(&here, &there, &terms));
        options.n_splits = n_splits;
        scan_attention(&q, &k, &v, &options).map(|read| read.values.read().unwrap())
    };
    let snippet = |n: usize| {
        let wgsl = format!(
            "var s = 0.0; for (var i = 0u; i < {n}u; i++) {{ s += abs(q_coord[0] - k_coord[0]) * {}; }} return s;",
            1.0 / n as f32
        );
        let cpu = Arc::new(|q: &[f32], k: &[f32], _: usize, _: &[f32]| (q[0] - k[0]).abs());
        BiasTerm::custom(0..1, CustomBias { name: "loop".into(), wgsl, cpu, params: vec![] })
    };
    let many = BiasTerm::rbf(0..1, &[0.01; 100], &(0..100).map(|i| i as f32).collect::<Vec<_>>());
    for (term, n_splits) in [(snippet(1000), None), (snippet(1000), Some(1)), (many, Some(1))] {
        let truth = read(&Device::cpu(), &term, n_splits).unwrap();
        for (name, device) in crate::support::gpus().into_iter().take(1) {
            let found = read(&device, &term, n_splits).unwrap();
            // A thousand roundings in the sum of the loop.
            let off = found.iter().zip(&truth).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{name}: off by {off}");
        }
    }
    for (name, device) in crate::support::gpus().into_iter().take(1) {
        if device.capabilities().max_iterations < 1 << 20 {
            let refused = read(&device, &snippet(10_000), None).unwrap_err();
            assert!(refused.to_string().contains("loop iterations"), "{name}: {refused}");
        }
    }
}

/// Beyond 16 KiB they are in a buffer of their own; they were refused with a word on one uniform.
#[cfg(feature = "gpu")]
#[test]
fn f15_any_number_of_parameters() {
    for (name, device) in devices() {
        for n in [4000, 4096, 1 << 20] {
            let tensor = Tensor::new(&device, &[1, 1, 1, 2], &[1.0, 2.0]).unwrap();
            let coords = Tensor::new(&device, &[1, 1, 2], &[0.0, 0.0]).unwrap();
            let wgsl = format!("return params({}u);", n - 1);
            let params = (0..n).map(|i| i as f32 / n as f32).collect();
            let cpu = Arc::new(move |_: &[f32], _: &[f32], _: usize, params: &[f32]| params[n - 1]);
            let terms = [BiasTerm::custom(0..1, CustomBias { name: "many".into(), wgsl, cpu, params })];
            let options = ScanAttention::default().bias(Bias::new(&coords, &coords, &terms));
            let read = scan_attention(&tensor, &tensor, &tensor, &options).unwrap();
            let wanted = 5.0 / 2f32.sqrt() + (n - 1) as f32 / n as f32;
            assert!((read.log_sum_exp.read().unwrap()[0] - wanted).abs() < 1e-5, "{name}: {n}");
        }
    }
}

/// 1.1 GB for 400 snippets that differ in one number, by the table.
#[cfg(feature = "gpu")]
#[test]
fn r6_pipelines_of_snippets_are_few() {
    for adapter in Device::adapters() {
        let device = Device::on_adapter(&adapter, &wgpu_attention::device::GpuOptions::default()).unwrap();
        for i in 0..20 {
            let found = with_snippet(&device, &format!("return {i}.0;"), |_, _, _, _| 0.0).unwrap().read().unwrap();
            assert!((found[0] - i as f32 - 5.0 / 2f32.sqrt()).abs() < 1e-5, "{found:?}");
        }
        // Those that were forgotten are compiled again, to the same.
        for _ in 0..2 {
            device.trim();
            let found = with_snippet(&device, "return 0.0;", |_, _, _, _| 0.0).unwrap().read().unwrap();
            assert!((found[0] - 5.0 / 2f32.sqrt()).abs() < 1e-5, "{found:?}");
        }
    }
}
