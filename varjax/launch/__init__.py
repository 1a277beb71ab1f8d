"""Engines that run the trials of a sweep."""

from varjax.launch.local import LocalEngine

ENGINES = {'local': LocalEngine}
