"""The constants of a frozen TensorFlow graph, read without TensorFlow.

A GraphDef is protocol buffer data: nodes with a name, an operation and
attributes. Only constants and two attributes of batch normalisations are
looked at; nothing is executed, and no more is allocated than the file has.
"""

from __future__ import annotations

from collections.abc import Iterator
import math
import os
import struct
from typing import NamedTuple

import numpy as np

from varjax import errors

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DT_FLOAT = 1
# Field numbers of tensorflow/core/framework: graph, node_def, attr_value,
# tensor and tensor_shape.
_GRAPH_NODE = 1
_NODE_NAME, _NODE_OP, _NODE_ATTR = 1, 2, 5
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VALUE_FLOAT, _VALUE_BOOL, _VALUE_TENSOR = 4, 5, 8
_TENSOR_TYPE, _TENSOR_SHAPE, _TENSOR_CONTENT, _TENSOR_FLOATS = 1, 2, 4, 5
_SHAPE_DIM, _DIM_SIZE = 2, 1


class Node(NamedTuple):
  """A node: its operation, its constant, and its plain attributes."""

  operation: str
  value: np.ndarray | None
  attributes: dict[str, float]


def read(path: str | os.PathLike[str]) -> dict[str, Node]:
  """The nodes of a frozen graph, by name; constants of float32 with values.

  Raises:
    CheckpointError: missing, truncated, or not a GraphDef.
  """
  path = os.fspath(path)
  try:
    with open(path, 'rb') as file:
      data = memoryview(file.read())
  except OSError as error:
    raise errors.CheckpointError(
      f'{path}: cannot be opened ({error.strerror})'
    ) from error
  nodes: dict[str, Node] = {}
  try:
    for field, value in _fields(data):
      if field == _GRAPH_NODE and isinstance(value, memoryview):
        name, node = _node(value)
        nodes[name] = node
  except (ValueError, struct.error, UnicodeDecodeError) as error:
    raise errors.CheckpointError(
      f'{path}: not a frozen graph of TensorFlow ({error})'
    ) from error
  if not nodes:
    raise errors.CheckpointError(f'{path}: a graph without nodes')
  return nodes


def _node(data: memoryview) -> tuple[str, Node]:
  name, operation = '', ''
  value, attributes = None, {}
  for field, content in _fields(data):
    if field == _NODE_NAME:
      name = _text(content)
    elif field == _NODE_OP:
      operation = _text(content)
    elif field == _NODE_ATTR:
      key, found = _attribute(content)
      if isinstance(found, np.ndarray):
        value = found
      elif found is not None:
        attributes[key] = found
  return name, Node(operation, value, attributes)


def _attribute(data) -> tuple[str, np.ndarray | float | None]:
  key, found = '', None
  for field, content in _fields(_message(data)):
    if field == _ENTRY_KEY:
      key = _text(content)
    elif field == _ENTRY_VALUE:
      for kind, value in _fields(_message(content)):
        if kind == _VALUE_TENSOR:
          found = _tensor(_message(value))
        elif kind == _VALUE_BOOL:
          found = float(value)
        elif kind == _VALUE_FLOAT:
          found = struct.unpack('<f', value)[0]
  return key, found


def _tensor(data: memoryview) -> np.ndarray | None:
  """A float32 constant; None of another type."""
  kind, shape, content = 0, (), b''
  for field, value in _fields(data):
    if field == _TENSOR_TYPE:
      kind = value
    elif field == _TENSOR_SHAPE:
      shape = tuple(_shape(_message(value)))
    elif field == _TENSOR_CONTENT:
      content = _message(value)
    elif field == _TENSOR_FLOATS:
      # Packed, or one number at a time.
      content = bytes(content) + bytes(_message(value))
  if kind != _DT_FLOAT:
    return None
  count = math.prod(shape)
  if len(content) != 4 * count:
    raise ValueError(
      f'a constant of shape {list(shape)} has {len(content)} bytes'
    )
  return np.frombuffer(content, '<f4').reshape(shape)


def _shape(data: memoryview) -> Iterator[int]:
  for field, value in _fields(data):
    if field == _SHAPE_DIM:
      # A size of 0 is left out, as every default is.
      sizes = [v for f, v in _fields(_message(value)) if f == _DIM_SIZE]
      yield int(sizes[-1]) if sizes else 0


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
  """(number, value) of each field of a message; fixed sizes as bytes."""
  position = 0
  while position < len(data):
    tag, position = _varint(data, position)
    wire = tag & 7
    if wire == _VARINT:
      value, position = _varint(data, position)
    elif wire in (_FIXED32, _FIXED64, _BYTES):
      length = {_FIXED32: 4, _FIXED64: 8}.get(wire, 0)
      if wire == _BYTES:
        length, position = _varint(data, position)
      if length > len(data) - position:
        raise ValueError('a field is longer than what is left of the file')
      value = data[position : position + length]
      position += length
    else:
      raise ValueError(f'a field of the unknown kind {wire}')
    yield tag >> 3, value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
  value = 0
  for shift in range(0, 70, 7):
    if position >= len(data):
      raise ValueError('the file ends inside a number')
    byte = data[position]
    position += 1
    value |= (byte & 127) << shift
    if byte < 128:
      return value, position
  raise ValueError('a number of more than ten bytes')


def _message(value) -> memoryview:
  if not isinstance(value, memoryview):
    raise ValueError('a number where a message was expected')
  return value


def _text(value) -> str:
  return bytes(_message(value)).decode()
