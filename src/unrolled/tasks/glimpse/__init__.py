"""Glimpses: a network that says what an image shows by looking at a few small parts of it, one after another.

An image has no order of its own; the sequence is where the network looks. The recurrent attention model (Mnih, Heess, Graves
and Kavukcuoglu 2014) learns where to look by REINFORCE, beside what to say. Handwritten digits with
`recipes/mnist_glimpse.toml`, and anywhere on a larger canvas with `recipes/mnist_translated.toml`:

    unrolled train glimpse mnist.npz --recipe recipes/mnist_glimpse.toml

With `objects` it reads one symbol of an image after another, until it says END (Ba, Mnih and Kavukcuoglu 2015).
"""
