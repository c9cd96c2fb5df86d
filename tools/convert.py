"""Turns a checkpoint of JAX or PyTorch into one that wgpu-attention opens.

    python convert.py model.pt   --model cmanp  --config model.yaml --out mine.safetensors
    python convert.py checkpoint --model tnp_kr --config model.yaml --values 1 --group s=2 --out mine.safetensors

Reads `torch.save` and Lightning files (.pt, .pth, .ckpt, .bin), msgpack of flax (.msgpack), folders of
orbax, and safetensors, also in several parts with an index. Names become those of the papers' code:
prefixes such as `module.` and `model.` go, paths are joined by dots. What is no parameter (the state of an
optimiser, counters) is left out. What was done with every tensor is printed.

The configuration is JSON, or the YAML of the papers' code, which is kept as it is under the key `upstream` of
the metadata and translated when the file is opened (there is none of a NAM transformer). `torch` and
`orbax-checkpoint` are needed for their formats alone.
"""

import argparse
import json
import os
import sys

import ml_dtypes
import msgpack
import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

MODELS = ("tnp_kr", "cmanp", "nam_tm", "nam_few_shot", "nam_lsam", "nam_transformer")
# Where files keep the parameters beside other things, by what is taken first.
PARAMETERS = ("state_dict", "model_state_dict", "params", "model")
# What stands beside the parameters in the state of a training.
OTHERS = ("opt_state", "optimizer", "optimizer_states", "optimizer_state_dict", "lr_schedulers", "loops", "callbacks",
          "step", "global_step", "epoch", "rng", "batch_stats", "hyper_parameters", "pytorch-lightning_version")  # fmt: skip
# What frameworks put before a name.
PREFIXES = ("module.", "model.", "_orig_mod.", "params.", "net.")


class Refused(Exception):
    """What was asked, and what is allowed."""


# --- formats ----------------------------------------------------------------------------


def read_torch(path):
    try:
        import torch
    except ImportError:
        raise Refused(f"{path}: reading it needs PyTorch: pip install torch") from None
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Refused(
            f"{path}: torch.load(weights_only=True) refuses it: {error}\nA file of whole objects is a program: "
            "save the model's state_dict() instead"
        ) from None

    def numbers(x):
        if isinstance(x, torch.Tensor):
            x = x.detach()
            return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()
        return {str(k): numbers(v) for k, v in x.items()} if isinstance(x, dict) else x

    return numbers(stored)


def flax_extension(code, data):
    """Arrays and numbers as flax packs them."""
    if code in (1, 3):  # an array, a numpy scalar
        shape, dtype, buffer = msgpack.unpackb(data, raw=True)
        name = dtype.decode()
        dtype = ml_dtypes.bfloat16 if name == "bfloat16" else np.dtype(name)
        return np.frombuffer(buffer, dtype).reshape(shape)
    return None  # a complex number


def joined(x):
    """Arrays over a gigabyte are packed in pieces."""
    if isinstance(x, dict) and x.get("__msgpack_chunked_array__"):
        pieces = [x["chunks"][k] for k in sorted(x["chunks"], key=int)]
        shape = [x["shape"][k] for k in sorted(x["shape"], key=int)]
        return np.concatenate(pieces).reshape(shape)
    return {k: joined(v) for k, v in x.items()} if isinstance(x, dict) else x


def read_msgpack(path):
    with open(path, "rb") as file:
        try:
            return joined(msgpack.unpackb(file.read(), ext_hook=flax_extension, raw=False, strict_map_key=False))
        except Exception as error:
            raise Refused(f"{path}: it is no msgpack of flax: {error}") from None


def read_orbax(path):
    try:
        import orbax.checkpoint as ocp
    except ImportError:
        raise Refused(f"{path}: reading it needs orbax: pip install orbax-checkpoint") from None
    try:
        return ocp.PyTreeCheckpointer().restore(os.path.abspath(path))
    except Exception as error:
        raise Refused(f"{path}: orbax cannot restore it: {error}") from None


def read_safetensors(path):
    if path.endswith(".index.json"):
        folder, index = os.path.dirname(path), json.load(open(path))
        parts = sorted(set(index["weight_map"].values()))
        missing = [part for part in parts if not os.path.exists(os.path.join(folder, part))]
        if missing:
            raise Refused(f"{path}: these parts are not there: {', '.join(missing)}")
        return {name: x for part in parts for name, x in load_file(os.path.join(folder, part)).items()}
    return load_file(path)


def read(path):
    if not os.path.exists(path):
        raise Refused(f"{path}: there is no such file or folder")
    if os.path.isdir(path):
        index = os.path.join(path, "model.safetensors.index.json")
        whole = os.path.join(path, "model.safetensors")
        return read_safetensors(index if os.path.exists(index) else whole) if (
            os.path.exists(index) or os.path.exists(whole)) else read_orbax(path)  # fmt: skip
    with open(path, "rb") as file:
        start = file.read(16)
    if path.endswith((".safetensors", ".index.json")):
        return read_safetensors(path)
    if start[:2] == b"PK" or start[:1] == b"\x80" and path.endswith((".pt", ".pth", ".ckpt", ".bin")):
        return read_torch(path)
    return read_msgpack(path)


# --- names ------------------------------------------------------------------------------


def parameters(stored):
    """The part of what was stored that holds the parameters; and the names of what stands beside it."""
    left = []
    for _ in range(4):
        inner = next((k for k in PARAMETERS if isinstance(stored, dict) and isinstance(stored.get(k), dict)), None)
        beside = [k for k in stored if k != inner] if inner else []
        # A module may be called `model`: only what stands alone, or beside the state of a training, is unwrapped.
        if inner and all(k in OTHERS or not isinstance(stored[k], (dict, np.ndarray)) for k in beside):
            left += beside
            stored = stored[inner]
        else:
            break
    return stored, left


def flat(stored, path=()):
    if isinstance(stored, dict):
        for name, x in stored.items():
            yield from flat(x, (*path, str(name)))
    elif isinstance(stored, (list, tuple)):
        for i, x in enumerate(stored):
            yield from flat(x, (*path, str(i)))
    else:
        yield ".".join(path).replace("/", "."), stored


def without_prefixes(names):
    """The longest prefix that all names have goes, again and again."""
    cut = ""
    while names and (prefix := next((p for p in PREFIXES if all(n.startswith(cut + p) for n in names)), None)):
        cut += prefix
    return cut


# --- numbers ----------------------------------------------------------------------------


def converted(x, dtype):
    """The array as it is stored, and what was done; None for what is no parameter."""
    x = np.asarray(x)
    kind = str(x.dtype)
    if kind not in ("float64", "float32", "float16", "bfloat16"):
        return None, f"left out: {kind} is no parameter"
    if not np.isfinite(x.astype(np.float64)).all():
        return None, "left out: not all of its numbers are finite"
    wanted = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}.get(dtype)
    wanted = wanted or (np.float32 if kind == "float64" else x.dtype)
    with np.errstate(over="ignore"):
        y = np.ascontiguousarray(x.astype(wanted))
    if not np.isfinite(y.astype(np.float64)).all():
        raise Refused(f"a number of size {np.abs(x).max():g} is beyond {np.dtype(wanted).name}: take --dtype f32")
    return y, "kept" if y.dtype == x.dtype else f"{kind} to {y.dtype}"


def configuration(args):
    """The metadata that say what the model is."""
    with open(args.config) as file:
        text = file.read()
    try:
        found = json.loads(text) if args.config.endswith(".json") else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise Refused(f"{args.config}: {error}") from None
    if not isinstance(found, dict):
        raise Refused(f"{args.config}: a mapping is needed, not {type(found).__name__}")
    if args.config.endswith(".json"):
        return {"model": args.model, "config": json.dumps(found)}
    # Hydra's file of an experiment has the model as one part of it.
    found = found["model"] if isinstance(found.get("model"), dict) and "blk" not in found else found
    beside = {"yaml": found}
    if args.model == "tnp_kr":
        if not args.group:
            raise Refused("the YAML of TNP-KR does not say what a point is: give --group NAME=SIZE for each of x, s, t")
        beside |= {"n_values": args.values, "groups": [[name, int(size)] for name, size in args.group]}
    return {"model": args.model, "upstream": json.dumps(beside)}


def group(text):
    name, equals, size = text.partition("=")
    if not (equals and name and size.isdigit() and int(size) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: NAME=SIZE is needed, such as s=2")
    return name, size


def convert(args):
    stored, left = parameters(read(args.checkpoint))
    stored = dict(flat(stored))
    cut = without_prefixes([name for name in stored if name.split(".")[0] not in OTHERS])
    arrays, left_out = {}, len(left)
    for name in left:
        print(f"{name:60} left out: of the training, not of the model")
    for name, x in sorted(stored.items()):
        if name.split(".")[0] in OTHERS:
            print(f"{name:60} left out: of the training, not of the model")
            left_out += 1
            continue
        own = name.removeprefix(cut)
        try:
            y, what = converted(x, args.dtype)
        except Refused as error:
            raise Refused(f"{name}: {error}") from None
        print(f"{own:60} {str(list(np.shape(x))):20} {what}")
        if y is None:
            left_out += 1
        else:
            arrays[own] = y
    if not arrays:
        raise Refused(f"{args.checkpoint}: there is no parameter in it")
    save_file(arrays, args.out + ".tmp", metadata=configuration(args))
    os.replace(args.out + ".tmp", args.out)
    n = sum(x.size for x in arrays.values())
    print(f"\nwrote {args.out}: {len(arrays)} tensors, {n} numbers; {left_out} left out"
          + (f"; the prefix {cut!r} was taken off" if cut else ""))  # fmt: skip
    print(f"Whether a model can be made of it says: wgpu-attention inspect {args.out}")


def main(argv=None):
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("checkpoint", help="a file, or a folder of orbax or of safetensors")
    args.add_argument("--model", choices=MODELS, required=True)
    args.add_argument("--config", required=True, help="YAML of the papers' code, or JSON of the crate")
    args.add_argument("--values", type=int, default=1, help="of TNP-KR: values at a point")
    args.add_argument("--group", action="append", type=group, metavar="NAME=SIZE",
                      help="of TNP-KR: a coordinate group of the data and its size, in the order x, s, t")  # fmt: skip
    args.add_argument("--dtype", choices=("f32", "f16", "bf16"), help="default: as stored, f64 as f32")
    args.add_argument("--out", required=True)
    try:
        convert(args.parse_args(argv))
    except Refused as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
