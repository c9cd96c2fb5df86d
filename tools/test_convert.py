"""What the converter does with files as frameworks write them. A framework that is not installed is
skipped; the formats themselves are made by hand."""

import json
import os

import ml_dtypes
import msgpack
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import convert

JSON = {"n_blocks": 1}


def run(tmp_path, checkpoint, *more, model="tnp_kr", config=None):
    config = config or tmp_path / "config.json"
    if not os.path.exists(config):
        config.write_text(json.dumps(JSON))
    out = str(tmp_path / "out.safetensors")
    convert.main([str(checkpoint), "--model", model, "--config", str(config), "--out", out, *more])
    return load_file(out), safe_open(out, "np").metadata()


def refused(*args, **more):
    with pytest.raises(SystemExit) as caught:
        run(*args, **more)
    return str(caught.value)


def packed(tree):
    def array(x):
        return msgpack.ExtType(1, msgpack.packb((x.shape, x.dtype.name, x.tobytes()), use_bin_type=True))

    return msgpack.packb(tree, default=array, strict_types=True)


def test_flax_msgpack_of_a_training_state(tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    half = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    tree = {"params": {"head": {"Dense_0": {"kernel": kernel, "bias": half}}}, "step": 7, "opt_state": {"0": {"mu": kernel}}}
    (tmp_path / "state.msgpack").write_bytes(packed(tree))
    arrays, metadata = run(tmp_path, tmp_path / "state.msgpack")
    assert sorted(arrays) == ["head.Dense_0.bias", "head.Dense_0.kernel"]
    assert (arrays["head.Dense_0.kernel"] == kernel).all() and arrays["head.Dense_0.bias"].dtype == ml_dtypes.bfloat16
    assert metadata["model"] == "tnp_kr" and json.loads(metadata["config"]) == JSON


def test_arrays_over_a_gigabyte_come_in_pieces(tmp_path):
    pieces = {"__msgpack_chunked_array__": True, "shape": {"0": 2, "1": 3},
              "chunks": {str(i): np.full(1, i, np.float32) for i in range(6)}}  # fmt: skip
    (tmp_path / "state.msgpack").write_bytes(packed({"params": {"w": pieces}}))
    assert run(tmp_path, tmp_path / "state.msgpack")[0]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_safetensors_with_prefixes_counters_and_doubles(tmp_path):
    arrays = {"module.model.a.weight": np.ones((2, 2)), "module.model.n": np.array(3), "module.model.b/c": np.ones(2, np.float16)}
    save_file(arrays, tmp_path / "m.safetensors")
    out, _ = run(tmp_path, tmp_path / "m.safetensors")
    assert {k: x.dtype for k, x in out.items()} == {"a.weight": np.float32, "b.c": np.float16}
    assert run(tmp_path, tmp_path / "m.safetensors", "--dtype", "f32")[0]["b.c"].dtype == np.float32
    save_file({"x": np.array([1e30], np.float32)}, tmp_path / "big.safetensors")
    assert "beyond float16" in refused(tmp_path, tmp_path / "big.safetensors", "--dtype", "f16")


def test_safetensors_in_parts(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file({"a": np.zeros(1, np.float32)}, folder / "1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    assert "2.safetensors" in refused(tmp_path, folder)
    save_file({"b": np.zeros(1, np.float32)}, folder / "2.safetensors")
    assert sorted(run(tmp_path, folder)[0]) == ["a", "b"]


def test_a_parameter_called_model_is_not_taken_for_all(tmp_path):
    (tmp_path / "m.msgpack").write_bytes(packed({"model": {"w": np.zeros(1, np.float32)}, "head": {"w": np.ones(1, np.float32)}}))
    assert sorted(run(tmp_path, tmp_path / "m.msgpack")[0]) == ["head.w", "model.w"]


def test_yaml_goes_into_the_metadata_with_what_it_does_not_say(tmp_path):
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "m.safetensors")
    config = tmp_path / "model.yaml"
    config.write_text("model:\n  num_blks: 6\n  blk: {attn: {}}\n")
    assert "--group" in refused(tmp_path, tmp_path / "m.safetensors", config=config)
    metadata = run(tmp_path, tmp_path / "m.safetensors", "--group", "s=2", "--values", "3", config=config)[1]
    expected = {"yaml": {"num_blks": 6, "blk": {"attn": {}}}, "n_values": 3, "groups": [["s", 2]]}
    assert json.loads(metadata["upstream"]) == expected


def test_what_is_wrong_is_said(tmp_path):
    assert "no such file" in refused(tmp_path, tmp_path / "nothing.pt")
    (tmp_path / "text.msgpack").write_bytes(b"hello, this is no checkpoint")
    assert "msgpack" in refused(tmp_path, tmp_path / "text.msgpack")
    save_file({"n": np.array([1])}, tmp_path / "m.safetensors")
    assert "no parameter" in refused(tmp_path, tmp_path / "m.safetensors")


def test_torch_and_lightning(tmp_path):
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2).to(torch.bfloat16)
    torch.save(torch.nn.DataParallel(layer).state_dict(), tmp_path / "m.pt")
    assert sorted(run(tmp_path, tmp_path / "m.pt", model="cmanp")[0]) == ["bias", "weight"]
    state = {"state_dict": {f"model.{k}": v for k, v in layer.state_dict().items()}, "epoch": 3, "global_step": 9,
             "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}]}  # fmt: skip
    torch.save(state, tmp_path / "m.ckpt")
    out, _ = run(tmp_path, tmp_path / "m.ckpt", model="cmanp")
    assert (out["weight"].astype(np.float32) == layer.weight.detach().float().numpy()).all()
    torch.save(layer, tmp_path / "object.pt")
    assert "state_dict()" in refused(tmp_path, tmp_path / "object.pt", model="cmanp")


def test_flax_and_orbax(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    tree = {"params": {"Dense_0": {"kernel": np.arange(4, dtype=np.float32).reshape(2, 2)}}}
    (tmp_path / "m.msgpack").write_bytes(serialization.to_bytes(tree))
    assert (run(tmp_path, tmp_path / "m.msgpack")[0]["Dense_0.kernel"] == [[0, 1], [2, 3]]).all()
    ocp = pytest.importorskip("orbax.checkpoint")
    ocp.PyTreeCheckpointer().save(tmp_path / "orbax", tree)
    assert (run(tmp_path, tmp_path / "orbax")[0]["Dense_0.kernel"] == [[0, 1], [2, 3]]).all()
