"""`environment.sh` on machines of every kind, faked by PATH."""

import os
import pathlib
import shutil
import stat
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# A Python that knows its version, its modules, and how to make a venv of
# itself; it notes what pip was asked for.
_FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) echo {version} ;;
  *ensurepip*) exit {venv_missing} ;;
  "-m venv --clear .venv")
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    echo venv >>calls ;;
  "-m pip --version") ;;
  "-m pip install"*) echo "$*" >>calls; exit {pip_fails} ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
  """A checkout with nothing but what the script reads."""
  folder = tmp_path / 'checkout'
  folder.mkdir()
  shutil.copy(ROOT / 'environment.sh', folder)
  for name in ('requirements.lock', 'requirements-test.lock', 'setup.py'):
    (folder / name).write_text(f'# {name}\n')
  return folder


def _machine(tmp_path, **pythons):
  """A PATH with the few POSIX tools the script uses, and these Pythons."""
  folder = tmp_path / 'bin'
  folder.mkdir(exist_ok=True)
  for tool in ('sh', 'cat', 'cksum', 'cp', 'dirname', 'mkdir'):
    target = shutil.which(tool)
    assert target
    if not (folder / tool).exists():
      (folder / tool).symlink_to(target)
  for name, options in pythons.items():
    file = folder / name.replace('_', '.')
    values = {'venv_missing': 0, 'pip_fails': 0, **options}
    file.write_text(_FAKE_PYTHON.format(**values))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
  return folder


def _run(checkout, path, kind='runtime', **environment):
  return subprocess.run(
    [str(checkout / 'environment.sh'), kind],
    env={'PATH': str(path), **environment},
    cwd=os.sep,
    capture_output=True,
    text=True,
    timeout=30,
  )


def _calls(checkout):
  file = checkout / 'calls'
  return file.read_text().splitlines() if file.exists() else []


def test_no_python_is_said_in_one_sentence(tmp_path, checkout):
  done = _run(checkout, _machine(tmp_path))
  assert done.returncode == 1
  assert 'no Python was found' in done.stderr
  assert 'install Python 3.11 or 3.12' in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_an_old_python_is_named_with_its_version(tmp_path, checkout):
  path = _machine(tmp_path, python3={'version': '3.10'})
  done = _run(checkout, path)
  assert done.returncode == 1
  assert 'needs Python 3.11 or 3.12, but python3 is 3.10;' in done.stderr
  assert not (checkout / '.venv').exists()


def test_a_newer_python_than_supported_is_refused(tmp_path, checkout):
  path = _machine(tmp_path, python3={'version': '3.13'})
  assert 'python3 is 3.13' in _run(checkout, path).stderr


def test_a_missing_venv_module_names_the_package(tmp_path, checkout):
  python = {'version': '3.11', 'venv_missing': 1}
  done = _run(checkout, _machine(tmp_path, python3_11=python))
  assert done.returncode == 1
  assert 'python3.11 has no venv or pip module' in done.stderr
  assert 'apt install python3.11-venv' in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_the_next_python_is_tried(tmp_path, checkout):
  path = _machine(
    tmp_path,
    python3_12={'version': '3.12', 'venv_missing': 1},
    python3={'version': '3.11'},
  )
  done = _run(checkout, path)
  assert done.returncode == 0, done.stderr
  assert 'creating .venv with python3 (3.11)' in done.stderr


def test_python_chooses_the_interpreter(tmp_path, checkout):
  path = _machine(tmp_path, python3={'version': '3.11'})
  done = _run(checkout, path, PYTHON='python9')
  assert done.returncode == 1
  assert 'no Python was found (python9)' in done.stderr


def test_it_builds_once_and_again_when_the_lock_changes(tmp_path, checkout):
  path = _machine(tmp_path, python3={'version': '3.12'})
  assert _run(checkout, path).returncode == 0
  first = _calls(checkout)
  assert first[0] == 'venv'
  assert '--require-hashes -r requirements.lock' in first[1]
  assert '--no-deps --no-build-isolation -e .' in first[2]
  os.utime(checkout / 'requirements.lock')  # a date is no change
  assert _run(checkout, path).returncode == 0
  assert _calls(checkout) == first
  (checkout / 'requirements.lock').write_text('# another version\n')
  assert _run(checkout, path).returncode == 0
  assert _calls(checkout)[3:] == first[1:]


def test_the_test_environment_serves_the_demo_too(tmp_path, checkout):
  path = _machine(tmp_path, python3={'version': '3.12'})
  assert _run(checkout, path, 'test').returncode == 0
  calls = _calls(checkout)
  assert '-r requirements-test.lock' in calls[1]
  assert _run(checkout, path, 'runtime').returncode == 0
  assert _calls(checkout) == calls


def test_a_failed_installation_leaves_no_stamp(tmp_path, checkout):
  python = {'version': '3.12', 'pip_fails': 1}
  path = _machine(tmp_path, python3=python)
  done = _run(checkout, path)
  assert done.returncode == 1
  assert 'could not install requirements.lock' in done.stderr
  assert 'apt install build-essential' in done.stderr
  _machine(tmp_path, python3={'version': '3.12'})
  shutil.rmtree(checkout / '.venv')
  assert _run(checkout, path).returncode == 0


def test_an_unknown_kind_is_refused(tmp_path, checkout):
  done = _run(checkout, _machine(tmp_path), 'all')
  assert done.returncode == 1
  assert "it is 'runtime' or 'test'" in done.stderr


# --- the real lock files ------------------------------------------------------


def _pins(name):
  lines = (ROOT / name).read_text().splitlines()
  return {line.removesuffix(' \\').strip() for line in lines if '==' in line}


def test_locks_are_hashed_and_name_no_address():
  for name in ('requirements.lock', 'requirements-test.lock'):
    text = (ROOT / name).read_text()
    assert '://' not in text
    assert text.count('--hash=sha256:') > 500


def test_the_test_lock_contains_the_runtime_lock():
  assert _pins('requirements.lock') < _pins('requirements-test.lock')
  assert any(p.startswith('setuptools==') for p in _pins('requirements.lock'))
  assert not any(p.startswith('pytest==') for p in _pins('requirements.lock'))


def test_locks_stay_in_the_supported_jax_range():
  jax = {p for p in _pins('requirements.lock') if p.startswith('jax==')}
  assert jax
  for pin in jax:
    version = pin.removeprefix('jax==').split(' ')[0]
    assert (0, 10, 2) <= tuple(map(int, version.split('.'))) < (0, 12)
