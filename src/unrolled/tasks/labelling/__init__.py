"""Labelling: a name for every step of a sequence, or one for the whole.

Many-to-many with the steps aligned, and many-to-one: a recurrent network reads words, characters, numbers, sound or video, and
says of each step, or at the end, what it is (Graves and Schmidhuber 2005, Huang, Xu and Yu 2015, Donahue et al. 2015). Parts
of speech with `recipes/ud_english_lines.toml`:

    unrolled train labelling train.conllu --validation dev.conllu --recipe recipes/ud_english_lines.toml
"""
