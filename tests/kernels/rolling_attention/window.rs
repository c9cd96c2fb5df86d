//! Windows and left-out blocks against states of the same keys from scratch.

use super::{Cut, bound, stream};
use crate::support::{Random, devices, oracle};
use wgpu_attention::ops::{RollingState, Window, leave_one_out};

/// The case of some of its keys.
fn only(case: &oracle::Case, keys: &[usize]) -> oracle::Case {
    let pick = |x: &[f32], dim: usize| -> Vec<f32> {
        x.chunks(case.n_keys * dim)
            .flat_map(|rows| keys.iter().flat_map(move |key| &rows[key * dim..][..dim]))
            .copied()
            .collect()
    };
    let oracle::Case { batch, n_heads, n_queries, head_dim, v_dim, .. } = *case;
    let (q, k, v) = (case.q.clone(), pick(&case.k, head_dim), pick(&case.v, v_dim));
    oracle::Case { batch, n_heads, n_queries, n_keys: keys.len(), head_dim, v_dim, q, k, v, ..Default::default() }
}

#[test]
fn a_window_reads_as_its_last_blocks_from_scratch() {
    let mut random = Random::new(31);
    let mut case = stream(&mut random, [2, 2, 3, 120, 5, 4]);
    // What is forgotten weighed most.
    case.k[..40].iter_mut().for_each(|k| *k *= 8.0);
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: true };
        let mut window: Window<RollingState> = Window::default();
        let blocks: Vec<Vec<usize>> = (0..30).map(|i| (4 * i..4 * i + 4).collect()).collect();
        for (i, block) in blocks.iter().enumerate() {
            window.push(cut.write(None, block)).unwrap();
            if window.len() > 7 {
                assert!(window.pop().unwrap());
            }
            let keys = blocks[(i + 1).saturating_sub(7)..=i].concat();
            let truth = oracle::scan_attention(&only(&case, &keys));
            let error = cut.error(&window.state().unwrap().unwrap(), &truth);
            assert!(error <= bound(&device), "{name}: block {i}: off by {error:.1e}");
        }
    }
}

#[test]
fn every_block_can_be_left_out() {
    let mut random = Random::new(32);
    let case = stream(&mut random, [1, 2, 3, 60, 5, 4]);
    for (name, device) in devices() {
        let cut = Cut { device: &device, case: &case, head_major: true };
        let blocks: Vec<Vec<usize>> = (0..12).map(|i| (5 * i..5 * i + 5).collect()).collect();
        let states: Vec<RollingState> = blocks.iter().map(|block| cut.write(None, block)).collect();
        for (i, state) in leave_one_out(&states).unwrap().into_iter().enumerate() {
            let keys: Vec<usize> = (0..60).filter(|key| key / 5 != i).collect();
            let truth = oracle::scan_attention(&only(&case, &keys));
            let error = cut.error(&state.unwrap(), &truth);
            assert!(error <= bound(&device), "{name}: without {i}: off by {error:.1e}");
        }
        assert!(leave_one_out(&states[..1]).unwrap()[0].is_none() && leave_one_out(&states[..0]).unwrap().is_empty());
    }
}
