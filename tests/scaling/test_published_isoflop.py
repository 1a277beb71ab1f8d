"""T3 to T5: exponents of isoFLOP minima, from open data.

The runs of Chinchilla, Llama 3 and Misfitting, and the chain of corrections
of Porian et al. (2406.19146) from Kaplan's exponent to Hoffmann's.
"""

import numpy as np
import pandas as pd
import pytest

from varjax.scaling import fit, forms, isoflop, optimum, vpnls


@pytest.mark.parametrize(
  ('experiment', 'a', 'lo', 'hi', 'a_vpnls', 'a_huber'),
  [
    ('epochai_chinchilla__massivetext__chinchilla',
     0.541, 0.492, 0.556, 0.5346, 0.5385),
    ('llama_3__exp_loss', 0.495, 0.485, 0.509, 0.5077, 0.5288),
    ('llama_3__raw_loss', 0.500, 0.488, 0.512, 0.4994, 0.5091),
    ('misfitting__fineweb_c4__transformer',
     0.523, 0.492, 0.587, 0.5243, 0.5087),
  ],
)  # fmt: skip
def test_t3_t4_isoflop(
  scaling_data_dir, experiment, a, lo, hi, a_vpnls, a_huber
):
  data = pd.read_csv(
    scaling_data_dir / 'isoflops_llama3_chinchilla_misfitting.csv'
  )
  data = data[(data['experiment'] == experiment) & ~data['outlier']]
  frame = pd.DataFrame(
    {
      'n': data['params'], 'd': data['tokens'], 'c': data['budget'],
      'y': data['loss'],
    }
  )  # fmt: skip
  found = isoflop.isoflop(frame, replicates=400)
  assert found.exponent == pytest.approx(a, abs=0.005)
  assert found.interval == pytest.approx((lo, hi), abs=0.012)
  columns = {'n': frame['n'], 'd': frame['d']}
  surface = vpnls.fit_vpnls(forms.CHINCHILLA, columns, frame['y'])
  split = optimum.exponents(surface.params)
  assert split['a'] == pytest.approx(a_vpnls, abs=1e-4)
  surface = fit.fit(forms.CHINCHILLA, columns, frame['y'], starts=20)
  split = optimum.exponents(surface.params)
  assert split['a'] == pytest.approx(a_huber, abs=1e-4)


def test_t5_porian_chain(scaling_data_dir):
  pairs = pd.read_csv(scaling_data_dir / 'porian_rw_optimal_pairs.csv')
  targets = pd.read_csv(scaling_data_dir / 'porian_rw_targets.csv')
  points = pd.read_csv(scaling_data_dir / 'porian_rw_isoflop_points.csv')
  targets = targets.set_index('config')
  chain = []
  for config, group in pairs.groupby('config', sort=False):
    weights = 1 / group['n_star_logstd'] ** 2
    found, _ = isoflop.line(group['flops'], group['n_star'], weights)
    assert found == pytest.approx(targets.loc[config, 'a_weighted'], abs=5e-5)
    chain.append(found)
  assert chain[:5] == pytest.approx(
    [0.8353, 0.7065, 0.6020, 0.5715, 0.4969], abs=5e-5
  )
  # The chain from its second step on, with attention FLOPs.
  assert [
    targets.loc[c, 'a_weighted'] for c in targets.index if 'attention' in c
  ] == pytest.approx([0.7171, 0.6223, 0.5772, 0.5053], abs=5e-5)
  # From the raw points, local interpolation comes nearer to the published
  # exponents than parabolas over the wide grids.
  off = {'akima': [], 'parabola': []}
  naive = []
  for config in list(targets.index[:5]):
    group = points[points['config'] == config]
    frame = group.rename(
      columns={'params': 'n', 'tokens': 'd', 'flops': 'c', 'loss': 'y'}
    )
    for method, errors in off.items():
      found = isoflop.isoflop(frame, method=method, replicates=0)
      errors.append(abs(found.exponent - targets.loc[config, 'a_weighted']))
    # Most budgets of two sets have no valid minimum: refused but for force.
    logs = frame.assign(y=np.log(frame['y']))
    naive.append(isoflop.isoflop(logs, replicates=0, force=True).exponent)
  assert max(off['akima']) < 0.01
  assert max(off['parabola']) > 0.05
  assert naive == pytest.approx([0.778, 0.740, 0.698, 0.569, 0.516], abs=5e-4)
