"""Sizes of the official VAR models, as their PyTorch code builds them.

With 1000 classes, and a tokenizer of 4096 codes of 32 channels.
"""

SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
# Of each depth at 256 pixels, and of depth 36 at 512 with a shared AdaLN.
PARAMETERS = {
  6: 18_492_580,
  8: 41_315_904,
  10: 78_367_716,
  12: 133_186_960,
  14: 209_312_580,
  16: 310_283_520,
  18: 439_638_724,
  20: 600_917_136,
  22: 797_657_700,
  24: 1_033_399_360,
  26: 1_311_681_060,
  28: 1_636_041_744,
  30: 2_010_020_356,
  36: 3_465_053_200,
}
PARAMETERS_512 = 2_353_893_904
