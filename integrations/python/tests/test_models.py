"""Models of the repository's own checkpoints."""

import json

import numpy as np
import pytest
from conftest import CHECKPOINTS, FIXTURES, read_arrays, write_checkpoint

import wgpu_attention as wa

GP = CHECKPOINTS / "gp_1d.safetensors"
STREAM = CHECKPOINTS / "cmanp_gp_1d.safetensors"


def phase(t):
    """Points of the stream: the time, and the phase of its known cycle."""
    t = np.asarray(t)
    return np.stack([t, np.cos(44 * t), np.sin(44 * t)], -1)


@pytest.fixture(scope="module")
def tnp(device):
    return wa.TnpKr.open(GP, device=device)


@pytest.fixture(scope="module")
def cmanp(device):
    return wa.Cmanp.open(str(STREAM), device=device)


def test_every_checkpoint_opens():
    kinds = {type(wa.open(path, device=wa.Device.cpu())).__name__ for path in CHECKPOINTS.glob("*.safetensors")}
    assert kinds == {"TnpKr", "Cmanp", "NamTm", "LsamAe", "FewShot"}


def test_tnp_kr(tnp, tmp_path):
    x, y = np.array([-1.0, 0.0, 1.0]), [0.3, -0.1, 0.5]
    posterior = tnp.condition(x, y)
    assert posterior.n_context == 3 and tnp.config["n_values"] == 1 and len(tnp.domain["coordinates"]) == 1
    at = np.linspace(-1, 1, 21)[:, None]
    prediction = posterior.predict(at)
    assert prediction.mean.shape == prediction.std.shape == prediction.shape == (21, 1) and len(prediction) == 21
    assert abs(prediction.mean[0, 0] - 0.3) < 0.3 and (prediction.std > 0).all()
    low, high = prediction.interval(0.9)
    assert (low < prediction.mean).all() and (prediction.mean < high).all()
    np.testing.assert_allclose(prediction.quantile(0.5), prediction.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(prediction.cdf(prediction.quantile(0.3)), 0.3, atol=1e-9)
    y_at = np.zeros(21)
    z = (y_at - prediction.mean[:, 0].astype(float)) / prediction.std[:, 0].astype(float)
    density = -0.5 * z**2 - np.log(prediction.std[:, 0].astype(float)) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(prediction.log_density(y_at), density, rtol=1e-5, atol=1e-5)
    assert prediction.crps(y_at[:, None]).shape == (21, 1) and prediction.sample(5, seed=1).shape == (5, 21, 1)
    np.testing.assert_array_equal(prediction.sample(2, seed=1), prediction.sample(5, seed=1)[:2])
    scaled = prediction.in_units([10.0], [280.0])
    np.testing.assert_allclose(scaled.mean, 280 + 10 * prediction.mean, rtol=1e-6)

    posterior.save(tmp_path / "posterior.safetensors")
    for saved in (tmp_path / "posterior.safetensors", posterior.to_bytes()):
        np.testing.assert_array_equal(tnp.restore(saved).predict(at).mean, prediction.mean)


def test_tnp_kr_of_a_batch(tnp):
    x = np.array([[[-1.0], [0.0]], [[0.5], [np.nan]]])
    y = np.array([[0.3, 0.1], [0.2, np.nan]])
    keep = np.array([[True, True], [True, False]])
    both = tnp.condition(x, y, mask=keep)
    prediction = both.predict(np.zeros((2, 3, 1)))
    assert prediction.mean.shape == (2, 3, 1)
    second = tnp.condition([0.5], [0.2]).predict([0.0, 0.0, 0.0])
    np.testing.assert_allclose(prediction.mean[1], second.mean, atol=1e-5)
    again = tnp.restore(both.to_bytes()).predict(np.zeros((2, 3, 1)))
    np.testing.assert_array_equal(again.mean, prediction.mean)
    one = tnp.condition(np.zeros((1, 2, 1)) + [[0.0], [1.0]], np.zeros((1, 2, 1)))
    assert tnp.restore(one.to_bytes()).predict(np.zeros((1, 1, 1))).mean.shape == (1, 1, 1)


def test_groups_by_name(tnp):
    by_name = tnp.condition({"s": [0.0, 1.0]}, [0.3, 0.1]).predict({"s": [0.5]})
    np.testing.assert_array_equal(by_name.mean, tnp.condition([0.0, 1.0], [0.3, 0.1]).predict([0.5]).mean)
    with pytest.raises(wa.errors.InputError, match='group is "t"'):
        tnp.condition({"t": [0.0, 1.0]}, [0.3, 0.1])


def test_draws_and_the_density_that_they_imply(tnp):
    x, y, at = [-1.0, 1.0], [0.3, 0.5], [-0.5, 0.0, 0.5]
    drawn = tnp.draws(x, y, at, 4, seed=7)
    assert drawn.shape == (4, 3, 1)
    np.testing.assert_allclose(tnp.draws(x, y, at, 2, seed=7), drawn[:2], atol=1e-4)
    evaluation = tnp.evaluate(x, y, at, drawn[0])
    assert evaluation.mean.shape == (3, 1) and evaluation.log_densities.shape == (3, 1)
    np.testing.assert_allclose(evaluation.log_density_joint, evaluation.log_densities.sum(0))
    np.testing.assert_allclose(evaluation.per_target * 3, evaluation.log_density_joint)


def test_far_from_the_origin(tnp):
    x, y, at = np.array([0.0, 0.5, 1.0]), [0.3, 0.1, 0.2], np.array([0.25])
    near = tnp.condition(x, y).predict(at)
    far = tnp.condition(x + 2.0**30, y, origin=[2.0**30]).predict(at + 2.0**30)
    np.testing.assert_allclose(far.mean, near.mean, atol=1e-5)
    # What float32 has lost before cannot be had back.
    with pytest.raises(wa.errors.InputError, match="give coordinates as f64"):
        tnp.condition(np.float32(200 * x + 2.0**30), y)


def test_nearest_observations(tnp):
    x = np.linspace(0, 20, 400)
    mean, std = tnp.predict_local(x, np.sin(x), [3.3, 17.2], nearest=32)
    assert mean.shape == std.shape == (2, 1)
    assert np.abs(mean[:, 0] - np.sin([3.3, 17.2])).max() < 0.2


def test_outside_of_the_training(tnp):
    days = [0.0, 31.0, 59.0]
    outside = tnp.condition(days, [0.3, -0.1, 0.5]).predict([45.0]).outside
    assert any("extent" in what for what in outside)
    assert tnp.condition([0.0, 1.0, 2.0], [0.3, -0.1, 0.5]).predict([1.5]).outside == []


def test_cmanp(cmanp, tmp_path):
    t = np.linspace(-2, 2, 40)
    y = np.sin(t)
    posterior = cmanp.condition(phase(t[:20]), y[:20])
    n_bytes = posterior.n_bytes
    more = posterior.update(phase(t[20:]), y[20:])
    assert (posterior.n_points, more.n_points, more.n_bytes) == ([20], [40], n_bytes)
    at = phase([-0.3, 0.4])
    whole = cmanp.condition(phase(t), y).predict(at)
    np.testing.assert_allclose(more.predict(at).mean, whole.mean, atol=1e-4)
    merged = posterior.merge(cmanp.condition(phase(t[20:]), y[20:]))
    np.testing.assert_allclose(merged.predict(at).std, whole.std, atol=1e-4)
    more.save(tmp_path / "stream.safetensors")
    again = cmanp.restore(tmp_path / "stream.safetensors")
    np.testing.assert_array_equal(again.predict(at).mean, more.predict(at).mean)
    assert again.update(phase([2.1]), [0.2]).n_points == [41]
    drawn = more.draws(at, 6, seed=3)
    assert drawn.shape == (6, 2, 1)
    assert more.evaluate(at, drawn[0]).log_densities.shape == (2, 1)
    with pytest.raises(wa.errors.InputError, match="predict_joint is not supported"):
        cmanp.restore(more.to_bytes()).predict_joint(at)


def test_targets_that_vary_together(device, tmp_path):
    metadata, arrays = read_arrays(FIXTURES / "cmanpand_cholesky.safetensors")
    upstream = json.dumps({"yaml": json.loads(metadata["config"])})
    parameters = {name[6:]: array for name, array in arrays.items() if name.startswith("param.")}
    write_checkpoint(tmp_path / "and.safetensors", {"model": "cmanp", "upstream": upstream}, parameters)
    model = wa.Cmanp.open(tmp_path / "and.safetensors", device=device)
    xc, yc, xt, yt = (arrays[f"in.{name}"] for name in ("xc", "yc", "xt", "yt"))
    for b, joint in enumerate(model.condition(xc, yc).predict_joint(xt)):
        assert len(joint) == 13 and joint.sample(3).shape == (3, 13)
        np.testing.assert_allclose(joint.mean, arrays["out64.joint.mean"][b].ravel(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(joint.covariance, arrays["out64.joint.covariance"][b], rtol=1e-4, atol=1e-4)
        for y in (yt[b], yt[b].ravel()):
            np.testing.assert_allclose(joint.log_density(y), arrays["out64.joint.log_prob"][b], rtol=1e-3)
        for y in (yt[b].T, yt[b][None], yt[b][:12]):
            with pytest.raises(wa.errors.InputError, match=r"y is an array of shape .*, allowed is \[13\] or \[13, 1\]"):
                joint.log_density(y)


def test_whole_numbers_as_coordinates(tnp):
    nanoseconds = np.array([0, 1, 2**53 - 1])
    far = tnp.condition(nanoseconds[:2], [0.3, 0.1]).predict([0])
    np.testing.assert_array_equal(far.mean, tnp.condition([0.0, 1.0], [0.3, 0.1]).predict([0.0]).mean)
    origin = [2**53 - 1]
    there = tnp.condition(nanoseconds[2:] - [[1], [0]], [0.3, 0.1], origin=origin).predict(origin)
    here = tnp.condition([-1.0, 0.0], [0.3, 0.1], origin=[0.0]).predict([0.0])
    np.testing.assert_array_equal(there.mean, here.mean)


def test_a_turing_machine_adds():
    model = wa.NamTm.open(CHECKPOINTS / "nam_tm_addition.safetensors", device=wa.Device.cpu())
    # 12 + 93, a digit of each in turn, the last first; then room for the sum.
    tokens = [2, 3, 1, 9, 10, 11, 11, 11]
    logits = model.predict(tokens)
    assert logits.shape == (8, 12)
    assert model.predict([tokens, tokens]).shape == (2, 8, 12)
    assert logits[-3:].argmax(-1).tolist() == [5, 0, 1]
    with pytest.raises(wa.errors.InputError, match="whole number"):
        model.predict([0.5])


def test_few_shots(rng):
    model = wa.FewShot.open(CHECKPOINTS / "few_shot_nam2_5.safetensors", device=wa.Device.cpu())
    centres = rng.random((2, 64))
    supports = np.repeat(centres, 5, 0) + 0.01 * rng.normal(size=(10, 64))
    classifier = model.condition(supports, np.repeat(np.eye(2), 5, 0), base_ids=[0, 1, 2])
    assert classifier.n_classes == 5
    assert classifier.predict(centres).argmax(1).tolist() == [3, 4]
    assert model.base().n_classes == model.config["n_base"]
    with pytest.raises(wa.errors.InputError, match=r"base_ids is an array of shape \[1, 2\], allowed is \[n\]"):
        model.base([[0, 1]])
    with pytest.raises(wa.errors.InputError, match=r"\[n, 64\]"):
        classifier.predict(np.zeros((1, 3)))
