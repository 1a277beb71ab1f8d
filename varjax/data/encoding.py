"""How a code cache was made: speed, waiting and agreement, on record.

One JSON line beside the manifest of a split for each `varjax encode` that
made some of its codes, or measured them. It says nothing of what the codes
are: the manifest does, and no hash covers this file. No JAX in here.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
import typing
from typing import Any

from varjax import errors, jsonlines

FILE = 'encoding.jsonl'
SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Agreement:
  """Codes that float32 arithmetic would have given as well.

  Attributes:
    images: that were encoded twice.
    share: of all their codes.
    by_scale: of the codes of each scale.
  """

  images: int
  share: float
  by_scale: tuple[float, ...]

  def __str__(self) -> str:
    scales = ', '.join(f'{share:.2%}' for share in self.by_scale)
    return (
      f'{self.share:.2%} of the codes of {self.images} images agree with '
      f'float32 (by scale: {scales})'
    )


@dataclasses.dataclass(frozen=True)
class Encoding:
  """One `varjax encode` of one split.

  Attributes:
    schema: version of this table.
    tokenizer_id: whose codes they are.
    split: 'train' or 'validation'.
    date: UTC, when it ended.
    complete: whether it ended by itself, not by an error or a signal.
    device_kind: of the device of this process.
    process_count: processes that shared the work.
    compute_dtype: of the tokenizer's network.
    batch_images: of one call.
    images: encoded by this process; what was there before does not count.
    wall_s: from the first look at the folder to the end.
    images_per_s: of this process, without the first batch, which compiles;
      None where no other came.
    data_wait: share of that time in which the device's thread waited for
      images.
    agreement: with float32; None where it was not asked for.
    jax_version: that compiled it.
  """

  tokenizer_id: str
  split: str
  date: str
  complete: bool
  device_kind: str
  process_count: int
  compute_dtype: str
  batch_images: int
  images: int
  wall_s: float
  images_per_s: float | None
  data_wait: float | None
  agreement: Agreement | None
  jax_version: str
  schema: int = SCHEMA

  def __str__(self) -> str:
    """For people, in one line."""
    text = f'{self.images:,} images in {self.wall_s:.1f} s'
    if self.images_per_s is not None:
      text += f', {self.images_per_s:,.0f} images/s after the first batch'
    if self.data_wait is not None:
      text += f' ({self.data_wait:.0%} of it waiting for images)'
    text += f' on {self.device_kind}, {self.compute_dtype}, {self.date[:10]}'
    if self.agreement is not None:
      text += f'; {self.agreement}'
    return text


def append(folder: pathlib.Path, encoding: Encoding) -> None:
  """Adds a line to the record of a split."""
  values = dataclasses.asdict(encoding)
  jsonlines.append(folder / FILE, jsonlines.line(values, 'an encoding'))


def read(folder: str | os.PathLike[str]) -> list[Encoding]:
  """The record of a split, oldest first; empty where there is none.

  Args:
    folder: of the split, which holds the manifest.

  Raises:
    DataError: the file is not such a record, or of a later version.
  """
  file = pathlib.Path(folder) / FILE
  try:
    rows = list(jsonlines.read(file))
  except FileNotFoundError:
    return []
  except (OSError, ValueError) as error:
    raise errors.DataError(
      f'{file}: cannot be read ({error}); it may be deleted, the codes do not '
      'need it'
    ) from error
  return [_row(values, where) for where, values in rows]


def describe(folder: str | os.PathLike[str]) -> str:
  """The last encode that had a speed, and the last agreement; '' if none.

  Raises:
    DataError: see `read`.
  """
  found = read(folder)
  timed = [one for one in found if one.images_per_s is not None]
  compared = [one.agreement for one in found if one.agreement is not None]
  last = timed[-1] if timed else None
  parts = [] if last is None else [str(last)]
  if compared and (last is None or last.agreement is not compared[-1]):
    parts.append(str(compared[-1]))
  return '; '.join(parts)


def _row(values: Any, where: str) -> Encoding:
  try:
    if values['schema'] != SCHEMA:
      raise ValueError(f'schema {json.dumps(values["schema"])}')
    made = dict(values)
    if made['agreement'] is not None:
      made['agreement'] = _checked(Agreement, made['agreement'])
      scales = tuple(map(float, made['agreement'].by_scale))
      made['agreement'] = dataclasses.replace(
        made['agreement'], by_scale=scales
      )
    return _checked(Encoding, made)
  except (KeyError, TypeError, ValueError) as error:
    raise errors.DataError(
      f'{where}: not the record of an encode that this version reads '
      f'({error}); the file may be deleted, the codes do not need it'
    ) from error


def _checked(kind: type[Any], values: Mapping[str, Any]) -> Any:
  """Refuses numbers and texts that are of another type than declared."""
  made = kind(**values)
  for name, hint in typing.get_type_hints(kind).items():
    plain = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
    allowed = plain.get(hint)
    if allowed and type(getattr(made, name)) not in allowed:
      raise TypeError(f'{name} is {getattr(made, name)!r}')
  return made
