"""A block's element-wise work between two products, in one kernel each way.

For NVIDIA GPUs, in Pallas for its Triton back end. XLA reads a stream again
for every statistic of its rows and for every sum over its positions; here a
row stays in registers until all that needs it is done.

  rows.py      how the kernels load and store; which widths they take
  kernels.py   the kernels, forwards and backwards
  modulate.py  the differentiable functions, on one device or a mesh
"""
