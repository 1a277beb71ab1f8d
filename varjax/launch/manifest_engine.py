"""The manifest engine: commands for others to run, and job templates.

Starts nothing. Every trial becomes a shell script that is whole in itself:
its experiment file lies beside it. What the runs leave in the sweep directory
is merged later by `varjax sweep --collect`, exactly once as always.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import sys
from typing import Any

import jinja2

from varjax.launch import base, job_templates, options, policy, tpu_slices

FOLDER = 'manifest'
_IMAGE = 'YOUR_REGISTRY/varjax:latest'


@dataclasses.dataclass(frozen=True)
class ManifestEngine:
  """Writes trials as commands; see `base.Engine` for the promises.

  Attributes:
    policy: its retries go into the job templates.
    tpu: slice per trial in the templates.
    image: container image in the templates.
    remote_dir: the sweep directory as the commands will see it.
    sweep, sweep_dir, environment: as in `options.Options`.
  """

  policy: policy.Policy = policy.Policy()
  tpu: str = 'v5e:2x4'
  image: str = _IMAGE
  remote_dir: str = ''
  sweep: str = ''
  sweep_dir: pathlib.Path = pathlib.Path('.')
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @classmethod
  def from_options(cls, given: options.Options) -> ManifestEngine:
    """As the command line asks for.

    Raises:
      ConfigError: a slice that there is not.
    """
    tpu = given.tpu or 'v5e:2x4'
    tpu_slices.parse(tpu)
    return cls(
      policy=given.policy,
      tpu=tpu,
      image=given.image or _IMAGE,
      remote_dir=given.remote_dir,
      sweep=given.sweep,
      sweep_dir=given.sweep_dir,
      environment=given.environment,
    )

  def plan(self, trials: Sequence[base.Trial]) -> str:
    """See `base.Engine.plan`."""
    return (
      f'manifest: would write {len(trials)} commands and job templates for '
      f'{self.tpu} slices to {self.sweep_dir / FOLDER}'
    )

  def run(
    self, trials: Sequence[base.Trial], observer: base.Observer
  ) -> tuple[list[base.Outcome], int]:
    """Writes the folder anew; every outcome is 'written'."""
    folder = self.sweep_dir / FOLDER
    partial = self.sweep_dir / f'{FOLDER}.partial'
    shutil.rmtree(partial, ignore_errors=True)
    try:
      self._write(partial, trials)
      shutil.rmtree(folder, ignore_errors=True)
      os.replace(partial, folder)
    finally:
      shutil.rmtree(partial, ignore_errors=True)
    observer.note(
      f'wrote {len(trials)} commands and job templates to {folder}; '
      f'{folder / "README.md"} says how to run them'
    )
    return [base.Outcome(trial, 'written') for trial in trials], 0

  def _write(self, folder: pathlib.Path, trials: Sequence[base.Trial]) -> None:
    for name in ('commands', 'experiments', 'skypilot'):
      (folder / name).mkdir(parents=True)
    ordered = sorted(trials, key=lambda t: (-t.priority, t.index))
    shown = []
    for number, trial in enumerate(ordered):
      self._copy_experiment(folder, trial)
      file = f'{number:03}-{trial.name}.sh'
      script = folder / 'commands' / file
      script.write_text(self._script(trial))
      script.chmod(0o755)
      shown.append(self._shown(trial, file))
    wanted = tpu_slices.parse(self.tpu)
    values = {
      'trials': shown,
      'count': len(shown),
      'sweep': self.sweep,
      'label': _dns(self.sweep),
      'slice': wanted,
      'selector': {
        'cloud.google.com/gke-tpu-accelerator': wanted.accelerator,
        'cloud.google.com/gke-tpu-topology': wanted.shape,
      },
      'image': self.image,
      'retries': self.policy.retries,
      'grace_s': int(self.policy.grace_s),
      'final_codes': list(base.FINAL_EXIT_CODES),
      'remote_dir': self._remote(),
    }
    templates = {
      'gke-jobset.yaml': job_templates.GKE_JOBSET,
      'xpk.sh': job_templates.XPK,
      'README.md': job_templates.README,
    }
    for name, text in templates.items():
      (folder / name).write_text(_render(text, values))
    for trial in shown:
      text = _render(job_templates.SKY_TASK, {**values, 'trial': trial})
      (folder / 'skypilot' / trial['file']).write_text(text)
    keys = ('name', 'run_id', 'priority', 'script')
    table = [{key: trial[key] for key in keys} for trial in shown]
    (folder / 'trials.json').write_text(json.dumps(table, indent=1) + '\n')

  def _remote(self) -> str:
    return self.remote_dir or str(self.sweep_dir.absolute())

  def _copy_experiment(self, folder: pathlib.Path, trial: base.Trial) -> None:
    source = pathlib.Path(trial.config.partition(':')[0])
    shutil.copyfile(source, folder / 'experiments' / _copy_name(source))

  def _script(self, trial: base.Trial) -> str:
    """The command of a trial with its paths in the sweep directory."""
    path, colon, arg = trial.config.partition(':')
    name = _copy_name(pathlib.Path(path))
    workdir = os.path.relpath(trial.workdir, self.sweep_dir)
    replaced = {
      trial.config: f'"$VARJAX_SWEEP_DIR"/{FOLDER}/experiments/'
      + shlex.quote(f'{name}{colon}{arg}'),
      str(trial.workdir): f'"$VARJAX_SWEEP_DIR"/{shlex.quote(workdir)}',
      sys.executable: 'python3',
    }
    words = [replaced.get(w) or shlex.quote(w) for w in trial.command]
    environment = {'PYTHONUNBUFFERED': '1', **self.environment}
    if self.sweep:
      environment['VARJAX_SWEEP'] = self.sweep
    lines = [
      '#!/bin/sh',
      f'# Trial {trial.name}, run {trial.run_id}. Resumes when run again.',
      'set -eu',
      f': "${{VARJAX_SWEEP_DIR:={_in_double_quotes(self._remote())}}}"',
      *(f'export {k}={shlex.quote(v)}' for k, v in environment.items()),
      'exec ' + ' '.join(words),
    ]
    return '\n'.join(lines) + '\n'

  def _shown(self, trial: base.Trial, file: str) -> dict[str, Any]:
    return {
      'name': trial.name,
      'run_id': trial.run_id,
      'priority': trial.priority,
      'job': _dns(f'{trial.name[:30]}-{trial.run_id}'),
      'script': f'{self._remote()}/{FOLDER}/commands/{file}',
      'file': file.removesuffix('.sh') + '.yaml',
      'xpk_priority': 'high' if trial.priority > 0 else 'medium',
    }


def _copy_name(source: pathlib.Path) -> str:
  """Files of one name in two folders must not become one."""
  content = hashlib.sha256(source.read_bytes()).hexdigest()[:8]
  return f'{source.stem}-{content}{source.suffix}'


def _render(text: str, values: Mapping[str, Any]) -> str:
  environment = jinja2.Environment(
    undefined=jinja2.StrictUndefined,
    autoescape=False,
    keep_trailing_newline=True,
  )
  environment.filters['quote'] = shlex.quote
  # jinja's own `tojson` escapes for HTML, and these files are read by people.
  environment.filters['tojson'] = json.dumps
  return environment.from_string(text).render(**values)


def _dns(name: str) -> str:
  """As a Kubernetes label: lower case, digits and dashes, 1 to 63."""
  plain = re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')
  return plain[:63].strip('-') or 'x'


def _in_double_quotes(text: str) -> str:
  return re.sub(r'([\\"$`}])', r'\\\1', text)
