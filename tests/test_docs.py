"""Documents against the code that they describe."""

import dataclasses
import pathlib
import re

import pytest

from varjax import flops, records
from varjax.spec import ModelSpec, TokenizerSpec

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted(
  p.relative_to(ROOT).as_posix()
  for p in (*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md'))
)


def test_every_column_of_a_record_is_documented_in_order():
  text = (ROOT / 'docs' / 'records.md').read_text()
  documented = re.findall(r'^\| `(\w+)` \|', text, re.MULTILINE)
  assert documented == [f.name for f in dataclasses.fields(records.RunRecord)]


def test_flops_page_states_the_computed_conventions():
  text = (ROOT / 'docs' / 'flops.md').read_text()
  found = flops.conventions(ModelSpec(), TokenizerSpec())
  for name in ('exact', 'dense', 'six_nd_body', 'six_nd_total'):
    value = f'{getattr(found, name):.3e}'.replace('e+', 'e')
    assert re.search(rf'^\| `{name}` .*\| {value} \|$', text, re.MULTILINE)
  sequence = flops.sequence_of(TokenizerSpec())
  share = sequence.visible_pairs / sequence.positions**2
  assert f'{100 * share:.0f} % of all pairs' in text


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
  file = ROOT / page
  for target in re.findall(r'\]\(([^)#]+)[^)]*\)', file.read_text()):
    if '://' not in target:
      assert (file.parent / target).exists(), f'{page} links to {target}'


def test_every_page_of_docs_is_in_the_index():
  index = (ROOT / 'docs' / 'index.md').read_text()
  for page in (ROOT / 'docs').glob('*.md'):
    assert page.name == 'index.md' or f'({page.name})' in index
