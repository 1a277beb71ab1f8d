"""The dependency direction, over the imports that the files really have.

A module may import its own layer and those before it. A new module of the
top level must be given a place here, which is the point of the test.
"""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'varjax'

# Packages and top-level modules, lowest first.
LAYERS = (
  ('errors', 'types', 'spec', 'rng'),
  (
    'coerce', 'validation', 'config', 'sweep', 'identity', 'jsonlines',
    'records', 'evaluations',
    'schedule', 'progressive', 'params', 'tokenizer_costs', 'tokenizer_rules',
    'backbone_costs', 'reconstruct_costs', 'scale_schedules',
    'flops', 'families', 'decode_costs', 'backends', 'memory', 'devices',
    'topology', 'sampling_costs',
    'roofline', 'phase', 'product_phases', 'phases', 'workdir', 'clock',
    'window', 'signals', 'progress', 'checksum', 'compilation', 'profiler',
    'replica_groups', 'collectives', 'hlo', 'distributed', 'explain', 'storage',
  ),
  (
    'sharding', 'optim', 'groups', 'averaging', 'metrics', 'checkpoint',
    'data', 'tokenizers',
  ),
  # Evaluators are pure functions of arrays: tasks call them in `eval_fn`.
  ('orders', 'models', 'evals', 'discriminators'),
  ('sampling',),
  # Feature networks read weights through interop; losses may use them.
  (
    'tasks', 'pipeline', 'interop', 'features', 'losses', 'backbones',
  ),
  ('inputs', 'feeder', 'warmstart', 'runs', 'evaluate', 'recording', 'scoring'),
  ('step',),
  ('train', 'artifacts', 'aot'),
  ('launch', 'tools', 'cli', '__main__'),
)  # fmt: skip
# Fitting reads records; planning also counts work and updates.
SCALING_MAY_IMPORT = {
  'scaling', 'errors', 'records', 'flops', 'params', 'tokenizer_costs',
  'memory', 'devices', 'topology', 'roofline', 'spec', 'schedule',
}  # fmt: skip
NOT_ON_A_BARE_ACCELERATOR = (
  'tensorflow_datasets', 'clu', 'grain', 'array_record', 'ml_collections',
)  # fmt: skip


def _group(module: str) -> str:
  """'varjax.data.codes' -> 'data'; the package itself is ''."""
  return [*module.split('.'), ''][1]


@functools.cache
def _modules() -> dict[str, ast.Module]:
  """Dotted name to syntax tree, of every file of the package."""
  found = {}
  for path in sorted(PACKAGE.rglob('*.py')):
    parts = path.relative_to(ROOT).with_suffix('').parts
    if parts[-1] == '__init__':
      parts = parts[:-1]
    found['.'.join(parts)] = ast.parse(path.read_text(), str(path))
  return found


def _imports(tree: ast.Module) -> set[str]:
  """Dotted names that a file imports, at any depth of nesting."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative imports hide the direction'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def _internal_edges():
  """(module, group of the module, group it imports)."""
  for module, tree in _modules().items():
    for name in _imports(tree):
      if name == 'varjax' or name.startswith('varjax.'):
        target = _group(name)
        # `from varjax import __version__` is no dependency on a module.
        if target and not (target.startswith('__') and target != '__main__'):
          yield module, _group(module), target


def _rank(group: str) -> int:
  for rank, layer in enumerate(LAYERS):
    if group in layer:
      return rank
  raise AssertionError(
    f'varjax/{group} has no layer; give it one in tests/test_imports.py'
  )


def test_every_module_has_a_layer():
  groups = {_group(m) for m in _modules()} - {'', 'scaling'}
  assert {group: _rank(group) for group in groups}


def test_imports_point_downwards():
  upward = [
    f'{module} imports varjax.{target}'
    for module, group, target in _internal_edges()
    if group not in ('', 'scaling')
    and target != 'scaling'
    and _rank(target) > _rank(group)
  ]
  assert not upward


def test_scaling_imports_only_records_specs_and_counts():
  strays = [
    f'{module} imports varjax.{target}'
    for module, group, target in _internal_edges()
    if group == 'scaling' and target not in SCALING_MAY_IMPORT
  ]
  assert not strays


def test_only_commands_import_scaling():
  strays = [
    f'{module} imports varjax.scaling'
    for module, group, target in _internal_edges()
    if target == 'scaling' and group not in ('scaling', 'tools', 'cli')
  ]
  assert not strays


@pytest.mark.parametrize(
  ('group', 'never'),
  [('orders', 'models'), ('models', 'orders'), ('tokenizers', 'orders')],
)
def test_seams_do_not_know_each_other(group, never):
  strays = [
    module
    for module, owner, target in _internal_edges()
    if owner == group and target == never
  ]
  assert not strays


def test_nothing_imports_experiments_or_sweeps():
  strays = [
    f'{module} imports {name}'
    for module, tree in _modules().items()
    for name in _imports(tree)
    if name.split('.')[0] in ('experiments', 'sweeps', 'tests', 'benchmarks')
  ]
  assert not strays


# --- what importing really loads ----------------------------------------------


def _names_in(*groups: str) -> list[str]:
  return sorted(m for m in _modules() if _group(m) in groups)


def _run(code: str) -> None:
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
  'groups',
  [
    ('spec', 'records', 'devices'),
    ('flops', 'params', 'backends', 'memory', 'phases', 'tokenizer_costs'),
    ('config', 'sweep', 'identity', 'schedule'),
    ('scaling',),
    ('compilation',),
  ],
)
def test_planning_and_fitting_load_no_jax(groups):
  _run(
    f'import sys, {", ".join(_names_in(*groups))}\n'
    "loaded = {'jax', 'jaxlib', 'flax'} & set(sys.modules)\n"
    'sys.exit(f"loaded {loaded}" if loaded else 0)\n'
  )


def test_models_and_samplers_load_without_the_data_stack():
  names = _names_in('orders', 'models', 'tokenizers', 'sampling', 'flops')
  _run(
    'import sys\n'
    f'for name in {NOT_ON_A_BARE_ACCELERATOR}:\n'
    '  sys.modules[name] = None\n'  # makes `import name` an ImportError
    f'import {", ".join(names)}\n'
  )


def test_the_layers_catch_a_wrong_import():
  """The checks above see nested and renamed imports."""
  tree = ast.parse(
    'def f():\n  from varjax import train as t\n'
    'if True:\n  import varjax.tasks.base\n'
  )
  assert {_group(name) for name in _imports(tree)} == {'train', 'tasks'}
  assert _rank('models') < _rank('tasks') < _rank('train')
