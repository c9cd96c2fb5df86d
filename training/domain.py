"""What a checkpoint says of itself beside its parameters: what its training was like (`domain`), and a
fingerprint of everything in the file, which the crate compares when it reads it.

    python domain.py ../checkpoints/gp_1d.safetensors ...     # writes the metadata anew

Parameters stay as they are, bit for bit. Files of other models than TNP-KR and CMANP get a fingerprint.
"""

import json
import os
import struct
import sys

import numpy as np
from safetensors.numpy import load_file, save

import tasks

N_TASKS = 400  # of each range of context sizes


def describe(kind, embeds, seed=7):
    """The extremes of many tasks. With a phase, coordinates after the first are cosines and sines."""
    rng = np.random.default_rng(seed)
    drawn = []
    for low, high in kind.buckets:
        for _ in range(N_TASKS // kind.at_once):
            drawn += kind.draw(rng, kind.at_once, rng.integers(low, high + 1), kind.n_targets)

    def limits(numbers, digits=4):
        # Outwards, so that no task lies outside.
        unit = 10.0**-digits
        least, largest = np.floor(min(numbers) / unit) * unit, np.ceil(max(numbers) / unit) * unit
        return [round(float(least), digits), round(float(largest), digits)]

    coordinates = []
    for c in range(kind.dim):
        points = [task["s"].reshape(-1, kind.dim)[:, c] for task in drawn]
        contexts = [s[task["ctx"]] for s, task in zip(points, drawn)]
        record = {"extent": limits([np.ptp(s) for s in points])[1]}
        if embeds:
            record["position"] = limits([s.min() for s in points] + [s.max() for s in points])
        if c == 0 and (kind.dim == 1 or kind.phase):
            record["spacing"] = limits([np.ptp(s) / (len(s) - 1) for s in contexts])
        coordinates.append(record)
    values = [task["y"][task["ctx"]] for task in drawn]
    values = {"mean": limits([y.mean() for y in values]), "std": limits([y.std() for y in values])}
    return {"coordinates": coordinates, "values": values}


def domain(name, cfg, training):
    """Of a model with the `training` in its metadata; None of one that was trained on other things, or on
    classes, which have no mean and deviation."""
    if name not in ("tnp_kr", "cmanp") or tasks.n_classes(tasks.TASKS[training["data"].get("kind", "line")]):
        return None
    embeds = name == "cmanp" or any(group["embed"] for group in cfg["groups"])
    kind = tasks.TASKS[training["data"].get("kind", "line")]
    return describe(getattr(kind, "limits", kind), embeds)


def fnv(hash, data):
    for byte in data:
        hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return hash


def fingerprint(params, metadata):
    """FNV-1a of the parameters and of all other metadata, each by its name."""
    hash = 0xCBF29CE484222325
    for name in sorted(params, key=str.encode):
        x = np.ascontiguousarray(params[name], "<f4")
        hash = fnv(hash, name.encode() + struct.pack(f"<{x.ndim}Q", *x.shape) + x.tobytes())
    for key in sorted(metadata, key=str.encode):
        if key != "fingerprint":
            hash = fnv(hash, key.encode() + b"\0" + metadata[key].encode() + b"\0")
    return f"{hash:016x}"


def write(path, params, metadata):
    """A checkpoint with its fingerprint, whole or not at all. Metadata come in order, so that equal
    contents are equal files. Arrays are float16 if they are given so, or float32."""
    dtype = lambda x: np.float16 if x.dtype == np.float16 else np.float32
    params = {name: np.ascontiguousarray(x, dtype(x)) for name, x in params.items()}
    metadata = dict(sorted((metadata | {"fingerprint": fingerprint(params, metadata)}).items()))
    plain = save(params)
    length = struct.unpack("<Q", plain[:8])[0]
    header = {"__metadata__": metadata} | json.loads(plain[8 : 8 + length])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path + ".tmp", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + plain[8 + length :])
    os.replace(path + ".tmp", path)


def read_metadata(path):
    with open(path, "rb") as file:
        return json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))["__metadata__"]


def main():
    for path in sys.argv[1:]:
        params, metadata = load_file(path), read_metadata(path)
        found = domain(metadata["model"], json.loads(metadata["config"]), json.loads(metadata["training"]))
        if found:
            metadata["domain"] = json.dumps(found)
        write(path, params, metadata)
        print(path, metadata.get("domain", ""))


if __name__ == "__main__":
    main()
