"""Errors that a person can act on.

Every failure that bad input can cause is one of these: one sentence that
names the offending key, file or run and says what is allowed. The command
line prints the sentence alone and exits with `exit_code`; a traceback is
kept for defects in varjax itself.
"""


class VarjaxError(Exception):
  """Base of every error that bad input can cause."""

  exit_code = 2


class ConfigError(VarjaxError):
  """An unknown key, a wrong type or an impossible combination."""


class DataError(VarjaxError):
  """A dataset, code shard or image that is missing or not what it claims."""


class Stalled(DataError):
  """A source of data gave nothing for too long; trying again may help."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h


class CheckpointError(VarjaxError):
  """A checkpoint or workdir that is missing, corrupt or of another run."""


class NotWritten(VarjaxError):
  """The disk is full or broken; with room, the same command resumes."""

  exit_code = 75


class PeerLost(VarjaxError):
  """Another process of the run is gone; starting all again resumes."""

  exit_code = 75


class RecordError(VarjaxError):
  """A record file that cannot be read, or of an unknown schema."""


class LaunchError(VarjaxError):
  """A sweep that cannot be started, or is running already."""


class TrainingStopped(VarjaxError):
  """Training ended early for a reason the user must look at (a NaN)."""

  exit_code = 4


class FitRefused(VarjaxError):
  """The data cannot support the fit that was asked for."""

  exit_code = 3


class DoesNotFit(VarjaxError):
  """A run needs more memory than its devices have."""

  exit_code = 5


class Interrupted(VarjaxError):
  """A stop signal arrived; the state was saved and the run can go on."""

  exit_code = 143
