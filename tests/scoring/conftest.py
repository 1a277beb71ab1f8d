"""A tiny feature network, and what it sees in a set of real images."""

import picture_sets
import pytest
import tiny_network

from varjax.scoring import images, statistics


@pytest.fixture(scope='session')
def network():
  return tiny_network.make()


@pytest.fixture(scope='session')
def extract(network):
  return statistics.Extractor(network, 8)


@pytest.fixture(scope='session')
def real():
  return images.of_array(picture_sets.pictures(40), 'real')


@pytest.fixture(scope='session')
def seen(extract, real):
  return extract(real)
