"""VAR's multi-scale VQ-VAE on ImageNet (arXiv 2404.02905).

  varjax train --config experiments/msvq_imagenet.py --workdir W/tokenizer

Images of 256 x 256, or of 512 with `:resolution=512`. The network of the
released `vae_ch160v4096z32` (108,948,355 weights). The multi-scale trainer
was never released; this is the recipe of the authors' single-scale trainer
(FoundationVision/vaex) with the multi-scale quantiser.

By default it is *without* the adversarial part: no discriminator, no LPIPS,
no moving average of the weights. It reconstructs with L1, L2 and the
quantiser's loss, so images come out smoother than the released tokenizer's
and its FID is not to be expected. `:recipe=full` has all of it, and needs
the weights of three networks that ship in no package:

  varjax train --config experiments/msvq_imagenet.py:recipe=full \\
    --config.reconstruct.perceptual.weights=vgg16-397923af.pth,vgg.pth \\
    --config.reconstruct.adversarial.weights=dino_deitsmall16_pretrain.pth \\
    --workdir W/tokenizer

Neither has been run. Trained on ImageNet; the paper used OpenImages.

`imagenet2012` is a tfds builder whose archives must be downloaded by hand.

Cost at 40 % of the nominal bf16 peak, by `python benchmarks/cost_table.py`
(an expectation, not a measurement; it trains in float32, which most
devices run at a fraction of that):

  run               parameters  epochs    FLOPs   h100 h    v5p h    v6e h
  msvq-256         108,948,355     250  5.9e+20      411      885      443
  msvq-512         108,948,355     250  2.4e+21    1,653    3,562    1,781
"""

from varjax import config as config_lib
from varjax import errors

SCALES = {
  256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
  512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
}


def get_config(arg=None):
  """Returns the config.

  Arguments: `resolution` (256, 512), `epochs` and `recipe` (pixel, full).
  """
  arg = config_lib.parse_arg(arg, resolution=256, epochs=250, recipe='pixel')
  if arg.resolution not in SCALES:
    raise errors.ConfigError(
      f'resolution={arg.resolution}: must be one of 256, 512'
    )
  if arg.recipe not in ('pixel', 'full'):
    raise errors.ConfigError(f'recipe={arg.recipe}: must be pixel or full')
  duration = config_lib.duration
  config = config_lib.default_config()
  config.task = 'reconstruct'
  config.name = f'msvq-{arg.resolution}'
  config.total = duration(epochs=arg.epochs)
  config.batch_size = 768
  config.data.name = 'imagenet2012'
  config.data.resolution = arg.resolution
  config.data.resize_ratio = 1.125
  config.data.flip = False
  config.tokenizer.scales = SCALES[arg.resolution]
  config.tokenizer.dropout = 0.05
  config.reconstruct.l1 = 0.2
  config.reconstruct.l2 = 1.0
  config.reconstruct.quantize = 1.0
  if arg.recipe == 'full':
    # Start, warm-up, blur, augmentation, consistency and the discriminator's
    # optimiser are the defaults, which are vaex's.
    config.ema = 0.9999
    config.reconstruct.perceptual.backbone = 'lpips_vgg16'
    config.reconstruct.perceptual.weight = 1.0
    config.reconstruct.adversarial.discriminator = 'dino'
    config.reconstruct.adversarial.weight = 0.4
  optim = config.optim
  optim.lr = 3e-4
  optim.lr_reference_batch = 0
  optim.schedule = 'cos'
  optim.warmup = duration(frac=0.01)
  optim.warmup_start = 0.005
  optim.final = 0.3
  optim.beta1, optim.beta2 = 0.5, 0.9
  optim.weight_decay = 0.005
  optim.clip_norm = 10.0
  config.evaluate = duration(epochs=10)
  config.checkpoint = duration(epochs=10)
  return config
