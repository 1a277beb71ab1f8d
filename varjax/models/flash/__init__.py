"""Flash attention on NVIDIA GPUs that skips what static blocks forbid.

Written in Pallas for its Triton back end. The algorithm is FlashAttention-2
(Dao, arXiv 2307.08691): a tile of queries meets one tile of keys after the
other under a running softmax, and the backward pass computes the logits
again. What is added is the rule of next-scale prediction (VAR, arXiv
2404.02905, section 3.2) as two vectors of positions, so that tiles that it
forbids are never visited, and cosine attention without normalised copies of
queries and keys in memory.

  tiles.py         how a rule and tiles meet: sizes, limits, counts
  costs.py         what the kernels compute and move, counted
  views.py         what of each array a program sees
  softmax.py       products and the running softmax of one tile
  forward.py       outputs and the log of the softmax's denominator
  backward.py      gradients of queries; of keys and values
  block_causal.py  the differentiable function, on one device or a mesh
  cached.py        a step of a sampler against a cache that fills up
"""
