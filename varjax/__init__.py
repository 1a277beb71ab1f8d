"""varjax: scaling-law experiments for visual autoregressive models in JAX."""

__version__ = '0.1.0'
