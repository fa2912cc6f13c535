"""Steps at a batch of one: ours beside torch and onnxruntime, on as many threads each, interleaved in one process.

    python -m benchmarks.streaming [--rounds 40] [--hidden 512] [--threads 1] [--skip-step]

Two tables: a single call of `step` at B=1, H=64; and writing text with a 2-layer character LSTM, where every system feeds
back its own likeliest token. Times are medians over the rounds, least times beside them; "off by" is the largest
difference of the scores after 32 given tokens from the same model in float64.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import unrolled
from unrolled import streaming
from unrolled.inspection.doctor import processor
from unrolled.kernels import library
from unrolled.streaming import Streamer

CONTEXT = [(7 * i) % 61 for i in range(32)]


class Text(nn.Module):
    """One-hot tokens, two LSTM layers, linear."""

    def __init__(self, V: int, H: int) -> None:
        super().__init__()
        self.layers, self.decoder = nn.LSTM(V, H, num_layers=2), nn.Linear(H, V)
        with torch.no_grad():
            self.decoder.weight.mul_(8)


class System:
    """Something that reads tokens and scores the next: `read(token)` gives scores, `restart` forgets."""

    def __init__(self, name: str, restart: Callable[[], None], read: Callable[[int], Tensor | np.ndarray]) -> None:
        self.name, self.restart, self.read = name, restart, read

    def scores(self, context: list[int]) -> Tensor:
        self.restart()
        for token in context:
            last = self.read(token)
        return torch.as_tensor(last).double().reshape(-1)

    def write(self, length: int) -> None:
        token = 1
        for _ in range(length):
            token = int(self.read(token).argmax())


class Ours(System):
    def __init__(self, name: str, model: Text, how: dict, **options) -> None:
        self.streamer = Streamer(
            model.layers, one_hot=True, decoder_weight=model.decoder.weight, decoder_bias=model.decoder.bias, **options
        )
        self.name, self.how = f"{name} ({self.streamer.isa})", how

    def scores(self, context: list[int]) -> Tensor:
        self.streamer.set_state()
        self.streamer.feed(context)
        return self.streamer.logits().double().reshape(-1)

    def write(self, length: int) -> None:
        self.streamer.generate(length, **self.how)


def cells(name: str, model: Text, cell_of: Callable[[nn.LSTMCell], nn.Module] = lambda cell: cell) -> System:
    V, H = model.layers.input_size, model.layers.hidden_size
    made = []
    for layer in range(2):
        cell = nn.LSTMCell(V if layer == 0 else H, H)
        cell.load_state_dict(
            {k.removesuffix(f"_l{layer}"): v for k, v in model.layers.state_dict().items() if k.endswith(str(layer))}
        )
        made.append(cell_of(cell))
    decoder = cell_of(model.decoder)
    unit, state = torch.eye(V), [None, None]

    def restart() -> None:
        state[:] = [None, None]

    def read(token: int) -> Tensor:
        x = unit[token : token + 1]
        for layer, cell in enumerate(made):
            state[layer] = cell(x, state[layer])
            x = state[layer][0]
        return decoder(x)

    return System(name, restart, read)


def layers(name: str, model: Text) -> System:
    unit, state = torch.eye(model.layers.input_size), [None]

    def restart() -> None:
        state[0] = None

    def read(token: int) -> Tensor:
        output, state[0] = model.layers(unit[token : token + 1, None], state[0])
        return model.decoder(output)

    return System(name, restart, read)


def dynamic_int8(name: str, model: Text) -> System:
    from torch.ao.quantization import quantize_dynamic

    def quantized(module: nn.Module) -> nn.Module:
        wrapped = quantize_dynamic(nn.Sequential(module), {nn.LSTMCell, nn.Linear}, dtype=torch.qint8)
        return wrapped[0]

    return cells(name, model, quantized)


def onnxruntime(name: str, model: Text, folder: Path, int8: bool) -> System:
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    V, H = model.layers.input_size, model.layers.hidden_size
    weights, nodes = {"unit": np.eye(V, dtype=np.float32)}, [helper.make_node("Gather", ["unit", "token"], ["x0"])]

    def reorder(t: Tensor) -> np.ndarray:  # i f g o -> i o f g, one direction in front
        i, f, g, o = t.detach().chunk(4)
        return torch.cat([i, o, f, g])[None].contiguous().numpy()

    names, state_shape = [], (1, 1, H)
    for layer, (w_ih, w_hh, b_ih, b_hh) in enumerate(model.layers.all_weights):
        weights |= {f"W{layer}": reorder(w_ih), f"R{layer}": reorder(w_hh)}
        weights[f"B{layer}"] = np.concatenate([reorder(b_ih), reorder(b_hh)], 1)
        inputs = [f"x{layer}", f"W{layer}", f"R{layer}", f"B{layer}", "", f"h{layer}", f"c{layer}"]
        outputs = [f"y{layer}", f"h{layer}_out", f"c{layer}_out"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=H))
        nodes.append(helper.make_node("Squeeze", [f"y{layer}", "one"], [f"x{layer + 1}"]))
        names += [f"h{layer}", f"c{layer}"]
    weights |= {"one": np.array([1]), "D": model.decoder.weight.detach().T.contiguous().numpy()}
    weights["d"] = model.decoder.bias.detach().numpy()
    nodes += [helper.make_node("MatMul", ["x2", "D"], ["Dx"]), helper.make_node("Add", ["Dx", "d"], ["scores"])]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info("token", TensorProto.INT64, (1, 1))]
        + [helper.make_tensor_value_info(n, TensorProto.FLOAT, state_shape) for n in names],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 1, V))]
        + [helper.make_tensor_value_info(f"{n}_out", TensorProto.FLOAT, state_shape) for n in names],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "text.onnx"
    onnx.save(proto, path)
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(path, folder / "int8.onnx", weight_type=QuantType.QInt8, op_types_to_quantize=["LSTM", "MatMul"])
        path = folder / "int8.onnx"
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted = ["scores", *(f"{n}_out" for n in names)]
    feed: dict[str, np.ndarray] = {}

    def restart() -> None:
        feed.update({n: np.zeros(state_shape, np.float32) for n in names})

    def read(token: int) -> np.ndarray:
        feed["token"] = np.array([[token]])
        scores, *state = session.run(wanted, feed)
        feed.update(zip(names, state, strict=True))
        return scores

    restart()
    return System(name, restart, read)


def interleaved(jobs: dict[str, Callable[[], None]], rounds: int, warm: dict[str, Callable[[], None]] | None = None):
    """(median, least) seconds of every job, taken in turns; `warm` brings its weights back into the cache.

    Threads of the job before wait by spinning for a while, onnxruntime's for more than 20 ms: each begins when they have
    gone to sleep.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            time.sleep(0.1)
            if warm:
                warm[name]()
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(each[1:]), min(each[1:])) for name, each in times.items()}


def machine() -> str:
    versions = f"python {platform.python_version()}, torch {torch.__version__}"
    if importlib.util.find_spec("onnxruntime"):
        import onnxruntime as ort

        versions += f", onnxruntime {ort.__version__}"
    facts = f"{processor()}, {platform.machine()}, {library.isa()}; threads {torch.get_num_threads()}"
    return f"{facts}; {versions}; {datetime.date.today()}"


def table_of_steps(rounds: int, H: int = 64) -> None:
    print(f"\nOne step, B=1, I=H={H}, microseconds a call (median, least); in brackets torch.nn's layer / this one")
    for kind, cell_kind in ((nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell), (nn.RNN, nn.RNNCell)):
        layer, cell, x = kind(H, H), cell_kind(H, H), torch.randn(1, H)
        cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
        kept, handed = Streamer(layer), getattr(unrolled, kind.__name__)(H, H)
        handed.load_state_dict(layer.state_dict())
        state: dict[str, object] = {"layer": None, "cell": None, "handed": None}

        def by_layer(layer=layer, x=x[None], state=state) -> Tensor:
            out, state["layer"] = layer(x, state["layer"])
            return out[0]

        def by_cell(cell=cell, x=x, state=state) -> Tensor:
            state["cell"] = cell(x, state["cell"])
            return state["cell"][0] if isinstance(state["cell"], tuple) else state["cell"]

        def by_handing(handed=handed, x=x, state=state) -> Tensor:
            out, state["handed"] = handed.step(x, state["handed"])
            return out

        ways = {
            f"torch.nn.{kind.__name__}": by_layer,
            f"torch.nn.{cell_kind.__name__}": by_cell,
            "Streamer.step": lambda kept=kept, x=x: kept.step(x),
            f"unrolled.{kind.__name__}.step": by_handing,
            "Streamer.step again (noise)": lambda kept=kept, x=x: kept.step(x),
        }
        outputs = [way() for way in list(ways.values())[:4]]
        apart = max(float((out - outputs[0]).abs().max()) for out in outputs)
        calls = 100

        def repeated(way, calls=calls) -> Callable[[], None]:
            def job() -> None:
                for _ in range(calls):
                    way()

            return job

        times = interleaved({name: repeated(way) for name, way in ways.items()}, rounds)
        base = times[f"torch.nn.{kind.__name__}"]
        for name, (median, least) in times.items():
            ratios = f"({base[0] / median:.1f}, {base[1] / least:.1f})"
            print(f"  {name:45s} {median / calls * 1e6:8.2f} {least / calls * 1e6:8.2f}   {ratios}")
        print(f"  {'':45s} outputs differ by at most {apart:.1e}")


def table_of_writing(rounds: int, H: int, V: int = 67) -> None:
    model = Text(V, H)
    folder = tempfile.TemporaryDirectory()
    systems: list[System] = [cells("torch.nn.LSTMCell", model), layers("torch.nn.LSTM", model)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            systems.append(dynamic_int8("torch dynamic int8", model))
    except (ImportError, RuntimeError, AttributeError) as error:
        print(f"  torch dynamic int8 left out: {error}")
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        systems.append(onnxruntime("onnxruntime fp32", model, Path(folder.name), int8=False))
        systems.append(onnxruntime("onnxruntime int8", model, Path(folder.name), int8=True))
    else:
        print("  onnxruntime left out: install onnx and onnxruntime")
    greedy, drawn = {"temperature": 0}, {"temperature": 0.8, "top_k": 20, "top_p": 0.95}
    systems += [Ours(f"ours {precision}", model, greedy, precision=precision) for precision in streaming.PRECISIONS]
    systems += [Ours("ours fp32 again (noise)", model, greedy), Ours("ours int8, drawn", model, drawn, precision="int8")]

    model.double()
    output, _ = model.layers(torch.eye(V, dtype=torch.float64)[torch.tensor(CONTEXT)][:, None])
    exact = model.decoder(output[-1]).reshape(-1)
    model.float()

    lengths = {}
    for system in systems:  # slices of about 50 ms
        system.write(2)
        start = time.perf_counter()
        for _ in range(3):
            system.write(8)
        lengths[system.name] = max(4, round(24 * 0.05 / (time.perf_counter() - start)))
    jobs = {s.name: (lambda s=s: s.write(lengths[s.name])) for s in systems}
    times = interleaved(jobs, rounds, {s.name: (lambda s=s: s.write(2)) for s in systems})
    rates = {name: (lengths[name] / median, lengths[name] / least) for name, (median, least) in times.items()}

    print(f"\nWriting, 2-layer LSTM, H={H}, V={V}, B=1: tokens per second (median, best)")
    peers = [name for name in ("torch.nn.LSTMCell", "onnxruntime fp32", "onnxruntime int8") if name in rates]
    print(f"  {'':32s} {'median':>9s} {'best':>9s}   off by    " + "   ".join(f"{'/ ' + name:>22s}" for name in peers))
    for system in systems:
        median, best = rates[system.name]
        off = float((system.scores(CONTEXT) - exact).abs().max())
        ratios = "   ".join(f"{median / rates[name][0]:10.2f} (best {best / rates[name][1]:4.2f})" for name in peers)
        print(f"  {system.name:32s} {median:9,.0f} {best:9,.0f}   {off:.1e}   {ratios}")
    print(f"  scores reach {float(exact.abs().max()):.1f}")
    folder.cleanup()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-step", action="store_true", help="only the second table")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    print(machine())
    if not arguments.skip_step:
        table_of_steps(arguments.rounds)
    table_of_writing(arguments.rounds, arguments.hidden)


if __name__ == "__main__":
    main()
