"""Each wrong call raises what torch.nn raises, and says what, expected, received."""

import re

import pytest
import torch
from tests.layers.twins import KINDS, B, H, I, T, twins
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import unrolled


def same_error(kind: str, text: str, *arguments, **variant) -> None:
    ours, theirs = twins(kind, torch.float32, **variant)
    with pytest.raises((RuntimeError, ValueError)) as their_error:
        theirs(*arguments)
    with pytest.raises(their_error.type, match=text) as our_error:
        ours(*arguments)
    assert str(their_error.value) in str(our_error.value)  # who matches torch.nn's sentence finds it


@pytest.mark.parametrize("value", [torch.randn(3, 2, 4).numpy(), [[1.0]], None], ids=["array", "list", "None"])
def test_what_is_no_tensor(value) -> None:
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), pytest.raises(TypeError, match="RNN expected input to be a tensor"):
            unrolled.RNN(4, 5)(value)
        with torch.set_grad_enabled(gradients), pytest.raises(TypeError, match="RNN expected x_t to be a tensor"):
            unrolled.RNN(4, 5).step(value)


@pytest.mark.parametrize("state", [(None, None), (torch.zeros(1, 3, H), None), [[0.0], [0.0]]], ids=["none", "half", "lists"])
def test_a_state_of_no_tensors_is_refused_by_a_step_as_by_a_call(state) -> None:
    layer, x = unrolled.LSTM(I, H), torch.zeros(1, 3, I)
    with torch.no_grad():
        with pytest.raises((TypeError, ValueError, RuntimeError)) as of_call:
            layer(x, state)
        with pytest.raises(type(of_call.value), match=re.escape(str(of_call.value))):
            layer.step(x[0], state)


def test_width() -> None:
    same_error("lstm", r"LSTM: .*got 9: \(T=5, B=3, I=9\)", torch.zeros(T, B, 9))


def test_width_with_a_layout_hint() -> None:
    same_error("gru", r"got 3: \(B=4, T=5, I=3\)\. Is it laid out", torch.zeros(I, T, B), batch_first=True)


def test_axes() -> None:
    same_error("rnn", "2D or 3D, got 4D", torch.zeros(1, 1, 1, I))


def test_dtype() -> None:
    same_error("lstm", "LSTM: RNN input dtype", torch.zeros(T, B, I, dtype=torch.float64))


def test_state_shape() -> None:
    same_error("gru", "GRU: .*h_0 is", torch.zeros(T, B, I), torch.zeros(1, 2, H))


def test_state_axes_of_unbatched_input() -> None:
    same_error("gru", "GRU: ", torch.zeros(T, I), torch.zeros(1, 1, H))


def test_no_steps() -> None:
    for kind in KINDS:
        same_error(kind, "larger than 0", torch.zeros(0, B, I))


def test_lstm_wants_a_pair() -> None:
    with pytest.raises(RuntimeError, match=r"pair \(h_0, c_0\), got a tensor"):
        unrolled.LSTM(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, H))


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        (torch.tensor([1.0, 2.0, float("nan")]), "integers of shape"),
        (torch.tensor([1, 2]), r"shape \(B=3,\), got a tensor of shape \(2,\)"),
        (torch.tensor([1, 2, 6]), "from 0 to T=5, got values from 1 to 6"),
        (torch.tensor([1, -2, 5]), "got values from -2 to 5"),
    ],
)
def test_lengths(lengths: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        unrolled.LSTM(I, H)(torch.zeros(T, B, I), lengths=lengths)


@pytest.mark.parametrize("resets", [torch.zeros(T, B), torch.zeros(T, B + 1, dtype=torch.bool)])
def test_resets(resets: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"booleans for every step and sequence, \(T=5, B=3\), got a tensor"):
        unrolled.GRU(I, H)(torch.zeros(T, B, I), resets=resets)


def test_lengths_that_are_no_tensor() -> None:
    with pytest.raises(ValueError, match=r"integers of shape .*got a tensor of shape \(2,\)"):
        unrolled.GRU(I, H)(torch.zeros(T, B, I), lengths=[5, 2])
    with pytest.raises(ValueError, match=r"integers of shape .*got a list of 3"):
        unrolled.GRU(I, H)(torch.zeros(T, B, I), lengths=[5, 2.5, 2])


@pytest.mark.parametrize("name", ["lengths", "resets", "embedding", "gradient_norms"])
def test_packed_sequences_take_nothing_beside_them(name: str) -> None:
    packed = pack_sequence([torch.zeros(2, I)])
    with pytest.raises(ValueError, match="with a padded tensor, got one of them with a PackedSequence"):
        unrolled.GRU(I, H)(packed, **{name: torch.zeros(1)})


@pytest.mark.parametrize("argument", ["hx", "lengths", "resets", "gradient_norms"])
def test_what_lies_on_another_device(argument: str) -> None:
    given = {
        "hx": torch.zeros(1, B, H),
        "lengths": torch.full((B,), T),
        "resets": torch.zeros(T, B, dtype=torch.bool),
        "gradient_norms": torch.zeros(1, 2, T, B),
    }
    with pytest.raises(ValueError, match=r"on cpu, where the (weights are|input is), got .*meta"):
        unrolled.GRU(I, H)(torch.zeros(T, B, I), **{argument: given[argument].to("meta")})


def test_state_of_another_dtype() -> None:
    with pytest.raises(ValueError, match=r"h0 of torch.float32, the dtype of the weights, got .* float64"):
        unrolled.GRU(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, H, dtype=torch.float64))


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_size": 0},
        {"hidden_size": -1},
        {"hidden_size": 2.5},
        {"num_layers": 0},
        {"dropout": 1.5},
        {"bias": 1},
        {"proj_size": 9},
    ],
    ids=str,
)
def test_constructor(arguments: dict) -> None:
    given = {"input_size": I, "hidden_size": H, **arguments}
    with pytest.raises((TypeError, ValueError)) as theirs:
        nn.LSTM(**given)
    with pytest.raises(theirs.type, match=re.escape(str(theirs.value))):
        unrolled.LSTM(**given)


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_projections_are_the_lstms(kind: str) -> None:
    with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM, not RNN or GRU"):
        getattr(nn, kind)(I, H, proj_size=2)
    with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM, not RNN or GRU"):
        getattr(unrolled, kind)(I, H, proj_size=2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(5, 2, 3).to_sparse(), r"GRU expected a dense input, got torch.sparse_coo. Give it x.to_dense\(\)."),
        (torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)]), "got a nested tensor. Give it .* as lengths"),
    ],
)
def test_input_that_is_not_dense_is_refused_in_words(x, message):
    with pytest.raises(ValueError, match=message):
        unrolled.GRU(3, 4)(x)
