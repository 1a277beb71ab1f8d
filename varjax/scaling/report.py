"""`report.html` and `report.md`: what a sweep showed, for people.

The last step of the pipeline: records, curves, fit and pictures of one
sweep directory become one self-contained page (inline style, inline SVG,
embedded PNG) and the same content as Markdown with its figures and their
data beside it. Refusals and warnings stand at the top and cannot be
switched off. Text from records is data: it is always escaped.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
from typing import Any
import urllib.parse

import jinja2
import markupsafe

from varjax.scaling import canvas, figures, notation, summary, sweepdir
from varjax.scaling.exhibit import Exhibit

_TEMPLATES = pathlib.Path(__file__).parent / 'templates'
_PNG = b'\x89PNG\r\n\x1a\n'
_LARGEST_PICTURE = 12 * 2**20  # bytes; a larger one is linked, not embedded


def write(
  directory: str | os.PathLike[str], references: bool = True
) -> list[pathlib.Path]:
  """Writes `report.html`, `report.md` and `figures/` into `directory`.

  Args:
    directory: of a sweep, see `sweepdir.read`. `fit.json`, curves and
      pictures are optional, the page says what is missing.
    references: whether published exponents are drawn beside the fits.

  Returns:
    The files written, `report.html` first. Each is replaced as a whole, so
    a reader never sees half a page.

  Raises:
    RecordError: the directory or its records are missing or unreadable.
  """
  sweep = sweepdir.read(directory)
  exhibits = figures.build(sweep, references)
  drawings = {e.name: canvas.to_svg(e.figure, e.name) for e in exhibits}
  written = _write_figures(sweep.path / 'figures', exhibits, drawings)
  context = summary.context(sweep)
  html = _render(
    'report.html.j2', html_context(sweep, exhibits, drawings, context)
  )
  markdown = _render('report.md.j2', md_context(sweep, exhibits, context))
  for name, text in (('report.md', markdown), ('report.html', html)):
    _replace(sweep.path / name, text)
    written.insert(0, sweep.path / name)
  return written


def html_context(
  sweep: sweepdir.SweepDir,
  exhibits: list[Exhibit],
  drawings: dict[str, str],
  context: dict[str, Any],
) -> dict[str, Any]:
  """The common context, with figures and pictures as HTML.

  Args:
    sweep: what is reported.
    exhibits: figures and what is said of them.
    drawings: {name of an exhibit: its SVG}.
    context: what the page and the Markdown share.
  """
  style = (_TEMPLATES / 'report.css').read_text()
  return {
    **context,
    'style': markupsafe.Markup(style),
    'exhibits': [
      {**_describe(e),
       'svg': markupsafe.Markup(canvas.inline(drawings[e.name], e.name))}
      for e in exhibits
    ],
    'pictures': [_embed(p, sweep.path) for p in sweep.pictures],
  }  # fmt: skip


def md_context(
  sweep: sweepdir.SweepDir,
  exhibits: list[Exhibit],
  context: dict[str, Any],
) -> dict[str, Any]:
  """The common context, with figures and pictures as relative paths."""
  return {
    **context,
    'exhibits': [
      {**_describe(e), 'stem': markupsafe.Markup(f'figures/{e.name}')}
      for e in exhibits
    ],
    'pictures': [
      {
        'caption': p.caption,
        'kind': p.kind,
        'path': markupsafe.Markup(_relative(p, sweep.path)),
      }
      for p in sweep.pictures
    ],
    'commands': [
      {**c, 'command': _code(str(c.get('command')))}
      for c in context['commands']
    ],
  }


def escape_markdown(value: Any) -> Any:
  """Text that Markdown shows as it is, on one line; Markup is trusted."""
  if isinstance(value, markupsafe.Markup) or not isinstance(value, str):
    return value
  text = re.sub(r'[\s]*[\r\n]+[\s]*', ' ', value)
  text = text.replace('&', '&amp;').replace('<', '&lt;')
  return re.sub(r'([\\`*_\[\]|])', r'\\\1', text)


def _render(name: str, context: dict[str, Any]) -> str:
  is_html = '.html' in name
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=is_html,
    finalize=None if is_html else escape_markdown,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
  )
  environment.filters.update(
    number=notation.number,
    count=notation.count,
    whole=notation.whole,
    percent=notation.percent,
    scientific=notation.scientific,
    duration=notation.duration,
    interval=notation.interval,
    sentence=notation.sentence,
  )
  return environment.get_template(name).render(context)


def _describe(exhibit: Exhibit) -> dict[str, Any]:
  return {
    'name': exhibit.name,
    'section': exhibit.section,
    'title': exhibit.title,
    'caption': exhibit.caption,
    'wide': exhibit.wide,
  }


def _embed(picture: sweepdir.Picture, folder: pathlib.Path) -> dict[str, Any]:
  """A picture as a data URI; what is not a PNG is named, not embedded."""
  entry = {
    'caption': picture.caption,
    'kind': picture.kind,
    'file': str(picture.path.relative_to(folder)),
    'uri': None,
    'problem': None,
    'small': False,
  }
  data = picture.path.read_bytes()
  if not data.startswith(_PNG) or len(data) < 33:
    return {**entry, 'problem': 'is not a PNG file'}
  if len(data) > _LARGEST_PICTURE:
    return {**entry, 'problem': f'is not embedded ({len(data) >> 20} MiB)'}
  width = int.from_bytes(data[16:20], 'big')
  encoded = base64.b64encode(data).decode()
  return {
    **entry,
    'uri': markupsafe.Markup(f'data:image/png;base64,{encoded}'),
    'small': width < 500,
  }


def _relative(picture: sweepdir.Picture, folder: pathlib.Path) -> str:
  return urllib.parse.quote(picture.path.relative_to(folder).as_posix())


def _code(text: str) -> markupsafe.Markup:
  return markupsafe.Markup(' '.join(text.split()).replace('```', "'''"))


def _write_figures(
  folder: pathlib.Path,
  exhibits: list[Exhibit],
  drawings: dict[str, str],
) -> list[pathlib.Path]:
  """SVG and CSV of every figure; removes those of an earlier report."""
  folder.mkdir(exist_ok=True)
  manifest = folder / 'manifest.json'
  before = set(sweepdir.read_json(manifest, list) or [])
  written = []
  for exhibit in exhibits:
    for suffix, text in (
      ('svg', drawings[exhibit.name]),
      ('csv', exhibit.data.to_csv(index=False)),
    ):
      path = folder / f'{exhibit.name}.{suffix}'
      _replace(path, text)
      written.append(path)
  names = sorted(p.name for p in written)
  for name in before - set(names):
    if isinstance(name, str) and pathlib.PurePath(name).name == name:
      (folder / name).unlink(missing_ok=True)
  _replace(manifest, json.dumps(names, indent=1) + '\n')
  return written


def _replace(path: pathlib.Path, text: str) -> None:
  partial = path.with_name(f'.{path.name}.partial')
  partial.write_text(text, encoding='utf-8')
  os.replace(partial, path)
