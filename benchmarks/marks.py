"""A document with marks, between which a script writes its tables."""

from __future__ import annotations

import pathlib

from varjax import errors


def write_between(page: pathlib.Path, name: str, text: str) -> None:
  """Replaces what stands between the marks of `name` in a page.

  Raises:
    DataError: the page has no such marks.
  """
  start, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
  before, found, rest = page.read_text().partition(start)
  _, closed, after = rest.partition(end)
  if not (found and closed):
    raise errors.DataError(f'{page}: has no {start} and {end}')
  page.write_text(f'{before}{start}\n{text.strip()}\n{end}{after}')
