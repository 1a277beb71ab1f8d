"""What a compiler is asked for: one program of a run, at which shapes.

The programs are those that the commands run: `train` is the update of either
stage, `sample` and `decode` are VarPipeline's, `encode` is that of
`varjax encode`. No JAX in here.
"""

from __future__ import annotations

import dataclasses

from varjax import errors, tokenizer_rules, validation
from varjax.spec import PrecisionSpec, RunSpec

PROGRAMS = ('train', 'sample', 'encode', 'decode')
# Images of a call where nobody says: as the commands have it.
DEFAULT_IMAGES = {'sample': 32, 'encode': 64, 'decode': 64}


@dataclasses.dataclass(frozen=True)
class Request:
  """One program.

  Attributes:
    run: whose; samples are drawn with its `sample`.
    program: one of PROGRAMS.
    images: of one call on one device; 0 is the default of the command, and
      of an update always the run's batch.
    precision: types of a sampler; of a decoder its `compute`.
  """

  run: RunSpec
  program: str = 'train'
  images: int = 0
  precision: PrecisionSpec = PrecisionSpec()

  @property
  def is_training(self) -> bool:
    """Whether it is an update, which alone is laid out over a mesh."""
    return self.program == 'train'

  @property
  def batch(self) -> int:
    """Images of one call: of all devices for an update, else of one."""
    if self.is_training:
      return self.run.batch_size
    return self.images or DEFAULT_IMAGES[self.program]

  def check(self) -> None:
    """Refuses what no command could run.

    Raises:
      ConfigError: an unknown program, a run without it, or settings that it
        does not have.
    """
    if self.program not in PROGRAMS:
      raise errors.ConfigError(
        f'--program={self.program}: must be one of {", ".join(PROGRAMS)}'
      )
    if self.images < 0:
      raise errors.ConfigError(f'--batch={self.images}: must be at least 1')
    if self.is_training and self.images:
      raise errors.ConfigError(
        f'--batch={self.images}: is of samplers and tokenizers; set the batch '
        'of an update with --config.batch_size'
      )
    if self.program == 'sample' and self.run.task != 'generate':
      raise errors.ConfigError(
        f'--program=sample: needs a run of task generate, not {self.run.task}'
      )
    kind = self.run.tokenizer.kind
    if not self.is_training and kind in tokenizer_rules.PIXELS:
      raise errors.ConfigError(
        f'--program={self.program}: tokenizer.kind={kind} has no network; its '
        'costs are not counted'
      )
    validation.check_precision(self.precision)
    given = dataclasses.asdict(self.precision)
    known = {'sample': tuple(given), 'decode': ('compute',)}
    for name, value in given.items():
      if value and name not in known.get(self.program, ()):
        raise errors.ConfigError(
          f'--{name}={value}: the program {self.program} has no such choice'
          + (
            '; set --config.tokenizer.compute_dtype'
            if self.program == 'encode' and name == 'compute'
            else ''
          )
        )
