"""Translation: one network reads a sentence, another with weights of its own writes it in other words.

Sequence to sequence, many-to-one and then one-to-many (Sutskever, Vinyals and Le 2014; with attention Bahdanau, Cho and Bengio
2015, Luong, Pham and Manning 2015). English into German, with `recipes/multi30k.toml`:

    unrolled train translation train.en train.de --validation val.en --validation val.de --recipe recipes/multi30k.toml
"""
