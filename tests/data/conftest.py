"""Prepared data that several test files read."""

import time

import pytest

from varjax.data.emoji import prepare


@pytest.fixture(scope='session')
def emoji_prepared(tmp_path_factory):
  """(data directory, version folder, seconds it took)."""
  root = tmp_path_factory.mktemp('emoji')
  start = time.monotonic()
  folder = prepare.prepare(root)
  return root, folder, time.monotonic() - start
