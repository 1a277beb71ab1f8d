"""Engines that run the trials of a sweep."""

from varjax.launch.local import LocalEngine
from varjax.launch.ray_engine import RayEngine

ENGINES = {
  'local': LocalEngine,
  'ray': RayEngine,
}
