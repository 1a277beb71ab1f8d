"""Append-only tables as files of JSON lines, as training and eval write them.

A line is written whole and flushed; what a kill left of one is passed over
when the file is read. No JAX in here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
import json
import os
import pathlib
from typing import Any, BinaryIO

from varjax import errors


def line(values: Mapping[str, Any], what: str) -> str:
  """One line of JSON, with its end; None is null.

  Args:
    values: of the row.
    what: it is, for the error.

  Raises:
    RecordError: NaN or infinity.
  """
  try:
    return json.dumps(values, allow_nan=False) + '\n'
  except ValueError as error:
    raise errors.RecordError(f'{what} may not hold NaN or infinity') from error


def append(path: str | os.PathLike[str], text: str) -> None:
  """Adds a line, whole or not at all, and flushes it to the disk."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'ab+') as file:
    # A kill can leave half a line behind: end it, so that `read` can tell
    # the fragment from the new line.
    if file.tell() and not _ends_with_newline(file):
      file.write(b'\n')
    file.write(text.encode())
    file.flush()
    os.fsync(file.fileno())


def read(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
  """Where each line stands ('FILE:NUMBER') and its value, in file order."""
  text = pathlib.Path(path).read_text()
  # Not splitlines: a string in JSON may hold other line separators.
  for number, row in enumerate(text.split('\n'), start=1):
    if not row.strip():
      continue
    try:
      values = json.loads(row)
    except json.JSONDecodeError:
      # Only a fragment that a kill left behind is not JSON.
      continue
    yield f'{path}:{number}', values


def check(
  values: Any, where: str, what: str, schema: int, names: Collection[str]
) -> None:
  """Refuses a row of another table, or of a later version of this one.

  Args:
    values: what was read.
    where: it stands.
    what: a row is, for the error.
    schema: the last version that is known.
    names: of all columns.

  Raises:
    RecordError: it is no such row.
  """
  if not isinstance(values, dict) or not values.get('run_id'):
    raise errors.RecordError(f'{where}: not {what}')
  found = values.get('schema')
  if not isinstance(found, int) or found > schema:
    raise errors.RecordError(
      f'{where}: schema {found!r} is not known to this version, which '
      f'reads up to {schema}; upgrade varjax'
    )
  unknown = sorted(set(values) - set(names))
  if unknown:
    raise errors.RecordError(f'{where}: unknown column {unknown[0]!r}')


def _ends_with_newline(file: BinaryIO) -> bool:
  file.seek(-1, os.SEEK_END)
  return file.read(1) == b'\n'
