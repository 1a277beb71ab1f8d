"""One run: everything that it is made of."""

from __future__ import annotations

import dataclasses

from varjax.spec.data import DataSpec
from varjax.spec.duration import Duration
from varjax.spec.fields import not_identity
from varjax.spec.model import ModelSpec
from varjax.spec.optim import OptimSpec
from varjax.spec.order import OrderSpec
from varjax.spec.reconstruct import ReconstructSpec
from varjax.spec.sample import SampleSpec
from varjax.spec.tokenizer import TokenizerSpec


@dataclasses.dataclass(frozen=True)
class ProgressiveSpec:
  """Coarse scales first, to save compute (official code; off).

  Attributes:
    share: part of the run after which every scale is trained (official pg),
      in [0, 1); 0 trains every scale from the start. Otherwise the learning
      rate follows the schedule `lin<share>`, whatever `optim.schedule` is.
    first: index of the finest scale of the first stage (official pg0).
    fade: over which the loss of a new scale fades in (official pgwp).
  """

  share: float = 0.0
  first: int = 4
  fade: Duration = Duration(frac=1 / 300)


@dataclasses.dataclass(frozen=True)
class MeshSpec:
  """Devices along each mesh axis; one of them may be -1 (what is left)."""

  data: int = -1
  fsdp: int = 1
  tensor: int = 1


@dataclasses.dataclass(frozen=True)
class ScoreSpec:
  """Scores of images during training; they do not change what it trains.

  Attributes:
    fractions: shares of the run, in (0, 1], after which images are scored,
      through the averaged weights where a run keeps them; () is never.
    images: to sample of a transformer; a tokenizer reconstructs the whole
      validation split.
    features: the feature network, key of `features.NETWORKS`.
    weights: file of its weights, '' where a package brings them.
  """

  fractions: tuple[float, ...] = ()
  images: int = 2048
  features: str = 'efflite0'
  weights: str = ''


@dataclasses.dataclass(frozen=True)
class RunSpec:
  """One training run, completely.

  Attributes:
    task: 'reconstruct' (stage 1, the tokenizer) or 'generate' (stage 2).
    name: a label for people.
    role: 'fit', 'holdout' or 'debug': what the scaling fit may use it for.
    seed: the one seed; every random stream is folded from it.
    total: length of the run.
    batch_size: images per update, over all devices.
    ema: decay of the moving average of the weights that is evaluated and
      sampled from, such as 0.9999; 0 keeps none.
    eval_batch_size: images per evaluation step; 0 uses batch_size.
    input: 'codes' reads the cache, 'images' encodes on the fly
      (reconstruct always reads images).
    tokenizer_dir: workdir of the trained tokenizer (generate).
    codes_dir: code cache written by `varjax encode` (generate, 'codes').
    init_from: workdir whose newest weights the run starts from (generate),
      '' for a random start. The content of those weights, not the path, is
      part of the run id. A class embedding of another number of classes
      starts random; everything else must have the same shape.
    evaluate: interval of evaluations; there is always one after the last
      update.
    checkpoint: interval of checkpoints; there is always one at the end.
    score: when images are scored against the validation split.
    keep_checkpoints: how many to keep.
    data_timeout_s: longest wait for a batch before the run ends with exit
      code 75, so that a launcher tries again; 0 waits for ever.
    data_prefetch: batches that are put on the devices ahead of the update
      that reads them; 0 puts each when it is needed, -1 is 2, but 0 on a
      CPU, whose cores are the devices.
    log: interval of logged training metrics.
  """

  task: str = 'generate'
  name: str = not_identity('')
  role: str = not_identity('fit')
  seed: int = 0
  total: Duration = Duration(epochs=200.0)
  batch_size: int = 768
  ema: float = 0.0
  eval_batch_size: int = not_identity(0)
  input: str = 'codes'
  tokenizer_dir: str = not_identity('')
  codes_dir: str = not_identity('')
  init_from: str = not_identity('')
  data: DataSpec = DataSpec()
  tokenizer: TokenizerSpec = TokenizerSpec()
  reconstruct: ReconstructSpec = ReconstructSpec()
  order: OrderSpec = OrderSpec()
  model: ModelSpec = ModelSpec()
  optim: OptimSpec = OptimSpec()
  progressive: ProgressiveSpec = ProgressiveSpec()
  mesh: MeshSpec = not_identity(MeshSpec())
  sample: SampleSpec = not_identity(SampleSpec())
  evaluate: Duration = not_identity(Duration(frac=0.1))
  checkpoint: Duration = not_identity(Duration(frac=0.1))
  score: ScoreSpec = not_identity(ScoreSpec())
  keep_checkpoints: int = not_identity(2)
  data_timeout_s: float = not_identity(600.0)
  data_prefetch: int = not_identity(-1)
  log: Duration = not_identity(Duration(steps=50))
