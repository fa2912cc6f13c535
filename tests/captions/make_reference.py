"""Write reference.json anew: captions with the tokens and scores that the COCO evaluation itself gives them. Needs Java.

    python tests/captions/make_reference.py

The captions were written for this file; `pycocoevalcap` takes them apart with its own tokenizer, the Java one.
"""

import json
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

CAPTIONS = {
    "beach": [
        "Two dogs run along the sandy beach.",
        "Two dogs run along the sandy shore at noon.",
        "Two dogs are running on the beach .",
        "A pair of dogs race over wet sand, side by side.",
        "Dogs play at the sea",
    ],
    "boat": [
        "A man in a red boat",
        "Men sail a small boat with white sails.",
        "A sailing-boat (with three men) leans in the wind.",
        "A man's boat is close to the shore; it doesn't move.",
    ],
    "bike": [
        "A man rides a bike down the street.",
        "A man rides a bike down a busy street.",
        "A cyclist in a blue T-shirt rides down a hill",
        "Someone is riding a mountain bike through the woods - fast!",
        "He's riding his bike at 7:30 p.m. on St. John's Rd.",
    ],
    "snow": [
        "A child is playing in the snow.",
        "A little girl in a pink coat slides down a snowy hill.",
        "A young child slips 'n' slides on the snow.",
        "A girl sits on her sled ...and laughs",
    ],
    "kitchen": [
        "A woman cooking food in a kitchen.",
        "A woman, wearing an apron, stirs a pot.",
        "An elderly woman cooks soup on a gas stove.",
        '"Soup\'s ready" says the cook.',
    ],
    "ball": [
        "A boy kicks a ball.",
        "Two boys in white shirts play soccer on a green field.",
        "The boy #7 kicks the ball & runs.",
        "Children play football in a park",
    ],
    "train": [
        "A train.",
        "A train on the tracks near a station.",
        "The 10:15 train pulls into the station at 50 km/h.",
        "A red-and-white train stops; people get on and/or off.",
    ],
    "cat": [
        "A cat is sitting on a table next to a laptop computer.",
        "A cat sleeps on an open laptop.",
        "The cat's asleep; its owner can't work.",
        "A grey cat lies on a keyboard",
    ],
    "horse": [
        "A horse jumps over a fence.",
        "A rider and her horse jump a fence at a show.",
        "A girl on a brown horse clears the bars, almost 1.40 m high.",
        "Horse and rider leap over the hurdle!!",
    ],
    "band": [
        "A man plays a guitar on stage.",
        "A band is playing rock 'n' roll on a stage.",
        "A guitarist sings into a microphone; R&B, isn't it?",
        "Three men with guitars and drums, c. 1970",
    ],
    "market": [
        "People buying fruit at a market.",
        "Lots of people are shopping for fruit at $2 a pound.",
        "A seller weighs apples for Mrs. Brown",
        "An open-air market with 20-30 stalls [crowded]",
    ],
    "bench": [
        "A man is sitting on a bench on a bench.",
        "An old man sits on a park bench reading a newspaper.",
        "A man in his 80's reads the U.S. news.",
        "Someone reads on a bench under the trees -- alone.",
    ],
    "climb": [
        "A person climbing a rock.",
        "A climber hangs from a cliff by one hand.",
        "A woman in a helmet climbs a steep rock face.",
        "She's gonna fall: her rope wasn't tied…",
    ],
    "empty": ["", "Nothing but a blue wall.", "A blue wall"],
    "nothing_like_it": [
        "zebra zebra zebra",
        "A plane flies above the clouds.",
        "A white airplane with “AIR” on its tail takes off.",
    ],
}


def main() -> None:
    candidates = {image: captions[0] for image, captions in CAPTIONS.items()}
    references = {image: captions[1:] for image, captions in CAPTIONS.items()}
    tokenizer = PTBTokenizer()
    said = tokenizer.tokenize({image: [{"caption": caption}] for image, caption in candidates.items()})
    wanted = tokenizer.tokenize({image: [{"caption": one} for one in captions] for image, captions in references.items()})
    bleu, _ = Bleu(4).compute_score(wanted, said)
    scores = {f"bleu_{n}": score for n, score in enumerate(bleu, 1)}
    scores["rouge_l"] = float(Rouge().compute_score(wanted, said)[0])
    scores["cider"] = float(Cider().compute_score(wanted, said)[0])
    tokens = {image: said[image] + wanted[image] for image in CAPTIONS}
    content = {"candidates": candidates, "references": references, "tokens": tokens, "scores": scores}
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (Path(__file__).parent / "reference.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
