"""The sizes in what the TPU compiler says when memory runs out."""

import pytest

from varjax.aot import refusal

GIB = 2**30


@pytest.mark.parametrize(
  ('text', 'used', 'limit'),
  [
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.20G '
      'of 15.75G hbm. Exceeded hbm capacity by 4.45G.',
      20.20 * GIB,
      15.75 * GIB,
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required '
      'for HLO temporaries (22.76G) exceeds available HBM (15.75G).',
      22.76 * GIB,
      15.75 * GIB,
    ),
    ('Used 812.5M of 15.75G hbm', 812.5 * 2**20, 15.75 * GIB),
    ('Used 1.50T of 95.74G hbm', 1.5 * 2**40, 95.74 * GIB),
  ],
)
def test_sizes_are_read(text, used, limit):
  found = refusal.parse(text)
  assert (found.used_bytes, found.limit_bytes) == (round(used), round(limit))
  assert found.partial == ('temporaries' in text)


def test_other_errors_are_not_about_memory():
  assert refusal.parse('INTERNAL: Mosaic failed to compile TPU kernel') is None
  assert refusal.parse('Ran out of memory in memory space vmem. Used 20M '
                       'of 16M vmem.') is None  # fmt: skip
