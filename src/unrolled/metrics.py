"""How good captions are: BLEU, ROUGE-L and CIDEr as the COCO caption evaluation computes them, and CIDEr-D as a reward; and
translations: BLEU and chrF by sacrebleu.

`caption_scores` calls pycocoevalcap, the Python 3 edition of the evaluation code that the published figures come
from (Chen et al. 2015, "Microsoft COCO Captions: data collection and evaluation server"). Only its tokenizer, METEOR and SPICE
run Java. `words` does the tokenizer's work here; METEOR and SPICE are left out, because without Java there is no
implementation that gives their numbers.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex
import torch
from torch import Tensor

from unrolled.data.words import apart
from unrolled.errors import DataError

_ABBREVIATIONS = (
    "Mr Mrs Ms Messrs Dr Drs Prof St Ave Jr Sr Inc Co Corp Ltd vs etc Mt Ft Gen Sgt Lt Col Capt Maj Rev Gov Sen Rep Hon Pres "
    "Dept Blvd Rd Bros Jan Feb Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Wed Thu Fri Calif Fla Tex Mass Pa Ph.D"
).replace(".", r"\.")
_WORD = regex.compile(
    "|".join(
        [
            r"</?[a-z][^<>\s]*>",  # a tag such as <unk>
            r"[\w.+-]+@[a-z][\w.-]*\w|https?://\S+|www\.\S*\w",
            r"'n'(?!\w)|'t(?:is|was)\b|'(?:em|til|till|cause|n)\b(?!')|'\d0s\b",  # rock 'n' roll, 'em, '80s
            r"'(?:s|m|d|re|ve|ll)\b|n't\b",
            r"(?-i:[A-Z]+(?:&[A-Z]+)+)",  # R&B
            r"(?:[a-z]\.){2,}(?!\w)|(?-i:[A-Zb-z])\.(?!\w)|[a-z](?:\.[a-z])+(?!\w)",  # U.S., B., p.m
            rf"(?:{_ABBREVIATIONS.replace(' ', '|')})\.(?!\w)|no\.(?=\s*\d)",
            r"can(?=not\b)|gon(?=na\b)|wan(?=na\b)|got(?=ta\b)|gim(?=me\b)|lem(?=me\b)",
            r"[a-z]+(?=n't\b)|y'(?=all)|ma'am|o'clock|c\+\+|c#",
            r"\d+:\d\d(?=[ap]m\b)",  # 7:00pm is 7:00 and pm
            r"[-+]?(?:\d+(?:[.,:/-]\d+)+|\.\d+)(?:-[a-z][^\W_]*)*",  # 1,000  3:30  24/7  3,000-year-old
            r"(?:[old]'(?=[a-z]{2}))?[^\W_]+(?:[-/][^\W_]+|\.[a-z]\w*|_[^\W_]+)*",  # dog  t-shirt  and/or  O'Brien
            r"--+|\.\.+|[!?]+|'+|`+|\S",
        ]
    ),
    regex.IGNORECASE,
)
_PLAIN = str.maketrans(
    {"’": "'", "‘": "`", "“": '"', "”": '"', "£": "#", "€": "$", "–": " - ", "—": " - ", "…": " ", "½": "1/2", "\xa0": " "}
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = regex.compile(r"[.,:;'`\"\-―]+|[?!]|[。，、；：！？「」『』（）《》。।॥؟،؛]")


def words(caption: str) -> list[str]:
    """The words of a caption as the COCO evaluation counts them: lower case, contractions apart, punctuation dropped.

    The rules of the Penn Treebank as Stanford's PTBTokenizer has them, oddities included: brackets stay, as -lrb- and -rrb-,
    and so does ``!!``. Equal to what the evaluation's own tokenizer (Java) says of each of the 59,842 English captions of
    Flickr8k, Multi30k and 128 photos of COCO; outside captions (rare abbreviations, smileys) it can
    differ. In scripts that are written without spaces every character counts as a word.

    >>> words("The dog can't find Mr. Smith's T-shirt, so it waits.")
    ['the', 'dog', 'ca', "n't", 'find', 'mr.', 'smith', "'s", 't-shirt', 'so', 'it', 'waits']
    """
    for entity, character in _ENTITIES.items():
        caption = caption.replace(entity, character)
    caption = caption.translate(_PLAIN)
    found = _WORD.findall(caption if caption.isascii() else apart(caption))
    return [_BRACKETS[word] if word in _BRACKETS else word.lower() for word in found if not _DROPPED.fullmatch(word)]


NOT_INSTALLED = "scores of captions need the package pycocoevalcap: pip install 'unrolled[captioning]'"


def scores_installed() -> bool:
    """Whether `caption_scores` can be computed here."""
    return importlib.util.find_spec("pycocoevalcap") is not None


def caption_scores(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """BLEU-1 to 4, ROUGE-L and CIDEr of one caption per image against what people wrote about it.

    The numbers of the COCO caption evaluation: `bleu_1` .. `bleu_4` (Papineni et al. 2002, over the whole set, with the closest
    length of a reference) and `rouge_l` (Lin 2004) from 0 to 1, `cider` (Vedantam, Zitnick and Parikh 2015; that evaluation's
    CIDEr is the paper's CIDEr-D) from 0 to 10. Multiply by 100 for the usual way to print them. CIDEr weighs words by how many
    images of this very set have them, so it depends on the set, and is 0 for a single image.

    Args:
        candidates: image -> caption; any text, tokenized by `words`.
        references: image -> its captions; images without a candidate are left out.

    Raises:
        DataError: pycocoevalcap is not installed; no candidates; an image without references.

    >>> said = {"1": "A dog runs.", "2": "Two men on a boat"}
    >>> scores = caption_scores(said, {"1": ["The dog runs.", "A brown dog runs fast"], "2": ["Two men sail a boat."]})
    >>> f"{scores['bleu_1']:.3f} {scores['rouge_l']:.3f} {scores['cider']:.3f}"
    '0.875 0.786 3.012'
    """
    if not scores_installed():
        raise DataError(NOT_INSTALLED)
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if not candidates:
        raise DataError("expected captions to score, got none.")
    if missing := [image for image in candidates if not references.get(image)]:
        raise DataError(
            f"expected references for every image, got none for {len(missing)} of {len(candidates)}, the first {missing[0]!r}."
        )
    written = {image: [" ".join(words(caption))] for image, caption in candidates.items()}
    expected = {image: [" ".join(words(caption)) for caption in references[image]] for image in candidates}
    bleu, _ = Bleu(4).compute_score(expected, written, verbose=0)
    rouge, _ = Rouge().compute_score(expected, written)
    cider, _ = Cider().compute_score(expected, written)
    return {f"bleu_{n}": float(score) for n, score in enumerate(bleu, 1)} | {"rouge_l": float(rouge), "cider": float(cider)}


TRANSLATION_NOT_INSTALLED = "scores of translations need the package sacrebleu: pip install 'unrolled[translation]'"


def translation_scores_installed() -> bool:
    """Whether `translation_scores` can be computed here."""
    return importlib.util.find_spec("sacrebleu") is not None


def translation_scores(translations: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU and chrF of translations, line by line one reference, and how many lines are exactly right.

    By sacrebleu (Post 2018), on text as it is written, with its defaults: `bleu` from 0 to 100 (Papineni et al. 2002; cased,
    tokenised by the rules of mteval-v13a), `chrf` from 0 to 100 (Popović 2015, chrF2), their signatures `bleu_signature` and
    `chrf_signature`, which say version and settings, and `exact`, the share of lines that equal their reference, 0 to 1.

    Raises:
        DataError: sacrebleu is not installed, or no lines.

    >>> scores = translation_scores(["The cat sat on the mat.", "Hello!"], ["The cat sat on the mat.", "Hi!"])
    >>> f"{scores['bleu']:.1f} {scores['chrf']:.1f} {scores['exact']}"
    '93.4 95.1 0.5'
    """
    if not translation_scores_installed():
        raise DataError(TRANSLATION_NOT_INSTALLED)
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if not translations or len(translations) != len(references):
        raise DataError(f"expected one reference per translation, got {len(references)} for {len(translations)}.")
    scores: dict[str, Any] = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        scores[name] = metric.corpus_score(list(translations), [list(references)]).score
        scores[f"{name}_signature"] = str(metric.get_signature())
    return {**scores, "exact": exact_share(translations, references)}


def exact_share(translations: Sequence[str], references: Sequence[str]) -> float:
    """The share of lines that equal their reference, but for spaces at their ends; 0 to 1.

    >>> exact_share(["2026-11-28", "2026-11-29"], ["2026-11-28", "2026-11-30"])
    0.5
    """
    return sum(one.strip() == other.strip() for one, other in zip(translations, references, strict=True)) / len(translations)


class CiderReward:
    """CIDEr-D of sampled captions as token ids, fast enough to be a reward at every training step.

    Vedantam, Zitnick and Parikh 2015, section 3 and appendix, as self-critical training uses it (Rennie et al. 2017). For
    n-grams of n = 1..4, with g the vector of count(w) * log(images / images whose references have w),

        CIDEr-D(c, S) = 10 / 4 * sum_n mean_{s in S} exp(-(|c| - |s|)^2 / (2 * 6^2)) * min(g_c, g_s) . g_s / (|g_c| |g_s|)

    where |c| is the number of bigrams, as in the COCO evaluation. Document frequencies and the references' vectors depend on
    the references alone and are computed here, once.

    Args:
        references: for each image its captions, each a list of token ids. Whether these end in END is for the caller to decide;
            samples then have to do the same.

    Raises:
        ValueError: no images, or an image without captions.

    >>> reward = CiderReward([[[5, 6, 7, 8, 9]], [[1, 2, 3, 4]]])
    >>> reward.reward([0, 1, 1], [[5, 6, 7, 8, 9], [1, 2], [5, 6]])
    tensor([10.0000,  3.0376,  0.0000])
    >>> reward.agreement([[5, 6, 7, 8, 9], [1, 2]], [[5, 6, 7], [1, 2, 3, 4]])  # against each other
    tensor([2.4347, 1.5188])
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        if not references or not all(references):
            raise ValueError(f"expected at least one image, each with captions, got {len(references)} images, one without.")
        frequency: Counter[tuple[int, ...]] = Counter()
        for captions in references:
            frequency.update({gram for caption in captions for gram in _ngrams(caption)})
        self._unseen = math.log(len(references))  # of n-grams that no reference has, and of those in one image only
        self._weight = {gram: self._unseen - math.log(count) for gram, count in frequency.items() if count > 1}
        self._captions = references
        self._references: dict[int, list[_Vector]] = {}  # of the images that have been asked for

    def reward(self, indices: Iterable[int], samples: Sequence[Sequence[int]]) -> Tensor:
        """CIDEr-D (N,), 0 to 10, of `samples[k]` against the references of image `indices[k]`; an image may come many times."""
        scores = []
        for image, sample in zip(indices, samples, strict=True):
            if image not in self._references:
                self._references[image] = [self._vector(caption) for caption in self._captions[image]]
            scores.append(_cider(self._vector(sample), self._references[image]))
        return torch.tensor(scores)

    def agreement(self, candidates: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> Tensor:
        """CIDEr-D of each candidate (N,), 0 to 10, with `others` as references, under the images' document frequencies."""
        references = [self._vector(one) for one in others]
        return torch.tensor([_cider(self._vector(one), references) for one in candidates])

    def _vector(self, caption: Sequence[int]) -> _Vector:
        vector = {gram: count * self._weight.get(gram, self._unseen) for gram, count in _ngrams(caption).items()}
        squares = [0.0, 0.0, 0.0, 0.0]
        for gram, weight in vector.items():
            squares[len(gram) - 1] += weight * weight
        return vector, [math.sqrt(square) for square in squares], max(len(caption) - 1, 0)


_Vector = tuple[dict[tuple[int, ...], float], list[float], int]
"""Of a caption: n-gram -> weight, the norm for each n, the number of bigrams."""


def _cider(one: _Vector, references: Sequence[_Vector]) -> float:
    vector, norms, length = one
    score = 0.0
    for reference, reference_norms, reference_length in references:
        similarity = [0.0, 0.0, 0.0, 0.0]
        for gram in vector.keys() & reference.keys():
            weight = reference[gram]
            similarity[len(gram) - 1] += min(vector[gram], weight) * weight
        cosine = sum(s / (a * b) for s, a, b in zip(similarity, norms, reference_norms, strict=True) if a and b)
        score += cosine * math.exp(-((length - reference_length) ** 2) / 72)
    return 10 / 4 * score / len(references)


def _ngrams(caption: Sequence[int]) -> Counter[tuple[int, ...]]:
    ids = tuple(caption)
    return Counter(ids[start : start + n] for n in (1, 2, 3, 4) for start in range(len(ids) - n + 1))
