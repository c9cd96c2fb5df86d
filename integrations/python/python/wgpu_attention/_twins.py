"""What stands on the CPU for a bias that is written in WGSL."""

import numpy as np

from .errors import InputError


def matrix(twins, q_coords, k_coords, shape, given):
    """The bias `[batch, n_heads, n_queries, n_keys]` that the functions return, and a matrix that was given."""
    batch, n_heads, n_queries, n_keys = shape
    try:
        q = np.broadcast_to(q_coords, (batch, n_queries, np.shape(q_coords)[-1]))
        k = np.broadcast_to(k_coords, (batch, n_keys, np.shape(k_coords)[-1]))
        total = np.array(np.broadcast_to(0.0 if given is None else given, shape), np.float32, order="C")
    except (ValueError, IndexError):
        found = f"q_coords {np.shape(q_coords)}, k_coords {np.shape(k_coords)} and bias {np.shape(given)}"
        raise InputError(f"{found} do not fit {batch} x {n_heads} heads of {n_queries} queries, {n_keys} keys") from None
    for name, first, end, params, function in twins:
        params = np.array(params, np.float32)
        if not first < end <= min(q.shape[-1], k.shape[-1]):
            raise InputError(f"bias columns is {first}..{end}, allowed is a range within 0..{q.shape[-1]}")
        for b in range(batch):
            for head in range(n_heads):
                found = np.asarray(function(q[b, :, None, first:end], k[b, None, :, first:end], head, params))
                if found.shape != (n_queries, n_keys):
                    raise InputError(
                        f"the twin of the bias {name!r} returned shape {found.shape}, allowed is {(n_queries, n_keys)}"
                    )
                with np.errstate(invalid="ignore", over="ignore"):  # what is not finite masks its pair
                    total[b, head] += found.astype(np.float32)
    return total
