"""Learn to describe photographs in a sentence.

Image captioning, one-to-many: a photo goes in; a sentence of unknown length comes out, from START to END.

Vinyals et al. 2015, "Show and tell"; Xu et al. 2015, "Show, attend and tell"; Rennie et al. 2017, "Self-critical sequence
training for image captioning". The five parts: config, data, model, loss, generate.

Reproduce: `unrolled train captioning FLICKR8K --recipe recipes/flickr8k.toml`, then
`unrolled train captioning FLICKR8K --recipe recipes/flickr8k-self-critical.toml --start RUN`
"""
