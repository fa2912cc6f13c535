"""Drawing: a network that has seen images makes new ones, step by step.

An image has no order of its own; the sequence is how it is made. DRAW (Gregor et al. 2015) adds to a canvas at every step, and
looks at a part of it through a window that it moves; a PixelRNN (van den Oord, Kalchbrenner and Kavukcuoglu 2016) says the
pixels one after another. Handwritten digits with `recipes/mnist_draw.toml`:

    unrolled train drawing mnist.npz --recipe recipes/mnist_draw.toml
"""
