"""Engines that run the trials of a sweep."""

from varjax.launch.local import LocalEngine
from varjax.launch.manifest_engine import ManifestEngine
from varjax.launch.ray_engine import RayEngine
from varjax.launch.slurm_engine import SlurmEngine

ENGINES = {
  'local': LocalEngine,
  'ray': RayEngine,
  'slurm': SlurmEngine,
  'manifest': ManifestEngine,
}
