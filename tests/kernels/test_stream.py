"""The streaming engine against plain cells in float64, in every precision and every variant that this machine runs."""

import copy
import math
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding as lookup
from torch.nn.functional import linear, one_hot

import unrolled
from unrolled.kernels import native, stream
from unrolled.kernels.stream import Streamer, supported

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_not())

CELLS = {
    "LSTM": nn.LSTM,
    "GRU": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
# Against float64, six steps of freshly initialised layers. bf16 keeps 8 bits of a number, int8 7 of the largest in a row.
TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2, "int8": 3e-2}
SIZES = [(1, 1, 1, 1), (3, 15, 2, 3), (7, 16, 1, 1), (16, 17, 3, 2), (33, 31, 1, 4), (5, 32, 2, 5), (20, 33, 1, 7),
         (67, 67, 2, 1), (64, 100, 1, 6)]  # I, H, L, B  # fmt: skip


def variants() -> list[tuple[str, str]]:
    if not native.available():
        return [("fp32", "portable")]
    return [(precision, isa) for precision in stream.PRECISIONS for isa in stream.isas(precision)]


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def exact(layers: nn.Module, x: Tensor, state=None) -> tuple[Tensor, object]:
    """The layers over x (T, B, I), in float64 and by their cells."""
    layers, x = copy.deepcopy(layers).double(), x.double()
    lstm = layers.mode == "LSTM"
    parts = None if state is None else state if lstm else (state,)
    last = []
    for layer, (w_ih, w_hh, *bias) in enumerate(layers.all_weights):
        b_ih, b_hh = bias or (0, 0)
        h, c = (x.new_zeros(x.shape[1], layers.hidden_size) for _ in range(2))
        if parts is not None:
            h, c = parts[0][layer].double(), parts[-1][layer].double()
        outputs = []
        for x_t in x:
            x_gates, h_gates = x_t @ w_ih.T + b_ih, h @ w_hh.T + b_hh
            if lstm:
                i, f, g, o = (x_gates + h_gates).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            elif layers.mode == "GRU":
                (x_r, x_z, x_n), (h_r, h_z, h_n) = x_gates.chunk(3, -1), h_gates.chunk(3, -1)
                z = (x_z + h_z).sigmoid()
                h = (1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh() + z * h
            else:
                h = (x_gates + h_gates).tanh() if layers.mode == "RNN_TANH" else (x_gates + h_gates).relu()
            outputs.append(h)
        x = torch.stack(outputs)
        last.append((h, c))
    h, c = (torch.stack(part).detach() for part in zip(*last, strict=True))
    return x.detach(), (h, c) if lstm else h


def parts(state) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_near(actual, expected, tolerance: float) -> None:
    for a, e in zip(parts(actual), parts(expected), strict=True):
        assert a.shape == e.shape
        torch.testing.assert_close(a.double(), e.double(), rtol=tolerance, atol=tolerance)


def random_state(layers: nn.Module, batch: int):
    shape = (layers.num_layers, batch, layers.hidden_size)
    h = torch.rand(shape) * 2 - 1
    return (h, torch.randn(shape)) if layers.mode == "LSTM" else h


# ----------------------------------------------------------------------------------------------------------------- steps
@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_those_of_the_cell(cell: str, sizes: tuple, precision: str, isa: str) -> None:
    I, H, L, B = sizes
    layers = CELLS[cell](I, H, L)
    x, state = torch.randn(6, B, I), random_state(layers, B)
    expected, last = exact(layers, x, state)
    streamer = Streamer(layers, precision=precision, isa=isa)
    assert streamer.isa == isa
    streamer.set_state(state)
    outputs = torch.stack([streamer.step(x_t) for x_t in x])
    assert_near(outputs, expected, TOLERANCE[precision])
    assert_near(streamer.state, last, TOLERANCE[precision])
    for x_t, h_t in zip(x, outputs, strict=True):  # handing the state in and out gives the same bits
        out, state = streamer.advance(x_t, state)
        assert torch.equal(out, h_t)
    for ours, kept in zip(parts(state), parts(streamer.state), strict=True):
        assert torch.equal(ours, kept)


def as_bf16(t: Tensor) -> Tensor:
    return t.bfloat16().double()


def as_int8(t: Tensor) -> Tensor:
    """Each row at its own scale, as the engine rounds weights and inputs."""
    scale = t.abs().amax(-1, keepdim=True).float()
    return torch.where(scale == 0, 0, (t.float() * (127 / scale)).round().double() * (scale.double() / 127))


@pytest.mark.parametrize(("precision", "isa"), [v for v in variants() if v[0] != "fp32"])
@pytest.mark.parametrize("cell", CELLS)
def test_reduced_precision_rounds_what_it_says_and_nothing_else(cell: str, precision: str, isa: str) -> None:
    layers = CELLS[cell](37, 45)
    rounded = as_bf16 if precision == "bf16" else as_int8
    x, state = torch.randn(3, 37), random_state(layers, 3)
    streamer = Streamer(layers, precision=precision, isa=isa)
    reference = copy.deepcopy(layers).double()
    with torch.no_grad():
        for name in ("weight_ih_l0", "weight_hh_l0"):
            getattr(reference, name).copy_(rounded(getattr(layers, name)))
    h = parts(state)[0]
    rounded_state = (rounded(h), state[1]) if cell == "LSTM" else rounded(h)
    expected, _ = exact(reference, rounded(x)[None], rounded_state)
    if cell == "GRU":  # whose z h takes the state as it is
        z = (linear(rounded(x), reference.weight_ih_l0, reference.bias_ih_l0)
             + linear(rounded(h[0]), reference.weight_hh_l0, reference.bias_hh_l0)).chunk(3, -1)[1].sigmoid()  # fmt: skip
        expected = expected + z.detach() * (h[0] - rounded(h[0]))
    assert_near(streamer.advance(x, state)[0], expected[0], 1e-5)


@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_of_a_batch_is_the_same_alone(cell: str, precision: str, isa: str) -> None:
    layers = CELLS[cell](9, 21, 2)
    x, state = torch.randn(7, 9), random_state(layers, 7)
    streamer = Streamer(layers, precision=precision, isa=isa)
    together, last = streamer.advance(x, state)
    for b in range(7):
        one = tuple(part[:, b : b + 1] for part in parts(state))
        alone, last_alone = streamer.advance(x[b : b + 1], one if cell == "LSTM" else one[0])
        assert_near(alone, together[b : b + 1], 1e-6)
        assert_near(tuple(p for p in parts(last_alone)), tuple(p[:, b : b + 1] for p in parts(last)), 1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_without_biases(cell: str) -> None:
    layers = CELLS[cell](4, 18, 2, bias=False)
    x = torch.randn(3, 1, 4)
    streamer = Streamer(layers)
    assert_near(torch.stack([streamer.step(x_t) for x_t in x]), exact(layers, x)[0], 1e-5)


def test_no_state_is_zeros_and_inputs_may_be_strided_or_of_another_precision() -> None:
    layers = nn.GRU(6, 8)
    streamer = Streamer(layers)
    x = torch.randn(6, 5).T
    expected = exact(layers, x[None])[0][0]
    for given in (x, x.double()):
        assert_near(streamer.advance(given)[0], expected, 1e-5)
    assert streamer.advance(torch.zeros(0, 6))[0].shape == (0, 8)
    wide = torch.randn(1, 5, 16)[..., ::2]
    assert_near(streamer.advance(x, wide)[0], exact(layers, x[None], wide)[0][0], 1e-5)


def test_weights_of_half_precision_are_taken_exactly() -> None:
    layers = nn.LSTM(5, 7).bfloat16()
    x = torch.randn(1, 2, 5)
    assert_near(Streamer(layers).advance(x[0])[0], exact(layers, x)[0][0], 1e-5)


@pytest.mark.parametrize("precision", stream.PRECISIONS)
def test_large_and_tiny_inputs(precision: str) -> None:
    layers = nn.RNN(8, 16, nonlinearity="relu")
    for size in (1e-35, 1e-6, 1e6):
        x = torch.randn(1, 1, 8) * size
        expected = exact(layers, x)[0][0]
        actual = Streamer(layers, precision=precision).advance(x[0])[0]
        assert_near(actual / max(size, 1), expected / max(size, 1), TOLERANCE[precision])


def test_two_threads_may_share_a_streamer() -> None:
    layers = nn.LSTM(16, 48, 2)
    streamer = Streamer(layers)
    inputs = torch.randn(4, 300, 1, 16)

    def run(x: Tensor) -> Tensor:
        state, outputs = None, []
        for x_t in x:
            out, state = streamer.advance(x_t, state)
            outputs.append(out)
        return torch.stack(outputs)

    alone = [run(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for together, expected in zip(pool.map(run, inputs), alone, strict=True):
            assert torch.equal(together, expected)


# ---------------------------------------------------------------------------------------------------------------- tokens
@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("front", ["one_hot", "table", "embedding"])
def test_tokens_are_their_rows(front: str, cell: str, precision: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    V, I, H = 19, 11, 33
    if front == "embedding":
        monkeypatch.setattr(stream, "TABLE_LIMIT", 0)
    layers = CELLS[cell](V if front == "one_hot" else I, H, 2)
    table, decoder = torch.randn(V, I), nn.Linear(H, 37)
    streamer = Streamer(
        layers,
        **({"one_hot": True} if front == "one_hot" else {"embedding": table}),
        decoder_weight=decoder.weight,
        decoder_bias=decoder.bias,
        precision=precision,
        isa=isa,
    )
    ids = torch.randint(V, (4, 3))
    x = one_hot(ids, V).float() if front == "one_hot" else lookup(ids, table)
    expected, last = exact(layers, x)
    streamer.set_state(batch=3)
    assert_near(torch.stack([streamer.step(t) for t in ids]), expected, TOLERANCE[precision])
    scores = linear(expected[-1], decoder.weight.double(), decoder.bias.double()).detach()
    assert_near(streamer.logits(), scores, TOLERANCE[precision])
    streamer.set_state()
    streamer.feed(ids[:, 0])
    assert_near(streamer.state, tuple(p[:, :1] for p in last) if cell == "LSTM" else last[:, :1], TOLERANCE[precision])


class Model(nn.Module):
    def __init__(self, cell: str = "LSTM", V: int = 23, H: int = 35, L: int = 2) -> None:
        super().__init__()
        self.embedding, self.layers, self.decoder = nn.Embedding(V, 12), CELLS[cell](12, H, L), nn.Linear(H, V)
        with torch.no_grad():
            self.decoder.weight.mul_(8)  # decided scores

    def streamer(self, **options) -> Streamer:
        return Streamer(
            self.layers,
            embedding=self.embedding.weight,
            decoder_weight=self.decoder.weight,
            decoder_bias=self.decoder.bias,
            **options,
        )

    @torch.no_grad()
    def greedy(self, context: list[int], length: int, forbidden: tuple = ()) -> list[int]:
        tokens, state, read = [], None, context
        for _ in range(length):
            hidden, state = self.layers(self.embedding(torch.tensor(read))[:, None], state)
            scores = self.decoder(hidden[-1, 0])
            scores[list(forbidden)] = -math.inf
            tokens.append(int(scores.argmax()))
            read = tokens[-1:]
        return tokens


@pytest.mark.parametrize("isa", stream.isas() if native.available() else [])
@pytest.mark.parametrize("cell", CELLS)
def test_greedy_text_is_the_python_loops(cell: str, isa: str) -> None:
    model = Model(cell)
    assert model.streamer(isa=isa).generate(60, context=[3, 1, 4], temperature=0) == model.greedy([3, 1, 4], 60)


@pytest.mark.parametrize("precision", stream.PRECISIONS)
@pytest.mark.parametrize("temperature", [0, 1.3])
def test_chunks_of_any_sizes_give_the_same_text(precision: str, temperature: float) -> None:
    model = Model()
    how = {"context": [5], "seed": 11, "temperature": temperature, "top_k": 20, "top_p": 0.95}
    whole = model.streamer(precision=precision).generate(50, **how)
    streamer = model.streamer(precision=precision)
    how_on = {name: how[name] for name in ("temperature", "top_k", "top_p")}
    pieces = streamer.generate(1, **how) + streamer.generate(0, **how_on) + streamer.generate(30, **how_on)
    before = streamer.state  # reading the state in between feeds the last token back, once
    pieces += streamer.generate(19, **how_on)
    assert pieces == whole
    assert list(model.streamer(precision=precision).stream(50, chunk=7, **how)) == whole
    reader = model.streamer(precision=precision)
    reader.feed([5, *whole[:31]])
    for now, then in zip(parts(reader.state), parts(before), strict=True):
        assert torch.equal(now, then)


def test_a_seed_gives_the_same_text_again_and_another_seed_another() -> None:
    streamer = Model().streamer()
    texts = []
    for seed in (1, 1, 2, 2**64 - 1, -1):
        streamer.set_state()
        texts.append(streamer.generate(40, context=[0], seed=seed))
    assert texts[0] == texts[1] != texts[2] != texts[3] == texts[4]
    streamer.set_state()
    assert streamer.generate(40, context=[0]) != texts[4]  # the numbers go on
    fresh = [Model().streamer().generate(40, context=[0]) for _ in range(2)]
    assert fresh[0] != fresh[1]  # no seed at all: the operating system's


def fixed_scores(scores: Tensor, **options) -> Streamer:
    """A model whose scores are the same at every step: weights of zero, scores in the decoder's bias."""
    V = len(scores)
    layers = nn.GRU(V, 3)
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    return Streamer(layers, one_hot=True, decoder_weight=torch.zeros(V, 3), decoder_bias=scores, **options)


SCORES = torch.tensor([1.0, -2.0, 2.0, 0.5, 0.0, 2.0, -8.0, 1.5, 0.7, -0.5, 0.1])


def distribution(scores: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """What `unrolled.decoding.choose` draws from."""
    p = torch.softmax(scores.double() / temperature, -1)
    ranked, order = p.sort(descending=True, stable=True)
    if top_k is not None:
        ranked[top_k:] = 0
    if top_p is not None:
        ranked[ranked.cumsum(-1) - ranked >= top_p] = 0
    return torch.zeros_like(p).scatter(0, order, ranked / ranked.sum())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 4, 11, 500])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.6, 0.93, 1.0])
def test_frequencies_are_those_of_the_distribution(temperature: float, top_k: int | None, top_p: float | None) -> None:
    n, expected = 20_000, distribution(SCORES, temperature, top_k, top_p)
    ids = fixed_scores(SCORES).generate(n, temperature=temperature, top_k=top_k, top_p=top_p, seed=3)
    seen = torch.bincount(torch.tensor(ids), minlength=len(SCORES)).double()
    assert not seen[expected == 0].any()
    kept = expected * n > 5  # where chi-square holds
    chi_square = ((seen - expected * n) ** 2 / (expected * n))[kept].sum()
    assert chi_square < 35  # 10 degrees of freedom exceed it once in 8,000 times


def test_the_random_numbers_are_the_documented_ones() -> None:
    seed, mask = 2024, 2**64 - 1
    state, z = [], seed
    for _ in range(4):  # splitmix64
        z = (z + 0x9E3779B97F4A7C15) & mask
        w = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        w = ((w ^ (w >> 27)) * 0x94D049BB133111EB) & mask
        state.append(w ^ (w >> 31))

    def rotate(x: int, k: int) -> int:
        return ((x << k) | (x >> (64 - k))) & mask

    expected = []
    cumulative = torch.softmax(SCORES.double(), -1).cumsum(0).tolist()
    for _ in range(200):  # xoshiro256**
        u = (rotate(state[1] * 5 & mask, 7) * 9 & mask) >> 11
        t = state[1] << 17 & mask
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= t
        state[3] = rotate(state[3], 45)
        expected.append(next(i for i, c in enumerate(cumulative) if c > u * 2.0**-53))
    assert fixed_scores(SCORES).generate(200, seed=seed) == expected


def test_equal_scores_put_the_lower_id_first() -> None:
    streamer = fixed_scores(SCORES)
    assert set(streamer.generate(50, temperature=0)) == {2}
    assert set(streamer.generate(50, top_k=1, seed=0)) == {2}
    assert set(streamer.generate(200, top_k=2, seed=0)) == {2, 5}
    assert set(streamer.generate(50, temperature=1e-300, seed=0)) <= {2, 5}


def test_forbidden_tokens_are_never_chosen() -> None:
    streamer = fixed_scores(SCORES)
    assert set(streamer.generate(20, temperature=0, forbidden=[2, 5])) == {7}
    assert not {0, 2} & set(streamer.generate(3000, temperature=5, forbidden=[0, 2], seed=1))
    assert set(streamer.generate(300, top_k=2, forbidden=[2], seed=1)) == {5, 7}
    model = Model()
    assert model.streamer().generate(40, context=[2], temperature=0, forbidden=[1, 7]) == model.greedy([2], 40, (1, 7))


def test_the_stop_token_ends_the_text_and_is_not_in_it() -> None:
    model = Model()
    text = model.greedy([4], 40)
    stop = text[12]
    streamer = model.streamer()
    assert streamer.generate(40, context=[4], temperature=0, stop=stop) == text[: text.index(stop)]
    assert list(model.streamer().stream(40, chunk=5, context=[4], temperature=0, stop=stop)) == text[: text.index(stop)]
    assert streamer.generate(5, temperature=0) == text[text.index(stop) + 1 :][:5]  # going on reads it


def test_generation_starts_from_a_state() -> None:
    model = Model("GRU")
    whole = model.streamer().generate(20, context=[1, 2], temperature=0)
    reader, writer = model.streamer(), model.streamer()
    reader.feed([1, 2])
    writer.set_state(reader.state)
    assert writer.generate(20, temperature=0) == whole


# ---------------------------------------------------------------------------------------------------- not-a-number and co.
@pytest.mark.parametrize(("precision", "isa"), variants())
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_stay_visible(value: float, precision: str, isa: str) -> None:
    layers = nn.RNN(20, 20, nonlinearity="relu")
    x = torch.randn(2, 20)
    broken = x.clone()
    broken[0, 3] = value
    streamer = Streamer(layers, precision=precision, isa=isa)
    out = streamer.advance(broken)[0]
    assert not out[0].isfinite().all()
    assert_near(out[1:], streamer.advance(x)[0][1:], 1e-6)  # the other row is untouched
    with torch.no_grad():
        layers.weight_hh_l0[5, 0] = value
    out = Streamer(layers, precision=precision, isa=isa).advance(x, torch.ones(1, 2, 20))[0]
    assert not out[:, 5].isfinite().any()
    assert out[:, :5].isfinite().all()


@pytest.mark.parametrize("precision", stream.PRECISIONS)
@pytest.mark.parametrize("how", [{"temperature": 0}, {}, {"top_k": 3}, {"top_p": 0.5}], ids=str)
def test_scores_that_are_no_numbers_raise(precision: str, how: dict) -> None:
    model = Model()
    with torch.no_grad():
        model.layers.weight_hh_l1[0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="Are the weights finite"):
        model.streamer(precision=precision).generate(5, context=[1, 2], **how)
    with pytest.raises(FloatingPointError, match="all forbidden"):
        fixed_scores(SCORES).generate(5, forbidden=range(len(SCORES)), **how)


# --------------------------------------------------------------------------------------------------------------- changes
def replaced(layers: nn.Module) -> None:
    layers.weight_hh_l0 = nn.Parameter(layers.weight_hh_l0.detach() * 2)


def swapped(layers: nn.Module) -> None:
    layers.weight_hh_l0.data = layers.weight_hh_l0.detach() * 2


def written(layers: nn.Module) -> None:
    with torch.no_grad():
        layers.weight_hh_l0.mul_(2)


def loaded(layers: nn.Module) -> None:
    layers.load_state_dict({name: 2 * value for name, value in layers.state_dict().items()})


def trained(layers: nn.Module) -> None:
    layers(torch.randn(3, 2, 4))[0].sum().backward()
    torch.optim.Adam(layers.parameters(), lr=0.1).step()


@pytest.mark.parametrize("change", [replaced, swapped, written, loaded, trained])
def test_changed_weights_are_noticed_and_copied_again(change) -> None:
    layers = nn.LSTM(4, 6)
    streamer = Streamer(layers)
    x, state = torch.randn(2, 1, 4), random_state(layers, 1)
    streamer.set_state(state)
    first = streamer.step(x[0])
    layers(x)  # using the weights is no change
    assert not streamer.stale()
    change(layers)
    assert streamer.stale()
    kept = streamer.state
    streamer.repack()
    assert not streamer.stale()
    for now, then in zip(parts(streamer.state), parts(kept), strict=True):
        assert torch.equal(now, then)
    assert_near(streamer.step(x[1]), exact(layers, x[1:], kept)[0][0], 1e-5)
    streamer.set_state(state)
    assert not torch.allclose(streamer.step(x[0]), first)


def test_a_changed_embedding_or_decoder_is_noticed() -> None:
    model = Model()
    streamer = model.streamer()
    for module in (model.embedding, model.decoder):
        with torch.no_grad():
            module.weight.add_(1)
        assert streamer.stale()
        streamer.repack()
        assert not streamer.stale()


def test_weights_without_a_version_are_always_taken_to_have_changed() -> None:
    with torch.inference_mode():
        assert Streamer(nn.GRU(3, 4)).stale()
    normed = nn.utils.parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")
    assert Streamer(normed).stale()


# ---------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("layers", "precision", "reason"),
    [
        (lambda: nn.LSTM(3, 4, bidirectional=True), "fp32", "second direction"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "fp32", "proj_size=2"),
        (lambda: nn.GRU(3, 4).double(), "fp32", "torch.float64"),
        (lambda: nn.GRU(3, 4, device="meta"), "fp32", "meta"),
        (lambda: nn.Linear(3, 4), "fp32", "Linear is not an RNN"),
        (lambda: nn.GRU(3, 4), "int4", "not 'int4'"),
        (lambda: nn.RNN(70_000, 1), "int8", "wider than 65536"),
    ],
)
def test_what_cannot_be_streamed_says_why(layers, precision: str, reason: str) -> None:
    layers = layers()
    assert reason in (supported(layers, precision) or "")
    with pytest.raises(ValueError, match=reason):
        Streamer(layers, precision=precision)


def test_what_can_be_streamed_has_no_reason_against() -> None:
    for make in CELLS.values():
        for precision in stream.PRECISIONS:
            assert supported(make(3, 4, 2), precision) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"one_hot": True, "embedding": torch.zeros(5, 3)}, "got both"),
        ({"embedding": torch.zeros(5, 4)}, r"embedding of shape \(V, 3\), got \(5, 4\)"),
        ({"decoder_weight": torch.zeros(5, 3)}, r"decoder_weight of shape \(V, 4\), got \(5, 3\)"),
        ({"decoder_weight": torch.zeros(5, 4), "decoder_bias": torch.zeros(4)}, r"decoder_bias of shape \(5,\), got \(4,\)"),
        ({"decoder_bias": torch.zeros(4)}, "got None"),
        ({"isa": "sse"}, "got 'sse'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Streamer(nn.GRU(3, 4), **options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    streamer = Streamer(nn.LSTM(3, 4, 2))
    for wrong in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(1, 4), torch.zeros(1, 1, 3)):
        with pytest.raises(ValueError, match=r"\(B, I\) = \(1, 3\), got"):
            streamer.step(wrong)
    with pytest.raises(ValueError, match=r"dtype torch\.float32, got torch\.int64"):
        streamer.step(torch.zeros(1, 3, dtype=torch.int64))
    for wrong in (torch.zeros(()), torch.zeros(2, 4)):
        with pytest.raises(ValueError, match=r"\(B, I\)"):
            streamer.advance(wrong)
    x, good = torch.zeros(2, 3), torch.zeros(2, 2, 4)
    for state in (good, (good,), (good, good, good), (good, None)):
        with pytest.raises(ValueError, match=r"\(h, c\)|c of shape"):
            streamer.advance(x, state)
    for state in ((good[:1], good), (good, torch.zeros(2, 3, 4))):
        with pytest.raises(ValueError, match=r"\(L, B, H\) = \(2, 2, 4\)"):
            streamer.advance(x, state)
    with pytest.raises(ValueError, match=r"h of shape"):
        streamer.set_state((torch.zeros(1, 1, 4), torch.zeros(2, 1, 4)))
    streamer.advance(x, [good, good])  # a list is welcome


def test_tokens_out_of_range_are_refused_and_change_nothing() -> None:
    model = Model()
    streamer = model.streamer()
    streamer.set_state(random_state(model.layers, 1))
    before = streamer.state
    for call in (
        lambda: streamer.step(torch.tensor([23])),
        lambda: streamer.step(torch.tensor([-1])),
        lambda: streamer.feed([1, 2, 99]),
        lambda: streamer.generate(3, context=[-5]),
        lambda: streamer.generate(3, forbidden=[23]),
        lambda: streamer.generate(3, stop=23),
        lambda: streamer.advance(torch.tensor([1, 40])),
    ):
        with pytest.raises(ValueError, match=r"token ids from 0 to 22, got (23|-1|99|-5|40)"):
            call()
    for now, then in zip(parts(streamer.state), parts(before), strict=True):
        assert torch.equal(now, then)
    with pytest.raises(ValueError, match=r"dtype torch\.int64, got torch\.float32"):
        streamer.step(torch.zeros(1))


@pytest.mark.parametrize(
    "how", [{"temperature": -1}, {"temperature": math.nan}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}], ids=str
)
def test_impossible_settings_are_refused(how: dict) -> None:
    with pytest.raises(ValueError, match="expected temperature of at least 0"):
        Model().streamer().generate(3, **how)


def test_generation_needs_tokens_scores_and_one_sequence() -> None:
    layers = nn.GRU(5, 4)
    with pytest.raises(ValueError, match="to read tokens"):
        Streamer(layers, decoder_weight=torch.zeros(5, 4)).generate(3)
    with pytest.raises(ValueError, match="to score tokens"):
        Streamer(layers, one_hot=True).generate(3)
    with pytest.raises(ValueError, match="to score tokens"):
        Streamer(layers).logits()
    with pytest.raises(ValueError, match=r"can score \(6\)"):
        Streamer(layers, one_hot=True, decoder_weight=torch.zeros(6, 4)).generate(3)
    streamer = Streamer(layers, one_hot=True, decoder_weight=torch.zeros(5, 4))
    streamer.set_state(batch=2)
    with pytest.raises(ValueError, match="a batch of 2"):
        streamer.generate(3)
    with pytest.raises(ValueError, match="length of at least 0"):
        streamer.generate(-1)


def test_a_streamer_is_not_copied_or_pickled() -> None:
    streamer = Streamer(nn.GRU(3, 4))
    for copying in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="build it again"):
            copying(streamer)


class TestWholeCallsOfOneStep:
    """A call of the layer on a sequence of one step, without gradients, goes the way of `step`: only the clock may tell."""

    @pytest.fixture
    def packed(self, monkeypatch):
        """How often weights were packed."""
        times, repack = [], stream.Streamer.repack
        monkeypatch.setattr(stream.Streamer, "repack", lambda self: times.append(1) or repack(self))
        return times

    @pytest.mark.parametrize("batch_first", [False, True])
    @pytest.mark.parametrize("layers", [1, 2])
    @pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
    def test_they_give_the_sequence(self, kind, layers, batch_first, packed):
        layer = kind(4, 7, num_layers=layers, batch_first=batch_first)
        x, time = torch.randn(6, 3, 4), 1 if batch_first else 0
        whole, last = layer(x.transpose(0, time))
        with torch.no_grad():
            state = None
            for t in range(6):
                output, state = layer(x[t].unsqueeze(time), state)
                torch.testing.assert_close(output.select(time, 0), whole.select(time, t), rtol=1e-5, atol=1e-6)
                assert output.shape == (3, 1, 7) if batch_first else (1, 3, 7)
                batch_first or output.detach_()  # as loops over chunks like to; transposed outputs could never be
        assert len(packed) == 1
        for one, other in zip(*(s if isinstance(s, tuple) else (s,) for s in (state, last)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
            one.detach_()

    @pytest.mark.parametrize("how", ["data", "numpy", "in place", "replaced", "loaded", "functional"])
    def test_changed_weights_are_seen(self, how, packed):
        layer, x = unrolled.GRU(4, 7), torch.randn(1, 1, 4)
        other = unrolled.GRU(4, 7)
        with torch.no_grad():
            for _ in range(5):
                before = layer(x)[0]
            assert len(packed) == 1
            if how == "data":
                layer.weight_hh_l0.data.copy_(other.weight_hh_l0)
                layer.bias_ih_l0.data.copy_(other.bias_ih_l0)
            elif how == "numpy":
                layer.weight_ih_l0.numpy()[:] += 1
            elif how == "in place":
                layer.weight_ih_l0.mul_(2)
            elif how == "replaced":
                layer.weight_ih_l0 = torch.nn.Parameter(layer.weight_ih_l0 * 2)
            elif how == "loaded":
                layer.load_state_dict(other.state_dict())
            weights = dict(other.named_parameters())
            call = (lambda: torch.func.functional_call(layer, weights, (x,))) if how == "functional" else lambda: layer(x)
            with torch.enable_grad():
                want = call()[0]
            assert not torch.allclose(want, before)
            for _ in range(5):
                torch.testing.assert_close(call()[0], want.detach(), rtol=1e-5, atol=1e-6)
            if how != "functional":
                assert len(packed) == 2

    def test_weights_that_change_at_every_call_are_seen_at_every_call(self):
        layer, x = unrolled.GRU(4, 7), torch.randn(1, 1, 4)
        with torch.no_grad():
            for _ in range(50):
                layer.weight_hh_l0.data.add_(0.01)
                got = layer(x)[0]
                with torch.enable_grad():
                    torch.testing.assert_close(got, layer(x)[0].detach(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("kind", [unrolled.RNN, unrolled.LSTM, unrolled.GRU])
    def test_calls_before_change_no_bit(self, kind):
        layer, x = kind(4, 7), torch.randn(1, 3, 4)
        fresh = copy.deepcopy(layer)
        with torch.no_grad():
            first = fresh(x)[0]
            for _ in range(3):
                layer(torch.randn(1, 2, 4))
            assert torch.equal(layer(x)[0], first)

    def test_who_cannot_have_them_is_served_as_ever(self, packed):
        x = torch.randn(1, 2, 4)
        twins = [unrolled.LSTM(4, 7, bidirectional=True), unrolled.LSTM(4, 7, proj_size=3), unrolled.GRU(4, 7, zoneout=0.1)]
        twins += [unrolled.GRU(4, 7, learned_state=True), unrolled.GRU(4, 7, num_layers=2, dropout=0.5)]
        torch.nn.utils.parametrizations.weight_norm(normed := unrolled.GRU(4, 7), "weight_hh_l0")
        for layer in (*twins, normed):
            for _ in range(4):
                torch.manual_seed(0)
                with torch.no_grad():
                    got = layer(x)[0]
                torch.manual_seed(0)
                torch.testing.assert_close(got, layer(x)[0].detach(), rtol=1e-5, atol=1e-6)
        assert len(packed) <= 1  # of the normed one, once, to find out

    def test_wrong_states_and_inputs_are_told_in_the_same_words(self):
        layer, x = unrolled.LSTM(4, 7), torch.randn(1, 2, 4)
        state = torch.zeros(1, 2, 7), torch.zeros(1, 2, 7)
        wrong = [((x[..., :3],), {}), ((x.double(),), {}), ((x, state[0]), {}), ((x, (state[0], state[1][:, :1])), {})]
        wrong += [((x, (*state, state[0])), {}), ((x.to_sparse(),), {}), ((torch.nested.nested_tensor([x[0]]),), {})]
        for arguments, named in wrong:
            errors = []
            for gradients in (False, False, False, True):
                with torch.set_grad_enabled(gradients), pytest.raises((RuntimeError, ValueError)) as caught:
                    layer(*arguments, **named)
                errors.append((caught.type, str(caught.value)))
            assert len(set(errors)) == 1
            with torch.no_grad():
                layer(x, state)

    def test_threads_may_share_a_layer_whose_weights_change(self):
        layer, x = unrolled.LSTM(8, 32), torch.randn(1, 1, 8)
        stop, failed = threading.Event(), []

        def serve():
            with torch.no_grad():
                while not stop.is_set():
                    if not layer(x)[0].isfinite().all():
                        failed.append(1)

        threads = [threading.Thread(target=serve) for _ in range(3)]
        for thread in threads:
            thread.start()
        with torch.no_grad():
            for _ in range(300):
                layer.weight_hh_l0.data.mul_(0.999)
                time.sleep(0.001)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed
