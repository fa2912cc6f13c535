"""Learn to write like some text, character by character or word by word.

A recurrent language model, many-to-many, aligned: at each step it reads a token and predicts the next.

Mikolov et al. 2010, "Recurrent neural network based language model"; characters after Sutskever, Martens and Hinton 2011,
"Generating text with recurrent neural networks". The five parts: config, data, model, loss, generate.

Reproduce: `unrolled train language-model TEXT --recipe recipes/tinyshakespeare.toml`
"""
