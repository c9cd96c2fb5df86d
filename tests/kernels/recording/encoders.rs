//! Recordings that use each other, and encoders of an application's own.

use super::*;

/// What a thread records by itself while another is in a recording, and then encodes, runs last.
#[test]
fn recordings_and_encoders_keep_apart() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let one = number(&ours, 1.0);
    let (y, recording) = ours
        .record(|| {
            std::thread::scope(|scope| scope.spawn(|| drop(sums(&one, &one, 9).unwrap())).join().unwrap());
            sums(&one, &one, 5)
        })
        .unwrap();
    let mut encoder = encoder(&device);
    ours.encode_into(&mut encoder).unwrap();
    recording.submit().unwrap();
    ours.wait().unwrap();
    queue.submit([encoder.finish()]);
    assert_eq!(y.read().unwrap(), [6.0]);
}

#[test]
fn recordings_that_use_each_other() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let x = number(&ours, 1.0);
    let two = || {
        let (a, first) = ours.record(|| add(&x, &x, 1.0)).unwrap();
        let (b, second) = ours.record(|| add(&a, &x, 1.0)).unwrap();
        // The second keeps what it needs of the first.
        drop(a);
        (first, b, second)
    };
    let (first, b, second) = two();
    first.submit().unwrap();
    second.submit().unwrap();
    assert_eq!(b.read().unwrap(), [3.0]);

    let (first, b, second) = two();
    not_computed(second.submit(), "Recording::submit");
    not_computed(b.read(), "refused");
    first.submit().unwrap();

    let (first, b, second) = two();
    drop(first);
    not_computed(second.encode_into(&mut encoder(&device)), "dropped");
    not_computed(b.read(), "dropped");

    // One encoder after the other, or both in one.
    let (first, b, second) = two();
    let mut one = encoder(&device);
    first.encode_into(&mut one).unwrap();
    second.encode_into(&mut one).unwrap();
    queue.submit([one.finish()]);
    assert_eq!(b.read().unwrap(), [3.0]);

    let (first, b, second) = two();
    let mut one = encoder(&device);
    first.encode_into(&mut one).unwrap();
    let mut other = encoder(&device);
    second.encode_into(&mut other).unwrap();
    queue.submit([other.finish()]);
    not_computed(b.read(), "before the work that it needs");
    queue.submit([one.finish()]);

    let (first, b, second) = two();
    let mut one = encoder(&device);
    first.encode_into(&mut one).unwrap();
    not_computed(second.submit(), "has not submitted");
    not_computed(b.read(), "has not submitted");
}

#[test]
fn encoders_tell_when_they_are_submitted() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let x = number(&ours, 1.0);
    // A recording, and all that the device has recorded by itself.
    for form in ["record", "encode_into"] {
        let encoded = || {
            let mut encoder = encoder(&device);
            let y = if form == "record" {
                let (y, recording) = ours.record(|| sums(&x, &x, 4)).unwrap();
                recording.encode_into(&mut encoder).unwrap();
                y
            } else {
                let y = sums(&x, &x, 4).unwrap();
                ours.encode_into(&mut encoder).unwrap();
                y
            };
            (y, encoder)
        };
        let (y, encoder) = encoded();
        not_computed(y.read(), "has not submitted");
        not_computed(pollster::block_on(y.read_async()), "has not submitted");
        not_computed(add(&y, &x, 1.0), "has not submitted");
        let commands = encoder.finish();
        not_computed(y.read(), "has not submitted");
        queue.submit([commands]);
        assert_eq!(y.read().unwrap(), [5.0], "{form}");
        assert_eq!(add(&y, &x, 1.0).unwrap().read().unwrap(), [6.0], "{form}");

        let (y, encoder) = encoded();
        drop(encoder);
        not_computed(y.read(), "encoder was dropped");
        let (y, encoder) = encoded();
        drop(encoder.finish());
        not_computed(add(&y, &x, 1.0), "encoder was dropped");
        assert_eq!(add(&x, &x, 1.0).unwrap().read().unwrap(), [2.0], "{form}");
    }
}

/// The submit is known at once, while other threads poll and finish work.
#[test]
fn a_submit_is_never_missed() {
    let Some((device, queue, ours)) = shared_device() else { return };
    let working = Arc::new(());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (device, working) = (&device, Arc::downgrade(&working));
            scope.spawn(move || {
                while working.strong_count() > 0 {
                    device.poll(wgpu::PollType::Poll).unwrap();
                }
            });
        }
        // Dropped also where the test fails.
        let _working = working;
        let x = number(&ours, 1.0);
        for _ in 0..300 {
            let (y, recording) = ours.record(|| add(&x, &x, 1.0)).unwrap();
            let mut encoder = encoder(&device);
            recording.encode_into(&mut encoder).unwrap();
            queue.submit([encoder.finish()]);
            assert_eq!(y.read().unwrap(), [2.0]);
        }
    });
}

#[test]
fn long_recordings_are_several_submits() {
    let Some((device, queue, ours)) = shared_device() else { return };
    // Each sum has parameters of its own; 6 000 of them do not fit in one submit. None is rounded.
    let one = Tensor::new(&ours, &[2], &[1.0, 2.0]).unwrap();
    let long = || ours.record(|| (0..6000).try_fold(one.clone(), |sum, i| add(&sum, &one, (i % 1000) as f32)));
    let expected = [2_997_001.0, 5_994_002.0];
    let (sum, recording) = long().unwrap();
    assert!(recording.n_submits() > 1 && recording.n_dispatches() == 6000);
    device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    not_computed(sum.read(), "Recording::submit");
    recording.submit().unwrap();
    assert_eq!(sum.read().unwrap(), expected);

    let (sum, recording) = long().unwrap();
    let mut encoder = encoder(&device);
    recording.encode_into(&mut encoder).unwrap();
    not_computed(sum.read(), "has not submitted");
    queue.submit([encoder.finish()]);
    assert_eq!(sum.read().unwrap(), expected);
}
