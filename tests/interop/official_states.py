"""Random states under official names, for configs of any kind."""

from flax.core import meta
import jax
import numpy as np

from varjax.interop import official_vae, official_var
from varjax.orders import make_order
from varjax.spec import OrderSpec
from varjax.tokenizers import make_tokenizer

CONFIG = {
  'ch': 8, 'ch_mult': (1, 2, 1), 'num_res_blocks': 1, 'norm_groups': 4,
  'Cvae': 4, 'V': 16, 'quant_conv_ks': 1, 'share_quant_resi': 2,
  'patch_nums': (1, 2, 4), 'depth': 3, 'embed_dim': 24, 'num_heads': 3,
  'mlp_ratio': 2.5, 'num_classes': 5, 'shared_aln': True,
  'attn_l2_norm': True,
}  # fmt: skip


def states(**changes):
  """Random states as the official constructors with a config make them."""
  config = CONFIG | changes
  tokenizer_spec = official_vae.spec_from_config(config)
  model_spec = official_var.spec_from_config(config)
  layout = make_order(OrderSpec(), tokenizer_spec).layout
  rng = np.random.default_rng(0)

  def fill(shape):
    return rng.normal(size=shape).astype(np.float32)

  tokenizer = make_tokenizer(tokenizer_spec, 16)
  shapes = jax.eval_shape(
    lambda: meta.unbox(tokenizer.init(jax.random.key(0), 16))
  )
  vae = official_vae.to_official(
    tokenizer_spec, jax.tree.map(lambda s: fill(s.shape), shapes)
  )
  params = {}
  for path, (name, _) in official_var.names(model_spec).items():
    shape = official_var._shape(path, model_spec, layout)
    blocks = (model_spec.depth,) if '#' in name else ()
    official_var._set(params, path, fill((*blocks, *shape)))
  return vae, official_var.to_official(model_spec, layout, params)
