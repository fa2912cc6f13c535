"""Other people's recurrent layers for `benchmarks.layers`: JAX's `lax.scan`, onnxruntime, Keras.

Each function takes one of torch.nn's layers, an input x (T, B, I) and the gradient of the output, and gives a call that
computes the output with the same weights; `None` where the peer has no such pass. Whoever trains gets the gradients of the
input and of every weight. What a peer does once (compiling, loading) is done before.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import unrolled

Call = Callable[[], Tensor]


def onnxruntime(module: nn.RNNBase, x: Tensor, d_out: Tensor, what: str, threads: int) -> Call | None:
    """Inference on the file that our own export writes."""
    if what != "inference":
        return None
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to the next peer
    with tempfile.TemporaryDirectory() as folder:
        path = unrolled.export_onnx(module, Path(folder) / "layer.onnx")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    state = torch.zeros(1, x.shape[1], module.hidden_size).numpy()
    feeds = {one.name: x.numpy() if one.name == "input" else state for one in session.get_inputs()}
    return lambda: torch.from_numpy(session.run(["output"], feeds)[0])


def jax(module: nn.RNNBase, x: Tensor, d_out: Tensor, what: str, threads: int) -> Call:
    """The cell in `lax.scan`, jitted: the input product of the whole sequence first, as one writes it for speed."""
    import jax as j
    import jax.numpy as jnp

    w_ih, w_hh, b_ih, b_hh = (weight.detach() for weight in module.parameters())
    # Kernels as (width, G*H), as JAX's libraries have them; one bias, but for the GRU, whose n gate needs both.
    sequence = {"LSTM": _scan_lstm, "GRU": _scan_gru, "RNN_TANH": _scan_rnn}[module.mode]
    weights: list[Any] = [w_ih.t(), w_hh.t(), b_ih, b_hh] if module.mode == "GRU" else [w_ih.t(), w_hh.t(), b_ih + b_hh]
    weights = [jnp.array(weight.contiguous().numpy()) for weight in weights]

    def forward(weights: Any, x: Any) -> Any:
        return sequence(j, weights, x)

    return _compiled(j, forward, weights, jnp.array(x.numpy()), jnp.array(d_out.numpy()), what)


def keras(module: nn.RNNBase, x: Tensor, d_out: Tensor, what: str, threads: int) -> Call:
    """Keras' layer on its JAX backend, jitted; on its torch backend a Python loop over the steps is all it has on a CPU."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax as j
    import jax.numpy as jnp
    import keras as k

    H = module.hidden_size
    w_ih, w_hh, b_ih, b_hh = (weight.detach() for weight in module.parameters())
    if module.mode == "GRU":  # Keras has z r n, torch r z n
        w_ih, w_hh, b_ih, b_hh = (torch.cat([w[H : 2 * H], w[:H], w[2 * H :]]) for w in (w_ih, w_hh, b_ih, b_hh))
    bias = torch.stack([b_ih, b_hh]) if module.mode == "GRU" else b_ih + b_hh
    layer = {"LSTM": k.layers.LSTM, "GRU": k.layers.GRU, "RNN_TANH": k.layers.SimpleRNN}[module.mode](H, return_sequences=True)
    layer.build((x.shape[1], x.shape[0], x.shape[2]))
    layer.set_weights([w_ih.t().numpy(), w_hh.t().numpy(), bias.numpy()])
    frozen = [variable.value for variable in layer.non_trainable_variables]

    def forward(weights: Any, x: Any) -> Any:  # (B, T, I), as Keras lays it out
        return layer.stateless_call(weights, frozen, x)[0]

    x, d_out = (jnp.array(t.transpose(0, 1).contiguous().numpy()) for t in (x, d_out))
    call = _compiled(j, forward, [variable.value for variable in layer.trainable_variables], x, d_out, what)
    return lambda: call().transpose(0, 1)


PEERS = {"JAX": jax, "onnxruntime": onnxruntime, "Keras": keras}
_NEEDS = {"JAX": ("jax",), "onnxruntime": ("onnx", "onnxruntime"), "Keras": ("keras", "jax")}


def missing(peer: str) -> str:
    """Why `peer` cannot take part, in words; empty when it can."""
    absent = [package for package in _NEEDS[peer] if importlib.util.find_spec(package) is None]
    return f"{peer} left out: {' and '.join(absent)} not installed (pip install '.[bench]')" if absent else ""


def versions(peers: list[str]) -> dict[str, str]:
    packages = dict.fromkeys(package for peer in peers for package in _NEEDS[peer] if package != "onnx")
    return {package: importlib.metadata.version(package) for package in packages}


def _compiled(j: Any, forward: Callable[[Any, Any], Any], weights: Any, x: Any, d_out: Any, what: str) -> Call:
    def training(weights: Any, x: Any, d_out: Any) -> Any:
        output, backward = j.vjp(forward, weights, x)
        return output, backward(d_out)

    if what == "inference":
        run = j.jit(forward).lower(weights, x).compile()
        return lambda: torch.from_dlpack(j.block_until_ready(run(weights, x)))
    run = j.jit(training).lower(weights, x, d_out).compile()
    return lambda: torch.from_dlpack(j.block_until_ready(run(weights, x, d_out))[0])


def _scan_lstm(j: Any, weights: Any, x: Any) -> Any:
    w_ih, w_hh, bias = weights
    zeros = j.numpy.zeros((x.shape[1], w_hh.shape[0]))

    def step(state: Any, x_gates: Any) -> Any:
        h, c = state
        i, f, g, o = j.numpy.split(x_gates + h @ w_hh, 4, axis=-1)
        c = j.nn.sigmoid(f) * c + j.nn.sigmoid(i) * j.numpy.tanh(g)
        h = j.nn.sigmoid(o) * j.numpy.tanh(c)
        return (h, c), h

    return j.lax.scan(step, (zeros, zeros), x @ w_ih + bias)[1]


def _scan_gru(j: Any, weights: Any, x: Any) -> Any:
    w_ih, w_hh, b_ih, b_hh = weights

    def step(h: Any, x_gates: Any) -> Any:
        r_x, z_x, n_x = j.numpy.split(x_gates, 3, axis=-1)
        r_h, z_h, n_h = j.numpy.split(h @ w_hh + b_hh, 3, axis=-1)
        r, z = j.nn.sigmoid(r_x + r_h), j.nn.sigmoid(z_x + z_h)
        h = (1 - z) * j.numpy.tanh(n_x + r * n_h) + z * h
        return h, h

    return j.lax.scan(step, j.numpy.zeros((x.shape[1], w_hh.shape[0])), x @ w_ih + b_ih)[1]


def _scan_rnn(j: Any, weights: Any, x: Any) -> Any:
    w_ih, w_hh, bias = weights

    def step(h: Any, x_gates: Any) -> Any:
        h = j.numpy.tanh(x_gates + h @ w_hh)
        return h, h

    return j.lax.scan(step, j.numpy.zeros((x.shape[1], w_hh.shape[0])), x @ w_ih + bias)[1]
