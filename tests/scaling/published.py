"""What the tests against other people's open data share."""


def surface_columns(data, n='params', d='tokens'):
  """Columns N and D of a table, as a form reads them."""
  return {'n': data[n].to_numpy(float), 'd': data[d].to_numpy(float)}


def objective_at(found, params):
  """The objective of a fit at other parameters than its own."""
  theta = found.form.to_theta(params, found.scale)
  value = found.problem.value(theta[None])[0]
  return float(value * found.objective.factor)
