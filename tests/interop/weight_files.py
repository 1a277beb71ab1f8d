"""What reading a file of weights must give, and a trap to put in one."""

import numpy as np
import pytest

from varjax import errors
from varjax.interop import pth


def boom(*_):
  """Runs when a `Boom` is unpickled."""
  raise AssertionError('the pickle ran')


class Boom:
  """An object whose pickle runs something."""

  def __reduce__(self):
    return boom, ()


def same(found, expected):
  """The same names, types and values."""
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].dtype == np.asarray(value).dtype, name
    np.testing.assert_array_equal(found[name], value, name)


def refused(path, *said):
  """The file is refused in one sentence that names it."""
  with pytest.raises(errors.CheckpointError) as caught:
    pth.read_state(path)
  text = str(caught.value)
  assert text.startswith(str(path))
  assert '\n' not in text
  for part in said:
    assert part in text, text
