"""One figure of a report, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import re
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
  from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Exhibit:
  """One figure.

  Attributes:
    name: file stem, letters, digits and underscores.
    section: 'laws', 'runs' or 'plan', where the page shows it.
    title, caption: for people.
    data: what is drawn, one row per mark.
    figure: the drawing.
    wide: takes the whole width of the page.
  """

  name: str
  section: str
  title: str
  caption: str
  data: pd.DataFrame
  figure: Figure
  wide: bool = False


def stem(kind: str, fit: Mapping[str, Any], index: int) -> str:
  """A file stem from the name of a fit."""
  name = str(fit.get('name') or fit.get('form') or 'fit')
  words = re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')[:40]
  return f'{kind}_{index + 1}_{words}' if words else f'{kind}_{index + 1}'
