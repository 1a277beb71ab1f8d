"""Official checkpoints to folders of varjax, and back.

An import leaves what `varjax train` leaves: a tokenizer, and the workdir of
a stage-2 run with a checkpoint at update 0, so that sampling, evaluation,
encoding and fine-tuning need not know where weights come from.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import safetensors.numpy

from varjax import checkpoint, checksum, errors, identity
from varjax import spec as specs
from varjax.interop import official_vae, official_var
from varjax.orders import make_order
from varjax.tokenizers import artifact
from varjax.tokenizers.store import tokenizer_id
from varjax.types import PyTree
from varjax.validation import validate
from varjax.workdir import Workdir

# The released models are scored with these (README of the official code).
SAMPLE = specs.SampleSpec(cfg=1.5, top_k=900, top_p=0.96)
TOKENIZER, MODEL = 'tokenizer', 'model'

State = Mapping[str, np.ndarray]


def run_spec(
  config: Mapping[str, Any],
  data: specs.DataSpec,
  tokenizer_dir: str,
  *,
  name: str = '',
  compute_dtype: str = 'float32',
) -> specs.RunSpec:
  """The stage-2 run that official weights would be the result of.

  Args:
    config: see `infer.infer_config`.
    data: what the model is evaluated on; the resolution is set here.
    tokenizer_dir: where the tokenizer is, or will be.
    name: for people.
    compute_dtype: of the transformer.

  Raises:
    ConfigError: a network that a run cannot have (not a square image).
  """
  tokenizer = official_vae.spec_from_config(config)
  side = tokenizer.grids[-1][0] * tokenizer.downsample
  model = official_var.spec_from_config(config, compute_dtype=compute_dtype)
  run = specs.RunSpec(
    task='generate',
    name=name,
    role='debug',
    input='images',
    tokenizer_dir=tokenizer_dir,
    data=dataclasses.replace(data, resolution=side),
    tokenizer=tokenizer,
    model=model,
    sample=SAMPLE,
  )
  validate(run)
  return run


def write_run(
  out: str | os.PathLike[str],
  config: Mapping[str, Any],
  vae_state: State,
  var_state: State,
  data: specs.DataSpec,
  *,
  name: str = '',
  compute_dtype: str = 'float32',
) -> tuple[specs.RunSpec, str]:
  """Writes `out`/tokenizer and `out`/model; the same import twice is one.

  Returns:
    The spec in `out`/model/run.json, and its run id.

  Raises:
    CheckpointError: a tensor does not fit, or `out` holds something else.
    ConfigError: see `run_spec`.
  """
  out = pathlib.Path(out).absolute()
  run = run_spec(
    config,
    data,
    str(out / TOKENIZER),
    name=name,
    compute_dtype=compute_dtype,
  )
  # Everything is converted and checked before anything is written.
  vae = official_vae.from_official(run.tokenizer, vae_state)
  layout = make_order(run.order, run.tokenizer).layout
  params = official_var.from_official(run.model, layout, var_state)
  tokenizer = tokenizer_id(run.tokenizer, vae)
  weights = identity.digest(checksum.fingerprints(params))
  run_id = identity.run_id(run, {'tokenizer': tokenizer, 'weights': weights})
  if (out / TOKENIZER / artifact.DESCRIPTION).exists():
    found = artifact.read_id(out / TOKENIZER)
    if found != tokenizer:
      raise errors.CheckpointError(
        f'{out / TOKENIZER}: holds tokenizer {found}, this one is '
        f'{tokenizer}; choose another --out'
      )
  workdir = Workdir(out / MODEL)
  workdir.claim(run, run_id)
  artifact.save(out / TOKENIZER, run.tokenizer, run.data, vae)
  state = {
    'step': np.zeros((), np.int32),
    'params': params,
    'opt_state': {},
    'task_state': {},
  }
  store = checkpoint.Checkpoints(workdir.path, run_id)
  try:
    store.save(0, state)
  finally:
    store.close()
  return run, run_id


def official_states(
  path: str | os.PathLike[str], tokenizer_dir: str = ''
) -> dict[str, dict[str, np.ndarray]]:
  """The official state dicts of a run, every buffer included.

  Args:
    path: workdir of a generate run, or of a reconstruct run.
    tokenizer_dir: where the tokenizer is now; '' uses the run's own path.

  Returns:
    {'vae': ..., 'var': ...}, or {'vae': ...} of a reconstruct run. The
    usage buffer of the tokenizer is zero: it is a training statistic that
    the artifact does not keep, and a strict `load_state_dict` wants one.

  Raises:
    CheckpointError, DataError: there is nothing that can be exported.
  """
  workdir = Workdir(pathlib.Path(path))
  run = workdir.run()
  if run.task == 'generate':
    trained = artifact.load_of(run, tokenizer_dir, path)
  else:
    trained = artifact.load(tokenizer_dir or workdir.path)
  usage = np.zeros((len(trained.spec.scales), trained.spec.vocab), np.float32)
  states = {
    'vae': official_vae.to_official(trained.spec, trained.params, usage)
  }
  if run.task == 'generate':
    params: PyTree = checkpoint.load_weights(workdir.path)
    layout = make_order(run.order, trained.spec).layout
    states['var'] = official_var.to_official(run.model, layout, params)
  return states


def write_states(
  out: str | os.PathLike[str], states: Mapping[str, State]
) -> list[pathlib.Path]:
  """Writes PART.safetensors for each part, and official.npz with all.

  Names in the .npz are PART/NAME. Each file appears when it is complete.
  """
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  written = []
  for part, state in states.items():
    written.append(out / f'{part}.safetensors')
    partial = written[-1].with_suffix('.partial')
    contiguous = {k: np.ascontiguousarray(v) for k, v in state.items()}
    safetensors.numpy.save_file(contiguous, partial)
    os.replace(partial, written[-1])
  written.append(out / 'official.npz')
  partial = written[-1].with_suffix('.partial')
  with open(partial, 'wb') as file:
    np.savez(
      file,
      **{
        f'{part}/{name}': value
        for part, state in states.items()
        for name, value in state.items()
      },
    )
  os.replace(partial, written[-1])
  return written
