"""Frozen specifications: what a run is, with nothing left to default later.

`config.py` turns an ml_collections ConfigDict into these once, at the
boundary; no other module reads a ConfigDict. No JAX in here, so that
planning, accounting and fitting can use the specs anywhere.

A field marked `identity=False` does not change what the run computes (a
path, a logging interval, a role) and is left out of the run id.

Every spec is imported from here: `from varjax import spec as specs`.
"""

from varjax.spec.data import DataSpec
from varjax.spec.duration import Duration
from varjax.spec.model import ModelSpec
from varjax.spec.optim import OptimSpec
from varjax.spec.order import OrderSpec
from varjax.spec.reconstruct import (
  AdversarialSpec,
  PerceptualSpec,
  ReconstructSpec,
)
from varjax.spec.run import MeshSpec, ProgressiveSpec, RunSpec, ScoreSpec
from varjax.spec.sample import PrecisionSpec, SampleSpec
from varjax.spec.tokenizer import TokenizerSpec

__all__ = [
  'AdversarialSpec',
  'DataSpec',
  'Duration',
  'MeshSpec',
  'ModelSpec',
  'OptimSpec',
  'OrderSpec',
  'PerceptualSpec',
  'PrecisionSpec',
  'ProgressiveSpec',
  'ReconstructSpec',
  'RunSpec',
  'SampleSpec',
  'ScoreSpec',
  'TokenizerSpec',
]
