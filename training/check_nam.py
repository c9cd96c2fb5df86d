"""Compare nam.py with stored float64 results of the paper's code.

    python check_nam.py FILE...

Files are namtmae_*.safetensors, lsam_ae.safetensors and fewshot_*.safetensors. Prints max |a-b| / (1+|b|).
"""

import json
import os
import sys

import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors.numpy import load_file

import nam

TOLERANCE = 1e-5


def outputs(params, config, inputs):
    if "nhead" in config and "d_model" in config:
        return {"logits": nam.lsam_forward(params, config, inputs["tokens"]).transpose(0, 2, 1)}
    if "tokens" in inputs:
        option = {name.replace("_", ""): name for name in nam.OPTIONS}[config["option"]]
        cfg = {"option": option, "n_heads": config["nhead"], "mem_size": config["mem_size"]}
        cfg["tape_length"] = config["defalt_tapelen"]
        return {"logits": nam.forward(params, cfg, inputs["tokens"]).transpose(0, 2, 1)}
    cfg = {"generator": config["weight_generator_type"], "classifier_type": config["classifier_type"]}
    support, labels, base = (inputs[k] for k in ("features_train", "labels_train", "Kbase_ids"))
    weights = nam.classifier_weights(params, cfg, support, labels, base)
    alone = params["weight_base"][base]
    return {
        "cls_weights": weights,
        "cls_scores": nam.classify(params, cfg, weights, inputs["features_test"]),
        "cls_scores_base_only": nam.classify(params, cfg, alone, inputs["features_test"]),
    }


def main():
    worst = 0.0
    for path in sys.argv[1:]:
        tensors = {name: jnp.asarray(x) for name, x in load_file(path).items() if not name.startswith("out64.")}
        wanted = {k[len("out64.") :]: x for k, x in load_file(path).items() if k.startswith("out64.")}
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata()
        part = lambda prefix: {k[len(prefix) :]: x for k, x in tensors.items() if k.startswith(prefix)}
        got = outputs(part("param."), json.loads(metadata["config"]), part("in."))
        errors = {
            name: float(np.max(np.abs(np.asarray(x, np.float64) - wanted[name]) / (1 + np.abs(wanted[name]))))
            for name, x in got.items()
        }
        print(os.path.basename(path), *(f"{name} {error:.1e}" for name, error in errors.items()))
        # The paper's own code in float32 may be farther off.
        allowed = max(TOLERANCE, 2 * float(metadata["f32_vs_f64_max_err"].split()[0]))
        worst = max(worst, *(error / allowed for error in errors.values()))
    print("ok" if worst < 1 else f"FAILED: {worst:.1f} times what is allowed")
    sys.exit(not worst < 1)


if __name__ == "__main__":
    main()
