"""Arrays to write as files of weights."""

import numpy as np
import pytest


@pytest.fixture
def state():
  """Every type and shape that a file of weights may hold."""
  rng = np.random.default_rng(0)
  return {
    'head.weight': rng.normal(size=(3, 4)).astype(np.float32),
    'a.scale': rng.normal(size=(2, 1, 5)).astype(np.float32),
    'lvl_1L': np.arange(6)[None],
    'flag': np.array([True, False]),
    'scalar': np.array(2.5, np.float32),
    'empty': np.zeros((0, 3), np.float32),
    'wide': np.array([1.0, 1e-300]),
  }
