"""An ensemble predicts by the mean of its members' probabilities, at once and token by token, and writes what that says."""

import torch
from tests.tolerance import assert_same
from torch import Tensor, nn

from unrolled.beam_search import take_rows
from unrolled.decoding import decode_sentences, step_function
from unrolled.ensemble import DecoderOutput, Ensemble

PAD, START, END, V, H = 0, 1, 2, 7, 5


class Decoder(nn.Module):
    """An LSTM that starts from its input; its state is a tuple, its encoding a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.output = nn.Embedding(V, 3), nn.LSTM(3, H, batch_first=True), nn.Linear(H, V)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(3)

    def encode(self, inputs: Tensor) -> dict[str, Tensor]:
        return {"start": torch.tanh(inputs)}

    def initial_state(self, encoded: dict[str, Tensor], copies: int = 1) -> tuple[Tensor, Tensor]:
        h = encoded["start"].repeat_interleave(copies, 0)
        return h, torch.zeros_like(h)

    def forward(self, encoded: dict[str, Tensor], tokens: Tensor, state=None, counted=None) -> DecoderOutput:
        state = self.initial_state(encoded, len(tokens) // len(encoded["start"])) if state is None else state
        hidden, last = self.lstm(self.embedding(tokens), tuple(part.unsqueeze(0) for part in state))
        hidden = hidden + encoded["start"].repeat_interleave(len(tokens) // len(encoded["start"]), 0).unsqueeze(1)
        return DecoderOutput(self.output(hidden), tuple(part.squeeze(0) for part in last), None)


def test_it_predicts_by_the_mean_probability_at_once_and_token_by_token() -> None:
    ensemble, inputs, tokens = (
        Ensemble([Decoder(), Decoder()]),
        torch.randn(2, H, dtype=torch.float64),
        torch.randint(V, (6, 4)),
    )
    encoded = ensemble.encode(inputs)
    together = ensemble(encoded, tokens).logits
    alone = [member(member.encode(inputs), tokens).logits.softmax(-1) for member in ensemble.members]
    assert_same(together.exp().detach().float(), torch.stack(alone).mean(0).detach().float())
    state, steps = ensemble.initial_state(encoded, 3), []
    for t in range(4):
        output = ensemble(encoded, tokens[:, t : t + 1], state)
        steps.append(output.logits)
        state = output.state
    assert_same(torch.cat(steps, 1).detach(), together.detach())


def test_sentences_of_inputs_decoded_together_are_those_of_one_at_a_time() -> None:
    ensemble, inputs = Ensemble([Decoder(), Decoder()]), torch.randn(5, H, dtype=torch.float64)

    def written(inputs: Tensor, **how) -> list[list[list[int]]]:
        step, state = step_function(ensemble, ensemble.encode(inputs))
        settings = {"start": START, "end": END, "pad": PAD, "max_length": 8, "length_power": 1.0}
        return [[one.tokens for one in several] for several in decode_sentences(step, state, **settings, **how)]

    def overlap(candidates: list[list[int]], others: list[list[int]]) -> Tensor:
        return torch.tensor([float(sum(len({*one} & {*other}) for other in others)) for one in candidates])

    for how in ({"number": 2}, {"temperature": 1.0, "number": 3}, {"samples": 6, "agreement": overlap}):
        together = written(inputs, **how)
        assert together == [written(inputs[n : n + 1], **how)[0] for n in range(5)]
        assert len({str(one) for one in together}) > 1


def test_a_step_reads_the_inputs_of_its_rows_also_after_others_were_dropped() -> None:
    ensemble, inputs = Ensemble([Decoder()]), torch.randn(3, H, dtype=torch.float64)
    step, (numbers, state, _) = step_function(ensemble, ensemble.encode(inputs))
    tokens = torch.tensor([3, 4, 5])
    whole, _ = step(tokens, (numbers, state, None))
    kept = torch.tensor([0, 2])
    some, _ = step(tokens[kept], (numbers[kept], take_rows(state, kept), None))
    assert_same(some.detach(), whole[kept].detach())
    again, _ = step(tokens, (numbers, state, None))
    assert torch.equal(again, whole)
